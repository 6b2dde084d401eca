//! A sound tar whose one sample has any JSON, text and class.

#![no_main]

use clip_data::{ShardItem, ShardSet};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|members: (&[u8], &[u8], &[u8])| {
    let (json, text, class) = members;
    let mut tar = tar::Builder::new(Vec::new());
    for (name, body) in [
        ("a.jpg", &b"image"[..]),
        ("a.json", json),
        ("a.txt", text),
        ("a.cls", class),
    ] {
        // A member that is empty is left out, so that all combinations occur.
        if !body.is_empty() {
            let mut header = tar::Header::new_gnu();
            header.set_size(body.len() as u64);
            tar.append_data(&mut header, name, body)
                .expect("memory takes it");
        }
    }
    let bytes = tar.into_inner().expect("memory takes it");
    let items = clip_fuzz::items(&ShardSet::from_paths(vec![clip_fuzz::file(
        "a.tar", &bytes,
    )]));
    assert_eq!(items.len(), 1);
    let (ShardItem::Sample(clip_data::RawSample { key, .. }) | ShardItem::Fault(_, key)) =
        &items[0];
    assert_eq!(key, "a");
});
