//! `clip data doctor`, `pack` and `index`.

use crate::support::{Folder, picture, refused};

#[test]
fn the_doctor_reports_a_sound_set_and_fails_a_bad_one() {
    let folder = Folder::new();
    let doctor = |more: &[&str]| folder.clip(&[&["data", "doctor"][..], more].concat());
    let sound = doctor(&["a.tar", "--json"]).json();
    assert_eq!(
        (sound["samples"].as_u64(), sound["bad"].as_u64()),
        (Some(6), Some(0))
    );
    assert_eq!(sound["images"]["width"]["median"], 20);
    assert_eq!(sound["captions"]["captions"], 12);
    let text = doctor(&["a.tar"]);
    assert_eq!(text.code, Some(0), "{text:?}");
    assert!(text.out.contains("longer than 77 tokens"), "{text:?}");

    folder.broken("bad.tar", 20, 4);
    let bad = doctor(&["bad.tar", "--json", "--max-bad", "0.1"]);
    assert_eq!(bad.code, Some(1), "{bad:?}");
    assert!(bad.err.contains("4 of 20 samples are bad"), "{bad:?}");
    let report: serde_json::Value = serde_json::from_str(&bad.out).unwrap();
    assert_eq!(report["kinds"]["no_caption"], 2);
    assert_eq!(report["kinds"]["undecodable"], 2);
    assert_eq!(report["bad_samples"][1]["key"], "1");
    let allowed = doctor(&["bad.tar", "--max-bad", "0.2"]);
    assert_eq!(allowed.code, Some(0), "{allowed:?}");
    assert!(
        allowed.out.contains("bad.tar: `1`: undecodable image"),
        "{allowed:?}"
    );

    let whole = std::fs::read(folder.path("a.tar")).unwrap();
    folder.write("cut.tar", &whole[..whole.len() / 2 + 100]);
    let cut = doctor(&["cut.tar", "--max-bad", "1"]);
    assert_eq!(cut.code, Some(1), "{cut:?}");
    assert!(cut.err.contains("not whole: cut.tar"), "{cut:?}");
    let packed = folder.clip(&["data", "pack", "cut.tar", "--out", "of-cut"]);
    assert_eq!(packed.code, Some(0), "{packed:?}");
    let warned = "samples are missing which no count knows of: cut.tar";
    assert!(packed.err.contains(warned), "{packed:?}");

    let twice = doctor(&["a.tar::a.tar", "--json"]).json();
    assert_eq!(twice["duplicates"]["exact"], 6);
    let short = doctor(&[
        "a.tar",
        "--context-length",
        "3",
        "--tokenizer",
        "model",
        "--json",
    ])
    .json();
    assert!(
        short["captions"]["truncated"].as_u64() >= Some(6),
        "{short}"
    );
}

