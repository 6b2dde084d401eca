//! Images a second of one core: `cargo run --release -p clip-data --example throughput -- SHARDS [SIZE]`.
//!
//! Reads all samples into memory first, then times decoding, cropping and tokenizing apart.

use std::{
    collections::BTreeMap,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use burn::data::dataloader::DataLoader;
use clip_data::{
    ImageResizer, LoaderConfig, RandomResizedCrop, RawSample, ShardItem, ShardSet, Tokenizer,
    TrainLoader, decode,
};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let shards = ShardSet::parse(&args.next().ok_or("give shards")?)?;
    let size: usize = args.next().map_or(Ok(224), |size| size.parse())?;
    let mut samples: Vec<RawSample> = Vec::new();
    for shard in 0..shards.len() {
        samples.extend(shards.open(shard)?.filter_map(|item| match item {
            ShardItem::Sample(sample) => Some(sample),
            ShardItem::Fault(..) => None,
        }));
    }
    let tokenizer = Arc::new(Tokenizer::clip());
    let mut resizer = ImageResizer::new(size);
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut times: BTreeMap<&str, Duration> = BTreeMap::new();
    for sample in &samples {
        let start = Instant::now();
        let image = decode(&sample.image).map_err(|kind| kind.to_string())?;
        let decoded = Instant::now();
        let part = RandomResizedCrop::default().draw(image.width, image.height, &mut rng);
        black_box(resizer.crop(&image, part));
        let cropped = Instant::now();
        black_box(tokenizer.encode(&sample.captions[0], 77));
        *times.entry("decode").or_default() += decoded - start;
        *times.entry("crop").or_default() += cropped - decoded;
        *times.entry("tokenize").or_default() += cropped.elapsed();
    }
    let all: Duration = times.values().sum();
    times.insert("all", all);
    for (stage, time) in times {
        let rate = samples.len() as f64 / time.as_secs_f64();
        println!("{stage:>9}: {rate:9.0} a second on one thread");
    }
    for workers in [1, 0] {
        let config = LoaderConfig {
            image_size: size,
            workers,
            batch: 256.min(samples.len()),
            ..LoaderConfig::default()
        };
        let loader = TrainLoader::new(shards.clone(), Arc::clone(&tokenizer), config)?;
        let start = Instant::now();
        let mut images = 0;
        for batch in loader.iter() {
            images += batch?.batch;
            if images >= samples.len() {
                break;
            }
        }
        let rate = images as f64 / start.elapsed().as_secs_f64();
        let what = if workers == 1 {
            "1 worker"
        } else {
            "all cores"
        };
        println!("   loader: {rate:9.0} a second with {what}, start included");
    }
    Ok(())
}
