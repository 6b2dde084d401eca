//! `clip data queries`, `curate`, `score`, `filter` and `tokenizer`.

use std::{ops::Range, time::Duration};

use safetensors::SafeTensors;
use serde_json::Value;

use crate::support::{Folder, Ran, encoders_of, picture, refused};

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

/// The scores of a shard's file, by key.
fn scores_of(folder: &Folder, file: &str) -> Vec<(String, f32)> {
    let bytes = std::fs::read(folder.path(file)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let about: Value = serde_json::from_slice(file.tensor("about").unwrap().data()).unwrap();
    let keys = about["keys"].as_array().unwrap();
    let keys = keys.iter().map(|key| key.as_str().unwrap().to_owned());
    keys.zip(floats(file.tensor("scores").unwrap().data()))
        .collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let values = bytes.chunks_exact(4);
    values
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect()
}

/// Runs `clip data score DATA --model MODEL --out OUT`.
fn score(folder: &Folder, [data, model, out]: [&str; 3], more: &[&str]) -> Ran {
    let args = ["data", "score", data, "--model", model, "--out", out];
    folder.clip(&[&args[..], more].concat())
}

/// Runs `clip data filter DATA --scores SCORES --out OUT`.
fn filter(folder: &Folder, [data, scores, out]: [&str; 3], more: &[&str]) -> Ran {
    let args = ["data", "filter", data, "--scores", scores, "--out", out];
    folder.clip(&[&args[..], &["--renumber", "--json"], more].concat())
}

#[test]
fn pairs_are_scored_by_a_model_and_the_best_are_kept() {
    let folder = Folder::new();
    folder.shard("b.tar", 10);
    let data = "{a,b}.tar";
    let scored = score(
        &folder,
        [data, "model", "scores"],
        &["--features", "--json"],
    )
    .json();
    let counts = |key: &str| scored[key].as_u64();
    assert_eq!((counts("pairs"), counts("bad")), (Some(16), Some(0)));
    let scores = scores_of(&folder, "scores/000001.safetensors");
    assert_eq!(scores.len(), 10);
    let features = std::fs::read(folder.path("scores/000001.features.safetensors")).unwrap();
    let features = SafeTensors::deserialize(&features).unwrap();
    let shape = |name| features.tensor(name).unwrap().shape().to_vec();
    assert_eq!(
        (shape("image_features"), shape("text_features")),
        (vec![10, 16], vec![20, 16])
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

    // The six of `a.tar` are the first of `b.tar`: ten pairs in all.
    let mut all: Vec<f32> = scores.iter().map(|(_, score)| *score).collect();
    all.sort_by(|a, b| b.total_cmp(a));
    let kept = filter(&folder, ["b.tar", "scores", "best"], &["--best", "0.3"]).json();
    assert!((kept["least"].as_f64().unwrap() - f64::from(all[2])).abs() < 1e-7);
    let above = |least: f32| all.iter().filter(|score| **score >= least).count() as u64;
    let counts =
        |kept: &Value| ["samples", "below", "unscored"].map(|key| kept[key].as_u64().unwrap());
    assert_eq!(counts(&kept), [above(all[2]), 10 - above(all[2]), 0]);
    let doctor = folder.clip(&["data", "doctor", kept["shards"].as_str().unwrap(), "--json"]);
    assert_eq!(doctor.json()["samples"], kept["samples"]);
    let least = all[5].to_string();
    let kept = filter(&folder, [data, "scores", "least"], &["--least", &least]).json();
    assert_eq!(kept["read"].as_u64(), Some(16));
    assert!(kept["samples"].as_u64() >= Some(above(all[5])));
}

#[test]
fn a_score_belongs_to_an_image_with_its_captions() {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.path("moved")).unwrap();
    assert_eq!(
        score(&folder, ["a.tar", "model", "scores"], &[]).code,
        Some(0)
    );
    let kept = |data: &str, out: &str| {
        let kept = filter(&folder, [data, "scores", out], &["--least", "-1"]).json();
        ["samples", "unscored"].map(|key| kept[key].as_u64().unwrap())
    };
    std::fs::copy(folder.path("a.tar"), folder.path("moved/0.tar")).unwrap();
    assert_eq!(kept("./moved/0.tar", "moved-kept"), [6, 0]);
    // Another shard of that name has four pairs more.
    folder.shard("moved/a.tar", 10);
    assert_eq!(kept("moved/a.tar", "other"), [6, 4]);

    // A table's row is one caption, and its image may come twice.
    folder.write(
        "t.csv",
        b"filepath\ttitle\n0.png\tred\n0.png\ta green square\n1.png\tgreen\n",
    );
    assert_eq!(
        score(&folder, ["t.csv", "model", "table"], &[]).code,
        Some(0)
    );
    let rows = scores_of(&folder, "table/000000.safetensors");
    assert_eq!(rows.len(), 3);
    let mut sorted: Vec<f32> = rows.iter().map(|(_, score)| *score).collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    assert!(sorted[0] > sorted[1] && sorted[1] > sorted[2], "{rows:?}");
    let kept = filter(&folder, ["t.csv", "table", "rows"], &["--best", "0.67"]).json();
    assert_eq!(kept["samples"].as_u64(), Some(2));
    assert!((kept["least"].as_f64().unwrap() - f64::from(sorted[1])).abs() < 1e-7);
}

#[test]
fn a_pass_of_scores_goes_on_where_it_was_interrupted() {
    let folder = Folder::new();
    folder.shard("b.tar", 4);
    let data = "{a,b}.tar";
    let best = [
        "data",
        "filter",
        data,
        "--scores",
        "scores",
        "--best",
        "1",
        "--renumber",
        "--out",
        "out",
    ];
    assert_eq!(score(&folder, [data, "model", "scores"], &[]).code, Some(0));
    let first = || std::fs::read(folder.path("scores/000000.safetensors")).unwrap();
    let before = first();
    std::fs::remove_file(folder.path("scores/000001.safetensors")).unwrap();
    refused(
        &folder,
        &[(&best, &["000001.safetensors is missing", "goes on"])],
    );
    let again = score(&folder, [data, "model", "scores"], &[]);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.err.contains("1 shards had their scores"), "{again:?}");
    assert!(folder.path("scores/000001.safetensors").exists() && first() == before);

    // A torn file, and a shard that has changed, are scored again.
    folder.write("scores/000001.safetensors", b"torn");
    refused(
        &folder,
        &[(
            &best,
            &["000001.safetensors", "not a usable file of scores"],
        )],
    );
    folder.shard("a.tar", 7);
    let again = score(&folder, [data, "model", "scores"], &["--json"]);
    assert_eq!(again.json()["pairs"].as_u64(), Some(11), "{again:?}");
    assert!(again.err.contains("a.tar has changed"), "{again:?}");
    // So is a set that has grown, by what is new in it; a shard that holds nothing ends no pass.
    folder.write("c.tar", b"no tar");
    folder.shard("d.tar", 2);
    let grown = score(&folder, ["{a,b,c,d}.tar", "model", "scores"], &["--json"]);
    let grown_json = grown.json();
    assert_eq!(
        (grown_json["pairs"].as_u64(), grown_json["bad"].as_u64()),
        (Some(13), Some(1))
    );
    assert!(grown.err.contains("2 shards had their scores"), "{grown:?}");
    assert_eq!(folder.clip(&best).code, Some(0));
}

