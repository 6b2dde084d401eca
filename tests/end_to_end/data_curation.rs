//! `clip data queries`, `curate` and `tokenizer`.

use crate::support::{Folder, refused};

#[test]
fn a_list_of_queries_is_made_of_captions_and_curates_them() {
    let folder = Folder::new();
    folder.shard("raw.tar", 30);
    folder.write("titles.txt", b"Blue 2\nGreen Field\n");
    let list = folder
        .clip(&[
            "data",
            "queries",
            "--data",
            "raw.tar",
            "--titles",
            "titles.txt",
            "--min-count",
            "5",
            "--out",
            "list.txt",
            "--json",
        ])
        .json();
    assert_eq!(
        (list["words"].as_u64(), list["titles"].as_u64()),
        (Some(3), Some(2))
    );
    let text = std::fs::read_to_string(folder.path("list.txt")).unwrap();
    assert_eq!(text, "blue\ngreen\nred\nblue 2\ngreen field\n");

    let curate = |out: &str, seed: &str| {
        let args = [
            "data",
            "curate",
            "raw.tar",
            "--queries",
            "list.txt",
            "--per-query",
            "4",
            "--out",
            out,
            "--seed",
            seed,
            "--json",
        ];
        folder.clip(&args).json()
    };
    let made = curate("out", "1");
    assert_eq!(
        (made["read"].as_u64(), made["matched"].as_u64()),
        (Some(30), Some(30))
    );
    assert_eq!(
        (
            made["frequent_queries"].as_u64(),
            made["unused_queries"].as_u64()
        ),
        (Some(3), Some(1))
    );
    let kept = made["samples"].as_u64().unwrap();
    assert!((1..30).contains(&kept), "{made}");
    let table = std::fs::read_to_string(folder.path("out").join("queries.tsv")).unwrap();
    assert!(
        table.starts_with("query\tbefore\ttaken\tafter\nblue\t10\t"),
        "{table}"
    );
    assert!(table.ends_with("green field\t0\t0\t0\n"), "{table}");
    let doctor = folder.clip(&["data", "doctor", made["shards"].as_str().unwrap(), "--json"]);
    assert_eq!(doctor.json()["samples"].as_u64(), Some(kept));

    curate("again", "1");
    curate("other", "2");
    let shard = |out: &str| std::fs::read(folder.path(out).join("shard-000000.tar")).unwrap();
    assert!(shard("out") == shard("again"));
    assert!(shard("out") != shard("other"));
}

#[test]
fn a_vocabulary_is_learned_in_one_command() {
    let folder = Folder::new();
    let trained = folder
        .clip(&[
            "data",
            "tokenizer",
            "train",
            "--data",
            "a.tar",
            "--text",
            "names.txt",
            "--vocab-size",
            "530",
            "--out",
            "own.json",
            "--json",
        ])
        .json();
    assert_eq!(
        (trained["vocab_size"].as_u64(), trained["texts"].as_u64()),
        (Some(530), Some(15))
    );
    let doctor = folder.clip(&[
        "data",
        "doctor",
        "a.tar",
        "--tokenizer",
        "own.json",
        "--json",
    ]);
    // `red` has a token of its own, and start and end.
    assert_eq!(doctor.json()["captions"]["tokens"]["min"], 3);
}

#[test]
fn what_cannot_be_learned_or_curated_is_said() {
    let folder = Folder::new();
    folder.write("none.txt", b"");
    folder.write("zebra.txt", b"zebra\n");
    let curate = |queries| {
        [
            "data",
            "curate",
            "a.tar",
            "--queries",
            queries,
            "--out",
            "out",
        ]
    };
    let train = |text, size| {
        [
            "data",
            "tokenizer",
            "train",
            "--text",
            text,
            "--vocab-size",
            size,
            "--out",
            "own.json",
        ]
    };
    refused(
        &folder,
        &[
            (&curate("gone.txt"), &["cannot read gone.txt"]),
            (&curate("none.txt"), &["none.txt", "no query"]),
            (&curate("zebra.txt"), &["no caption holds any"]),
            (&train("gone.txt", "530"), &["cannot read gone.txt"]),
            (
                &train("none.txt", "530"),
                &["a vocabulary from none.txt", "no word"],
            ),
            (
                &[
                    "data",
                    "queries",
                    "--text",
                    "names.txt",
                    "--out",
                    "list.txt",
                ],
                &["no word occurs 100 times"],
            ),
            (
                &[
                    "data",
                    "queries",
                    "--text",
                    "names.txt",
                    "--min-count",
                    "1",
                    "--out",
                    "gone/list.txt",
                ],
                &["gone/list.txt"],
            ),
        ],
    );
    assert!(!folder.path("out").exists() && !folder.path("own.json").exists());
    let usage = folder.clip(&["data", "queries", "--out", "list.txt"]);
    assert_eq!(usage.code, Some(2), "{usage:?}");
}
