//! Ten thousand damaged tars, images and captions: none may end the process or hang, and good samples stay.

use std::io::{Cursor, Write};

use clip_data::{FaultKind, ShardItem, ShardReader, Tokenizer, decode};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

fn below(rng: &mut ChaCha8Rng, bound: usize) -> usize {
    (rng.next_u64() % bound.max(1) as u64) as usize
}

/// Some of what transfers, disks and bad programs do to bytes.
fn damage(rng: &mut ChaCha8Rng, bytes: &mut Vec<u8>) {
    for _ in 0..=below(rng, 6) {
        let at = below(rng, bytes.len());
        let length = below(rng, 64).min(bytes.len() - at);
        match below(rng, 7) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..at + length)),
            2 => {
                let copy = bytes[at..at + length].to_vec();
                bytes.splice(at..at, copy);
            }
            3 => bytes[at..at + length].fill([0, 0xff, b'7', b' '][below(rng, 4)]),
            4 => rng.fill_bytes(&mut bytes[at..at + length]),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << below(rng, 8);
                }
            }
        }
    }
}

fn encoded(format: image::ImageFormat) -> Vec<u8> {
    let pixel = |x, y| image::Rgb([(x * 9) as u8, (y * 7) as u8, ((x * y) % 251) as u8]);
    let mut bytes = Cursor::new(Vec::new());
    image::RgbImage::from_fn(24, 18, pixel)
        .write_to(&mut bytes, format)
        .unwrap();
    bytes.into_inner()
}

/// Samples `k0`, ... of two members each, and where each of them begins.
fn tar(samples: usize) -> (Vec<u8>, Vec<usize>) {
    let mut builder = tar::Builder::new(Vec::new());
    let mut starts = Vec::new();
    for number in 0..samples {
        starts.push(builder.get_ref().len());
        for (name, body) in [
            (format!("k{number}.jpg"), vec![number as u8; 700]),
            (
                format!("k{number}.json"),
                br#"{"captions": ["one", "two"]}"#.to_vec(),
            ),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_size(body.len() as u64);
            builder
                .append_data(&mut header, name, body.as_slice())
                .unwrap();
        }
    }
    (builder.into_inner().unwrap(), starts)
}

fn read(path: &std::path::Path, bytes: &[u8]) -> Vec<ShardItem> {
    std::fs::write(path, bytes).unwrap();
    let items: Vec<ShardItem> = ShardReader::open(path, 0).unwrap().collect();
    let headers = ShardReader::open(path, 0).unwrap().headers_only().count();
    assert_eq!(headers, items.len(), "the count is that of a full reading");
    items
}

fn is_sample(item: &ShardItem, key: &str) -> bool {
    matches!(item, ShardItem::Sample(sample) if sample.key == key)
}

#[test]
fn damaged_tars_keep_the_samples_before_the_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar");
    let (good, starts) = tar(6);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..2_500 {
        let whole = below(&mut rng, starts.len());
        let mut end = good[starts[whole]..].to_vec();
        damage(&mut rng, &mut end);
        let bytes = [&good[..starts[whole]], &end].concat();
        let items = read(&path, &bytes);
        // The last of them ends where another begins; if its own name follows once more, it may go on.
        for number in 0..whole.saturating_sub(1) {
            assert!(
                is_sample(&items[number], &format!("k{number}")),
                "{items:?}"
            );
        }
    }
}

#[test]
fn a_damaged_body_costs_its_own_sample_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar");
    let (good, starts) = tar(6);
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for _ in 0..1_000 {
        let hit = below(&mut rng, starts.len());
        let mut bytes = good.clone();
        // The body of the captions.
        let body = starts[hit] + 512 + 1024 + 512;
        rng.fill_bytes(&mut bytes[body..body + 20]);
        let items = read(&path, &bytes);
        assert_eq!(items.len(), 6);
        for (number, item) in items.iter().enumerate() {
            let key = format!("k{number}");
            let bad = matches!(item, ShardItem::Fault(FaultKind::BadJson, name) if *name == key);
            assert!(is_sample(item, &key) || (number == hit && bad), "{item:?}");
        }
    }
}

#[test]
fn damaged_compressed_tars_end_with_a_fault_or_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar");
    let (good, _) = tar(6);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&good).unwrap();
    let packed = [
        gzip.finish().unwrap(),
        zstd::encode_all(&good[..], 1).unwrap(),
    ];
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for round in 0..1_500 {
        let mut bytes = packed[round % 2].clone();
        damage(&mut rng, &mut bytes);
        read(&path, &bytes);
    }
}

#[test]
fn damaged_images_are_decoded_or_refused() {
    use image::ImageFormat::{Bmp, Gif, Jpeg, Png, WebP};
    let good = [Jpeg, Png, WebP, Gif, Bmp].map(encoded);
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for round in 0..5_000 {
        let mut bytes = good[round % good.len()].clone();
        damage(&mut rng, &mut bytes);
        if let Ok(image) = decode(&bytes) {
            assert_eq!(image.pixels.len(), image.width * image.height * 3);
        }
    }
}

#[test]
fn damaged_captions_become_tokens() {
    let tokenizer = Tokenizer::clip();
    let text = "caf\u{e9} &amp;amp; \u{72ac}\u{304c}\u{8d70}\u{308b} \u{1f415}\u{200d} cafÃ© <b>it's</b> 1,234";
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for _ in 0..2_000 {
        let mut bytes = text.as_bytes().to_vec();
        damage(&mut rng, &mut bytes);
        let ids = tokenizer.encode(&String::from_utf8_lossy(&bytes), 77).ids;
        assert!((2..=77).contains(&ids.len()));
        assert_eq!((ids[0], ids[ids.len() - 1]), (49_406, 49_407));
    }
}
