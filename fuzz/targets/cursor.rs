//! Any cursor is refused or goes on: what a damaged checkpoint may hold.

#![no_main]

use std::sync::{Arc, LazyLock};

use burn::data::dataloader::DataLoader;
use clip_data::{Cursor, LoaderConfig, ShardSet, Tokenizer, TrainLoader};
use libfuzzer_sys::fuzz_target;

/// A PNG of one pixel.
const IMAGE: &[u8] = include_bytes!("pixel.png");

static LOADER: LazyLock<TrainLoader> = LazyLock::new(|| {
    let mut tar = tar::Builder::new(Vec::new());
    for number in 0..10 {
        for (extension, body) in [("png", IMAGE), ("txt", b"a pixel")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(body.len() as u64);
            let name = format!("{number}.{extension}");
            tar.append_data(&mut header, name, body)
                .expect("memory takes it");
        }
    }
    let bytes = tar.into_inner().expect("memory takes it");
    let config = LoaderConfig {
        batch: 4,
        image_size: 1,
        shuffle_buffer: 3,
        workers: 1,
        ..LoaderConfig::default()
    };
    let shards = ShardSet::from_paths(vec![clip_fuzz::file("a.tar", &bytes)]);
    TrainLoader::new(shards, Arc::new(Tokenizer::clip()), config).expect("it fills a batch")
});

fuzz_target!(|json: &[u8]| {
    let Ok(cursor) = serde_json::from_slice::<Cursor>(json) else {
        return;
    };
    if let Ok(loader) = LOADER.clone().starting_at(cursor) {
        let batch = loader.iter().next().expect("the stream has no end");
        assert_eq!(batch.expect("all samples are good").batch, 4);
    }
});
