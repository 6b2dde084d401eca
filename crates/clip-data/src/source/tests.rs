use rand_chacha::rand_core::{Rng, SeedableRng};

use super::*;
use crate::{
    DataError, FaultKind,
    testing::{Tar, compressed, png, sources, write},
};

fn items(list: &str) -> Vec<ShardItem> {
    let set = ShardSet::parse(list).unwrap();
    let counts = set.count().unwrap();
    let mut items = Vec::new();
    for (shard, count) in counts.iter().enumerate() {
        let found: Vec<ShardItem> = set.open(shard).unwrap().collect();
        assert_eq!(found.len() as u64, count.items, "{}", set.name(shard));
        let headers = set.open(shard).unwrap().headers_only().count();
        assert_eq!(headers, found.len(), "{}", set.name(shard));
        let mut reader = set.open(shard).unwrap();
        for item in &found {
            let (start, _) = reader.next_located().unwrap();
            if matches!(item, ShardItem::Sample(_)) {
                assert_eq!(&set.read_at(shard, start), item, "{}", set.name(shard));
            }
        }
        items.extend(found);
    }
    items
}

fn described(items: &[ShardItem]) -> Vec<String> {
    let describe = |item: &ShardItem| match item {
        ShardItem::Sample(sample) => format!("{}={}", sample.key, sample.captions.join("|")),
        ShardItem::Fault(kind, key) => format!("{key}: {kind}"),
    };
    items.iter().map(describe).collect()
}

#[test]
fn every_kind_of_source_yields_its_samples() {
    let dir = tempfile::tempdir().unwrap();
    let items = items(&sources(&dir).join("::"));
    for (number, item) in items.iter().enumerate() {
        let ShardItem::Sample(sample) = item else {
            panic!("{item:?}")
        };
        assert_eq!(sample.captions, [number.to_string()]);
        assert_eq!(sample.image, png(number as u8));
    }
    assert!(items.len() >= 70);
}

#[test]
fn images_are_passed_over_where_only_captions_are_wanted() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "t.csv", b"filepath,title\ngone.png,100\n");
    let mut list = sources(&dir);
    list.push(dir.path().join("t.csv").display().to_string());
    let set = ShardSet::parse(&list.join("::")).unwrap();
    let mut captions = Vec::new();
    for shard in 0..set.len() {
        for item in set.open(shard).unwrap().without_images() {
            let ShardItem::Sample(sample) = item else {
                panic!("{item:?}")
            };
            assert!(sample.image.is_empty());
            captions.extend(sample.captions);
        }
    }
    let last = captions.pop();
    assert_eq!(last.as_deref(), Some("100"));
    let expected = (0..captions.len()).map(|number| number.to_string());
    assert!(captions.len() >= 70 && captions.iter().cloned().eq(expected));
}

#[test]
fn a_table_says_what_each_row_lacks() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "a.png", &png(1));
    let rows = "text,file\n\"one, \"\"two\"\"\nlines\",a.png\n,a.png\nlost,b.png\nnothing,\nshort\nfolder,.\n";
    let path = write(&dir, "t.csv", rows.as_bytes());
    let found = items(&format!("{}#image=file", path.display()));
    assert_eq!(
        described(&found),
        [
            "a.png=one, \"two\"\nlines",
            "a.png: empty caption",
            "b.png: unreadable file",
            ": no image",
            ": no image",
            ".: unreadable file",
        ]
    );
    let error = ShardSet::parse(&path.display().to_string()).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("no column named filepath") && error.contains("only text, file"),
        "{error}"
    );
    let endless = format!("filepath,title\na.png,\"{}", "x\n".repeat(1 << 20));
    let path = write(&dir, "u.csv", endless.as_bytes());
    let error = ShardSet::parse(&path.display().to_string()).unwrap_err();
    assert!(matches!(error, DataError::BadTable { .. }), "{error}");
}

