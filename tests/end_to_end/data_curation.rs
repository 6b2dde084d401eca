//! `clip data queries`, `curate`, `score`, `filter` and `tokenizer`.

use safetensors::SafeTensors;
use serde_json::Value;

use crate::support::{Folder, encoders_of, picture, refused};

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

/// The scores of a shard's file, by key, and the names of its other tensors.
fn scores_of(folder: &Folder, file: &str) -> (Vec<(String, f32)>, Vec<String>) {
    let bytes = std::fs::read(folder.path(file)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let about: Value = serde_json::from_slice(file.tensor("about").unwrap().data()).unwrap();
    let keys = about["keys"].as_array().unwrap();
    let keys = keys.iter().map(|key| key.as_str().unwrap().to_owned());
    let scores = floats(file.tensor("scores").unwrap().data());
    let mut others: Vec<String> = file.names().into_iter().map(String::from).collect();
    others.retain(|name| !["about", "scores"].contains(&name.as_str()));
    others.sort();
    (keys.zip(scores).collect(), others)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let values = bytes.chunks_exact(4);
    values
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect()
}

#[test]
fn pairs_are_scored_by_a_model_and_the_best_are_kept() {
    let folder = Folder::new();
    folder.shard("b.tar", 4);
    let score = |out: &str, more: &[&str]| {
        let args = [
            "data",
            "score",
            "{a,b}.tar",
            "--model",
            "model",
            "--out",
            out,
        ];
        folder.clip(&[&args[..], &["--json"], more].concat())
    };
    let scored = score("scores", &["--features"]).json();
    assert_eq!(
        (scored["pairs"].as_u64(), scored["bad"].as_u64()),
        (Some(10), Some(0))
    );
    let (scores, others) = scores_of(&folder, "scores/000000.safetensors");
    assert_eq!(
        (scores.len(), others),
        (
            6,
            vec!["image_features".to_owned(), "text_features".to_owned()]
        )
    );

    // As the features of `clip embed` have it: the better of two captions.
    folder.write("texts", b"green\ngreen 4\n");
    folder.write("4.png", &picture(4));
    let args = [
        "embed", "--model", "model", "--images", "4.png", "--texts", "texts", "--out", "x",
    ];
    assert_eq!(folder.clip(&args).code, Some(0));
    let bytes = std::fs::read(folder.path("x")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let image = floats(file.tensor("image_features").unwrap().data());
    let texts = floats(file.tensor("text_features").unwrap().data());
    let cosine = |text: &[f32]| text.iter().zip(&image).map(|(a, b)| a * b).sum::<f32>();
    let best = texts.chunks(image.len()).map(cosine).fold(-1.0, f32::max);
    assert_eq!(scores[4].0, "4");
    assert!((scores[4].1 - best).abs() < 1e-5, "{} {best}", scores[4].1);

    let filter = |out: &str, more: &[&str]| {
        let args = [
            "data",
            "filter",
            "{a,b}.tar",
            "--scores",
            "scores",
            "--out",
            out,
            "--renumber",
            "--json",
        ];
        folder.clip(&[&args[..], more].concat()).json()
    };
    let kept = filter("best", &["--best", "0.3"]);
    let (second, _) = scores_of(&folder, "scores/000001.safetensors");
    let mut all: Vec<f32> = scores
        .iter()
        .chain(&second)
        .map(|(_, score)| *score)
        .collect();
    all.sort_by(|a, b| b.total_cmp(a));
    assert!((kept["least"].as_f64().unwrap() - f64::from(all[2])).abs() < 1e-7);
    assert_eq!(
        (kept["read"].as_u64(), kept["unscored"].as_u64()),
        (Some(10), Some(0))
    );
    let doctor = folder.clip(&["data", "doctor", kept["shards"].as_str().unwrap(), "--json"]);
    assert_eq!(doctor.json()["samples"], kept["samples"]);
    // Pictures of both shards are the same, so may their scores be.
    let equal = all.iter().filter(|score| **score >= all[2]).count() as u64;
    assert_eq!(
        (kept["samples"].as_u64(), kept["below"].as_u64()),
        (Some(equal), Some(10 - equal))
    );
    let least = all[5].to_string();
    let kept = filter("least", &["--least", &least]);
    let above = all.iter().filter(|score| **score >= all[5]).count() as u64;
    assert_eq!(kept["samples"].as_u64(), Some(above));
}

#[test]
fn a_pass_of_scores_goes_on_where_it_was_interrupted() {
    let folder = Folder::new();
    folder.shard("b.tar", 4);
    let score = |data: &str, model: &str, more: &[&str]| {
        let args = ["data", "score", data, "--model", model, "--out", "scores"];
        folder.clip(&[&args[..], more].concat())
    };
    let filter = [
        "data",
        "filter",
        "{a,b}.tar",
        "--scores",
        "scores",
        "--best",
        "1",
        "--out",
        "out",
    ];
    assert_eq!(score("{a,b}.tar", "model", &[]).code, Some(0));
    let first = std::fs::read(folder.path("scores/000000.safetensors")).unwrap();
    std::fs::remove_file(folder.path("scores/000001.safetensors")).unwrap();
    refused(
        &folder,
        &[(&filter, &["000001.safetensors is missing", "goes on"])],
    );
    // A shard that has its scores isn't read again.
    folder.write("a.tar", b"gone");
    let again = score("{a,b}.tar", "model", &[]);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(
        again.err.contains("1 of 2 shards had their scores"),
        "{again:?}"
    );
    assert!(again.out.contains("pairs") && folder.path("scores/000001.safetensors").exists());
    assert_eq!(
        std::fs::read(folder.path("scores/000000.safetensors")).unwrap(),
        first
    );

    let other = r#"{"embed_dim": 8, "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "head_width": 16,
        "patch_size": 8}, "text_cfg": {"context_length": 12, "vocab_size": 540, "width": 16, "heads": 2, "layers": 1}}"#;
    encoders_of(other).save(&folder.path("other")).unwrap();
    folder.shard("a.tar", 6);
    folder.shard("c.tar", 1);
    let score = |data, model, more: &'static [&str]| {
        [
            &["data", "score", data, "--model", model, "--out", "scores"],
            more,
        ]
        .concat()
    };
    let filter_by = |data, scores| {
        [
            "data", "filter", data, "--scores", scores, "--best", "1", "--out", "out",
        ]
    };
    let (of_c, without) = (filter_by("c.tar", "scores"), filter_by("a.tar", "nowhere"));
    refused(
        &folder,
        &[
            (
                &score("{a,b}.tar", "other", &[]),
                &["scores holds scores by another model"],
            ),
            (
                &score("a.tar", "model", &[]),
                &["scores holds scores of other shards"],
            ),
            (
                &score("{a,b}.tar", "model", &["--features"]),
                &["kept without features"],
            ),
            (&of_c, &["no scores of c.tar", "clip data score"]),
            (&without, &["no scores in nowhere", "clip data score"]),
        ],
    );
    folder.write("scores/000001.safetensors", b"torn");
    refused(
        &folder,
        &[(
            &filter,
            &["000001.safetensors", "not a usable file of scores"],
        )],
    );
    assert!(!folder.path("out").exists());
    // The shards may move.
    std::fs::create_dir(folder.path("moved")).unwrap();
    std::fs::rename(folder.path("a.tar"), folder.path("moved/a.tar")).unwrap();
    let moved = [
        "data",
        "filter",
        "moved/a.tar",
        "--scores",
        "scores",
        "--least",
        "-1",
        "--out",
        "out",
        "--json",
    ];
    assert_eq!(folder.clip(&moved).json()["samples"].as_u64(), Some(6));
}
