//! A tar of any bytes, compressed or not: no panic, no hang, and as many items by its headers as in full.

#![no_main]

use clip_data::ShardSet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    clip_fuzz::items(&ShardSet::from_paths(vec![clip_fuzz::file("a.tar", bytes)]));
});
