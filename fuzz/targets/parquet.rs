//! A Parquet file of any bytes. The library catches its reader's panics.

#![no_main]

use clip_data::ShardSet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: clip_fuzz::allow_caught_panics(), |bytes: &[u8]| {
    let path = clip_fuzz::file("a.parquet", bytes);
    let Ok(set) = ShardSet::parse(&path.display().to_string()) else {
        return;
    };
    for shard in 0..set.len() {
        if let Ok(reader) = set.open(shard) {
            // A damaged footer may claim any number of rows; each is an item until one can't be read.
            reader.take(1000).for_each(drop);
        }
    }
});
