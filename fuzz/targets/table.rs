//! A CSV file of any bytes behind a header.

#![no_main]

use clip_data::ShardSet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|rows: &[u8]| {
    let bytes = [b"filepath,title\n", rows].concat();
    let path = clip_fuzz::file("a.csv", &bytes);
    // A table without rows is refused.
    if let Ok(set) = ShardSet::parse(&path.display().to_string()) {
        clip_fuzz::items(&set);
    }
});
