//! What the fuzz targets share.

use std::{fs, path::PathBuf, sync::LazyLock};

use clip_data::{ShardItem, ShardSet};
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> =
    LazyLock::new(|| tempfile::tempdir().expect("TMPDIR is writable"));

/// A file of this process, replaced by each call.
pub fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = FOLDER.path().join(name);
    fs::write(&path, bytes).expect("TMPDIR has room");
    path
}

/// Lets a panic pass that the library catches: fuzzing would end at its hook. Those that nobody catches still end it.
pub fn allow_caught_panics() {
    std::panic::set_hook(Box::new(|info| eprintln!("{info}")));
}

/// All items of a set, which are as many as were counted, read whole or by their headers.
pub fn items(set: &ShardSet) -> Vec<ShardItem> {
    let mut items = Vec::new();
    for (shard, count) in set.count().expect("it is there").iter().enumerate() {
        let found: Vec<ShardItem> = set.open(shard).expect("it is there").collect();
        assert_eq!(found.len() as u64, count.items);
        let headers = set.open(shard).expect("it is there").headers_only();
        assert_eq!(headers.count(), found.len());
        items.extend(found);
    }
    for item in &items {
        if let ShardItem::Sample(sample) = item {
            assert!(sample.class.is_some() || !sample.captions.is_empty());
            assert!(
                sample
                    .captions
                    .iter()
                    .all(|caption| !caption.trim().is_empty())
            );
        }
    }
    items
}