#[test]
fn packed_shards_are_found_by_their_index_and_hold_the_same() {
    let folder = Folder::new();
    folder.shard("b.tar", 4);
    let pack = |out: &str, more: &[&str]| {
        let args = [
            "data",
            "pack",
            "a.tar::b.tar",
            "--out",
            out,
            "--shard-samples",
            "8",
            "--json",
        ];
        folder.clip(&[&args[..], more].concat())
    };
    // Samples 0 to 3 of both shards have the same keys, and two of them would meet in the first shard.
    let refused = pack("out", &[]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("comes twice") && !folder.path("out").exists());
    assert!(
        refused.err.contains("2 sources keep their keys"),
        "{refused:?}"
    );
    assert!(
        refused.err.contains("; `--renumber` numbers"),
        "{refused:?}"
    );
    let packed = pack("out", &["--renumber", "--resize", "9", "--quality", "80"]).json();
    assert_eq!(
        (packed["samples"].as_u64(), packed["bad"].as_u64()),
        (Some(10), Some(0))
    );
    let shards = packed["shards"].as_str().unwrap();
    assert!(shards.ends_with("shard-{000000..000001}.tar"), "{shards}");
    let found = folder.clip(&["data", "doctor", shards, "--json"]).json();
    assert_eq!(
        (found["samples"].as_u64(), found["bad"].as_u64()),
        (Some(10), Some(0))
    );
    assert_eq!(found["images"]["shorter_side"]["max"], 9);
    assert_eq!(
        (
            found["classes"].as_u64(),
            found["captions"]["captions"].as_u64()
        ),
        (Some(10), Some(20))
    );
    let sizes = std::fs::read_to_string(folder.path("out").join("sizes.json")).unwrap();
    let sizes: serde_json::Value = serde_json::from_str(&sizes).unwrap();
    assert_eq!(sizes["shard-000001.tar"], 2);

    let check = || folder.clip(&["data", "index", "out/*.tar", "--check"]);
    assert_eq!(check().code, Some(0), "{:?}", check());
    std::fs::copy(folder.path("a.tar"), folder.path("out/shard-000001.tar")).unwrap();
    let changed = check();
    assert_eq!(changed.code, Some(1), "{changed:?}");
    assert!(
        changed.err.contains("shard-000001.tar: changed"),
        "{changed:?}"
    );
    let indexed = folder
        .clip(&["data", "index", "out/*.tar", "--json"])
        .json();
    assert_eq!(indexed["samples"], 14);
    assert_eq!(check().code, Some(0));
    let part = ["data", "index", "out/shard-000001.tar", "--json"];
    assert_eq!(folder.clip(&part).json()["shards"], 2);
    assert_eq!(check().code, Some(0));
}

#[cfg(unix)]
#[test]
fn a_linked_folder_is_left_out_and_named() {
    let folder = Folder::new();
    for name in ["photos", "others"] {
        std::fs::create_dir(folder.path(name)).unwrap();
        folder.write(&format!("{name}/{name}.png"), &picture(0));
        folder.write(&format!("{name}/{name}.txt"), b"red");
    }
    std::os::unix::fs::symlink(folder.path("others"), folder.path("photos/linked")).unwrap();
    let packed = folder.clip(&["data", "pack", "photos", "--out", "out", "--json"]);
    assert!(packed.err.contains("photos/linked left out"), "{packed:?}");
    assert_eq!(packed.json()["samples"], 1);
}

#[test]
fn what_the_data_tools_cannot_do_is_said() {
    let folder = Folder::new();
    folder.write("empty.tar", b"");
    folder.write("file", b"");
    std::fs::create_dir(folder.path("full")).unwrap();
    folder.write("full/mine.png", &picture(0));
    folder.write("full/mine.txt", b"red");
    let pack = |data, out| ["data", "pack", data, "--out", out];
    refused(
        &folder,
        &[
            (
                &["data", "doctor", "gone.tar"],
                &["gone.tar does not exist"],
            ),
            (
                &["data", "doctor", "a.tar", "--tokenizer", "names.txt"],
                &["names.txt", "line 1"],
            ),
            (&["data", "index", "gone-*.tar"], &["no file matches"]),
            (&["data", "index", "full"], &["`DIR/*.tar`"]),
            (
                &["data", "index", "a.tar", "--check"],
                &["cannot read ./index.json"],
            ),
            (&pack("gone.tar", "out"), &["gone.tar does not exist"]),
            (&pack("empty.tar", "out"), &["no usable sample"]),
            (&pack("a.tar", "full"), &["`mine.", "new or empty"]),
            (&pack("a.tar", "file"), &["cannot read file"]),
            (&pack("a.tar", "file/out"), &["cannot", "file/"]),
        ],
    );
    assert!(!folder.path("out").exists());
    let empty = folder.clip(&["data", "doctor", "empty.tar"]);
    assert_eq!(empty.code, Some(1));
    assert!(empty.err.contains("no usable sample"), "{empty:?}");
    let usage = folder.clip(&["data", "pack", "a.tar", "--out", "out", "--quality", "9"]);
    assert_eq!(usage.code, Some(2), "{usage:?}");
}
