//! Alone in its process, so that the threads it counts are its own.
#![cfg(target_os = "linux")]

use std::{io::Cursor, sync::Arc};

use burn::data::dataloader::DataLoader;
use clip_data::{LoaderConfig, ShardSet, Tokenizer, TrainLoader};

fn loader_threads() -> usize {
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .filter(|name| name.starts_with("clip-"))
        .count()
}

/// Names appear, and joined threads vanish, a moment later in `/proc`.
fn wait_for(expected: impl Fn(usize) -> bool) {
    for _ in 0..500 {
        if expected(loader_threads()) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{} threads after five seconds", loader_threads());
}

#[test]
fn a_stream_dropped_midway_leaves_no_thread() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&path).unwrap());
    let image = image::RgbImage::from_pixel(20, 20, image::Rgb([1, 2, 3]));
    let mut png = Cursor::new(Vec::new());
    image.write_to(&mut png, image::ImageFormat::Png).unwrap();
    let mut add = |name: String, body: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(body.len() as u64);
        header.set_entry_type(tar::EntryType::Regular);
        tar.append_data(&mut header, name, body).unwrap();
    };
    for number in 0..40 {
        add(format!("{number}.png"), png.get_ref());
        add(format!("{number}.txt"), b"a picture");
    }
    tar.finish().unwrap();
    let config = LoaderConfig {
        batch: 4,
        image_size: 16,
        workers: 3,
        ..LoaderConfig::default()
    };
    let shards = ShardSet::from_paths(vec![path]);
    let loader = TrainLoader::new(shards, Arc::new(Tokenizer::clip()), config).unwrap();
    for batches in [0, 1, 25] {
        let mut iter = loader.iter();
        for _ in 0..batches {
            iter.next().unwrap().unwrap();
        }
        wait_for(|threads| threads == 5);
        drop(iter);
        wait_for(|threads| threads == 0);
    }
}