#[test]
fn rows_and_files_are_read_a_hundred_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "a.png", &png(1));
    let rows: Vec<String> = (0..250).map(|row| format!("a.png\trow {row}\n")).collect();
    let table = format!("filepath\ttitle\n{}", rows.concat());
    let path = write(&dir, "t.tsv", table.as_bytes());
    let set = ShardSet::parse(&path.display().to_string()).unwrap();
    let counts: Vec<u64> = set
        .count()
        .unwrap()
        .iter()
        .map(|count| count.items)
        .collect();
    assert_eq!(counts, [100, 100, 50]);
    let found = described(&items(&path.display().to_string()));
    assert_eq!((found.len(), found[249].as_str()), (250, "a.png=row 249"));
}

#[test]
fn files_of_a_folder_may_have_dots_in_their_names() {
    let dir = tempfile::tempdir().unwrap();
    for (number, name) in ["a", "a.b", "a.c", "v1.0 pic"].iter().enumerate() {
        write(&dir, &format!("{name}.png"), &png(number as u8));
        write(&dir, &format!("{name}.txt"), name.as_bytes());
    }
    write(&dir, "._a.b.png", b"of a file system");
    let found = described(&items(&dir.path().display().to_string()));
    assert_eq!(found, ["a=a", "a.b=a.b", "a.c=a.c", "v1.0 pic=v1.0 pic"]);
}

#[test]
fn a_folder_without_samples_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "a.tar", b"");
    // As `clip data pack` and `index` write them beside shards.
    write(&dir, "sizes.json", b"{}");
    let error = ShardSet::parse(&dir.path().display().to_string()).unwrap_err();
    assert!(error.to_string().contains("`/*.tar`"), "{error}");
}

#[test]
fn a_damaged_stream_keeps_what_stands_before_the_damage() {
    let dir = tempfile::tempdir().unwrap();
    // Noise, so that it doesn't shrink to nothing.
    let noise = |seed: u64| {
        let mut bytes = vec![0; 50_000];
        rand_chacha::ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
        bytes
    };
    let mut tar = Tar::new();
    for number in 0..20 {
        tar = tar
            .file(&format!("k{number}.png"), &noise(number))
            .file(&format!("k{number}.txt"), b"noise");
    }
    for packed in [
        compressed::gzip(&tar.bytes()),
        compressed::zstandard(&tar.bytes()),
    ] {
        for cut in [packed.len() / 2, packed.len() - 20] {
            let path = write(&dir, "cut.tar", &packed[..cut]);
            let found = items(&path.display().to_string());
            let last = found.last().unwrap();
            assert!(
                matches!(last, ShardItem::Fault(FaultKind::TruncatedShard, _)),
                "{last:?}"
            );
            assert!(found.len() > 5, "{}", found.len());
        }
        let mut flipped = packed.clone();
        for byte in &mut flipped[packed.len() / 2..packed.len() / 2 + 2000] {
            *byte ^= 0x55;
        }
        let path = write(&dir, "flipped.tar", &flipped);
        // Not every change is noticed by gzip before its end.
        let found = items(&path.display().to_string());
        assert!(found.len() > 5, "{}", found.len());
    }
}

#[test]
fn a_file_too_large_for_memory_is_refused_unread() {
    let dir = tempfile::tempdir().unwrap();
    // A header that announces 4 GB, and a file that has them.
    let mut header = tar_header("k1.png", 4 << 30);
    let good = Tar::new().file("k2.png", &png(2)).file("k2.txt", b"two");
    let path = dir.path().join("huge.tar");
    let mut file = std::fs::File::create(&path).unwrap();
    std::io::Write::write_all(&mut file, &header).unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(512 + (4 << 30))).unwrap();
    std::io::Write::write_all(&mut file, &good.bytes()).unwrap();
    let found = items(&path.display().to_string());
    assert_eq!(described(&found), ["k1: too large", "k2=two"]);
    // The same header, and nothing behind it.
    header.extend([0; 100]);
    let path = write(&dir, "lie.tar", &header);
    let found = items(&path.display().to_string());
    assert_eq!(described(&found), ["k1: truncated shard"]);
}

fn tar_header(name: &str, size: u64) -> Vec<u8> {
    let mut header = ::tar::Header::new_gnu();
    header.set_path(name).unwrap();
    header.set_size(size);
    header.set_entry_type(::tar::EntryType::Regular);
    header.set_cksum();
    header.as_bytes().to_vec()
}