#[test]
fn what_is_new_or_changed_is_scored_though_its_length_tells_nothing() {
    let folder = Folder::new();
    let pairs = |data: &str, out: &str| {
        let again = score(&folder, [data, "model", out], &["--json"]);
        let there = again.err.contains("1 shards had their scores");
        (again.json()["pairs"].as_u64(), there)
    };
    // A tar of the same length, with another caption in it.
    assert_eq!(pairs("a.tar", "scores"), (Some(6), false));
    assert_eq!(pairs("a.tar", "scores"), (Some(6), true));
    let mut bytes = std::fs::read(folder.path("a.tar")).unwrap();
    let caption = bytes.windows(5).position(|part| part == b"red 0");
    bytes[caption.unwrap() + 4] = b'9';
    folder.write("a.tar", &bytes);
    let mut options = std::fs::File::options();
    let file = options.write(true).open(folder.path("a.tar")).unwrap();
    let time = file.metadata().unwrap().modified().unwrap();
    file.set_modified(time + Duration::from_secs(1)).unwrap();
    assert_eq!(pairs("a.tar", "scores"), (Some(6), false));

    // A folder, which is one shard with whatever it holds.
    std::fs::create_dir(folder.path("photos")).unwrap();
    let add = |samples: Range<usize>| {
        for sample in samples {
            folder.write(&format!("photos/{sample}.png"), &picture(sample));
            folder.write(&format!("photos/{sample}.txt"), b"red");
        }
    };
    add(0..3);
    assert_eq!(pairs("photos", "of-photos"), (Some(3), false));
    assert_eq!(pairs("photos", "of-photos"), (Some(3), true));
    add(3..8);
    assert_eq!(pairs("photos", "of-photos"), (Some(8), false));
    folder.write("photos/0.txt", b"green");
    assert_eq!(pairs("photos", "of-photos"), (Some(8), false));
    let kept = filter(&folder, ["photos", "of-photos", "kept"], &["--least", "-1"]);
    assert_eq!(kept.json()["unscored"], 0);
}

#[test]
fn scores_of_something_else_are_refused() {
    let folder = Folder::new();
    folder.shard("b.tar", 4);
    let other = r#"{"embed_dim": 8, "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "head_width": 16,
        "patch_size": 8}, "text_cfg": {"context_length": 12, "vocab_size": 540, "width": 16, "heads": 2, "layers": 1}}"#;
    encoders_of(other).save(&folder.path("other")).unwrap();
    assert_eq!(
        score(&folder, ["{a,b}.tar", "model", "scores"], &[]).code,
        Some(0)
    );
    let score = |data, model, out, more: &'static [&str]| {
        [
            &["data", "score", data, "--model", model, "--out", out],
            more,
        ]
        .concat()
    };
    let filter = |scores, more: &'static [&str]| {
        [
            &[
                "data", "filter", "a.tar", "--scores", scores, "--out", "out",
            ],
            more,
        ]
        .concat()
    };
    refused(
        &folder,
        &[
            (
                &score("{a,b}.tar", "other", "scores", &[]),
                &["scores holds scores by another model"],
            ),
            (
                &score("b.tar", "model", "scores", &[]),
                &["scores holds scores of other shards"],
            ),
            (
                &score("{a,b}.tar", "model", "scores", &["--features"]),
                &["kept without features"],
            ),
            (
                &score("a.tar", "model", "model", &[]),
                &["model holds files but no scores"],
            ),
            (
                &filter("nowhere", &["--best", "1"]),
                &["no scores in nowhere", "clip data score"],
            ),
            (
                &filter("scores", &["--least", "1"]),
                &["none of 6 samples is wanted", "least score 1.0000"],
            ),
        ],
    );
    assert!(!folder.path("out").exists());
}
