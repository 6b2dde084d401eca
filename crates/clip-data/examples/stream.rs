//! Memory while shards stream: `cargo run --release -p clip-data --example stream -- DIR GIGABYTES`.
//!
//! Makes shards of photographs' size in the folder, streams them once as training does, and prints the peak of
//! memory after each part. The peak must not depend on how much has gone by.

use std::{fs::File, io::BufWriter, path::Path, sync::Arc, time::Instant};

use burn::data::dataloader::DataLoader;
use clip_data::{LoaderConfig, ShardSet, Tokenizer, TrainLoader};
use image::codecs::jpeg::JpegEncoder;
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

/// Bytes of a shard; web data sets use some hundred megabytes.
const SHARD_BYTES: u64 = 128 << 20;

/// Shards that are written; the others are further names of theirs, so that no disk need hold them all.
const WRITTEN: u64 = 8;

/// Parts of the stream after which the peak is printed.
const PARTS: u64 = 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args
        .next()
        .ok_or("give a folder and a number of gigabytes")?;
    let gigabytes: f64 = args.next().ok_or("give a number of gigabytes")?.parse()?;
    let shards = (gigabytes * 1e9 / SHARD_BYTES as f64).ceil() as u64;
    let pictures = pictures()?;
    let mut bytes = 0;
    let path = |shard: u64| Path::new(&dir).join(format!("s-{shard:05}.tar"));
    for shard in 0..shards {
        bytes += if shard < WRITTEN {
            write_shard(&path(shard), shard, &pictures)?
        } else {
            std::fs::hard_link(path(shard % WRITTEN), path(shard))?;
            std::fs::metadata(path(shard))?.len()
        };
    }
    println!("{:.2} GB in {shards} shards", bytes as f64 / 1e9);
    println!("memory before: {} MB", peak_mb());
    let set = ShardSet::parse(&format!("{dir}/s-*.tar"))?;
    let loader = TrainLoader::new(set, Arc::new(Tokenizer::clip()), LoaderConfig::default())?;
    let all = loader.samples_per_epoch();
    let start = Instant::now();
    let (mut images, mut told) = (0, 0);
    for batch in loader.iter() {
        images += batch?.batch as u64;
        if images * PARTS / all > told {
            told = images * PARTS / all;
            println!("{images:9} of {all} images, peak {} MB", peak_mb());
        }
        if images >= all {
            break;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{:.0} images/s, {:.0} MB/s",
        images as f64 / seconds,
        bytes as f64 / 1e6 / seconds
    );
    Ok(())
}

/// Some JPEGs of 500 by 375 pixels and 20 to 150 KB.
fn pictures() -> Result<Vec<Vec<u8>>, image::ImageError> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let picture = |number: u32| {
        let noise = number * 4;
        let pixel = |x: u32, y: u32| {
            let mut channel = |slope: u32| {
                let wave = (x * slope + y * (number + 1)) / 4 % 256;
                (wave + rng.next_u32() % (noise + 1)).min(255) as u8
            };
            image::Rgb([channel(1), channel(2), channel(3)])
        };
        let mut bytes = Vec::new();
        image::RgbImage::from_fn(500, 375, pixel)
            .write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, 90))?;
        Ok(bytes)
    };
    (0..32).map(picture).collect()
}

fn write_shard(path: &Path, shard: u64, pictures: &[Vec<u8>]) -> std::io::Result<u64> {
    let mut tar = tar::Builder::new(BufWriter::new(File::create(path)?));
    let (mut written, mut number) = (0, 0_usize);
    while written < SHARD_BYTES {
        let picture = &pictures[number % pictures.len()];
        let caption = format!("picture {number} of shard {shard}");
        for (extension, body) in [("jpg", picture.as_slice()), ("txt", caption.as_bytes())] {
            let mut header = tar::Header::new_gnu();
            header.set_size(body.len() as u64);
            tar.append_data(
                &mut header,
                format!("{shard:05}{number:06}.{extension}"),
                body,
            )?;
            written += body.len() as u64;
        }
        number += 1;
    }
    tar.finish()?;
    Ok(written)
}

/// The most memory this process has held, in MB; 0 where the system doesn't say.
fn peak_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1000
}
