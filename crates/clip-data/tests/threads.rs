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

/// The address of a tar that a server of this process gives to all who ask.
#[cfg(feature = "object-store")]
fn serve(tar: Vec<u8>) -> String {
    use std::io::{Read, Write};

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/a.tar", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut head = [0; 4096];
            let Ok(read) = stream.read(&mut head) else {
                continue;
            };
            let found = head[..read].starts_with(b"GET /a.tar ");
            let (status, body) = if found {
                ("200 OK", &tar[..])
            } else {
                ("404 Not Found", &[][..])
            };
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            stream
                .write_all(head.as_bytes())
                .and_then(|()| stream.write_all(body))
                .ok();
        }
    });
    address
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
    let tokenizer = Arc::new(Tokenizer::clip());
    #[cfg(feature = "object-store")]
    {
        let shards = ShardSet::parse(&serve(std::fs::read(&path).unwrap())).unwrap();
        let loader = TrainLoader::new(shards, Arc::clone(&tokenizer), config.clone()).unwrap();
        let mut iter = loader.iter();
        iter.next().unwrap().unwrap();
        wait_for(|threads| threads == 6);
        drop(iter);
        drop(loader);
        wait_for(|threads| threads == 0);
    }
    let shards = ShardSet::from_paths(vec![path]);
    let loader = TrainLoader::new(shards, tokenizer, config).unwrap();
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
