//! Small training runs, for tests of what becomes of them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Child,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::Folder;

/// Small enough to take a few steps a second, and with a vocabulary of its own.
pub(crate) const PRESET: &str = r#"{"embed_dim": 16, "vision_cfg": {"image_size": 16, "layers": 2, "width": 32,
    "head_width": 16, "patch_size": 8}, "text_cfg": {"context_length": 12, "vocab_size": 540,
    "width": 32, "heads": 2, "layers": 2}}"#;

/// A folder with two shards to train on, one to evaluate on, and the preset.
pub(crate) fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("tiny.json", PRESET.as_bytes());
    folder.shard("train-0.tar", 40);
    folder.shard("train-1.tar", 40);
    folder
}

/// `clip pretrain` in ten steps of eight, two of them between checkpoints.
pub(crate) fn pretrain<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let steps: &[&str] = if more.contains(&"--steps") {
        &[]
    } else {
        &["--steps", "10"]
    };
    let args = [
        "pretrain",
        "--train",
        "train-{0..1}.tar",
        "--preset",
        "tiny.json",
        "--batch",
        "8",
        "--checkpoint-steps",
        "2",
        "--out",
        out,
    ];
    [&args[..], steps, more].concat()
}

pub(crate) fn weights(folder: &Folder, out: &str) -> Vec<u8> {
    model_weights(folder, &format!("{out}/model"))
}

pub(crate) fn model_weights(folder: &Folder, dir: &str) -> Vec<u8> {
    let path = folder.path(dir).join("open_clip_model.safetensors");
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn metrics(folder: &Folder, out: &str) -> Vec<Value> {
    let text = fs::read_to_string(folder.path(out).join("metrics.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Waits until the run has written a checkpoint.
pub(crate) fn checkpoint(folder: &Folder, out: &str, clip: &mut Child) {
    let path = folder.path(out).join("checkpoints");
    let begun = Instant::now();
    let whole = |path: &Path| {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let mut names = entries.map(|entry| entry.file_name());
        names.any(|name| !name.to_string_lossy().contains("partial"))
    };
    while !whole(&path) {
        assert!(clip.try_wait().unwrap().is_none(), "the run ended early");
        assert!(begun.elapsed() < Duration::from_mins(2), "no checkpoint");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Steps whose checkpoint is there, whole or not, rising.
pub(crate) fn checkpoints(folder: &Folder, out: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.path(out).join("checkpoints"));
    let mut paths: Vec<PathBuf> = entries
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_none())
        .collect();
    paths.sort();
    paths
}
