use clip_data::{EvalNeeds, LoaderConfig, ShardSet};
use clip_zeroshot::evaluate_retrieval;

use crate::support::{Folder, encoders};

#[test]
fn retrieval_prints_the_librarys_figures() {
    let folder = Folder::new();
    let args = ["eval", "retrieval", "--model", "model", "--data", "a.tar"];
    let found = folder.clip(&[&args[..], &["--json"]].concat()).json();
    let encoders = encoders();
    let shards = ShardSet::from_paths(vec![folder.path("a.tar")]);
    let loader = encoders.loader(shards, EvalNeeds::Captions, LoaderConfig::default());
    let features = encoders.encode_shards(&loader.unwrap()).unwrap();
    let report = evaluate_retrieval(&encoders, &features).unwrap().report;
    let expected = serde_json::to_value(report).unwrap();
    for key in [
        "i2t_r1",
        "i2t_r5",
        "i2t_r10",
        "t2i_r1",
        "t2i_r5",
        "t2i_r10",
        "i2t_median_rank",
        "t2i_median_rank",
        "images",
        "captions",
    ] {
        assert_eq!(found[key], expected[key], "{key}");
    }
    assert_eq!(
        (&found["images"], &found["captions"]),
        (&6.into(), &12.into())
    );
    assert_eq!(found["skipped"], 0);
    let table = folder.clip(&args);
    assert!(
        table.out.starts_with("6 images, 12 captions\n"),
        "{table:?}"
    );
    assert!(table.out.contains("median rank"), "{table:?}");
}

#[test]
fn zeroshot_takes_labels_from_numbers_or_names() {
    let folder = Folder::new();
    let args = [
        "eval", "zeroshot", "--model", "model", "--data", "a.tar", "--json",
    ];
    let by_number = folder.clip(&[&args[..], &["--classes", "names.txt"]].concat());
    let by_number = by_number.json();
    assert_eq!(by_number["samples"], 6);
    assert!((by_number["top5"].as_f64().unwrap() - 1.0).abs() < 1e-9);
    assert_eq!(by_number["per_class"][2]["name"], "blue");
    assert_eq!(by_number["ci95"].as_array().unwrap().len(), 2);
    let names = ["--classes", "names.txt", "--labels-from", "caption"];
    let by_name = folder.clip(&[&args[..], &names].concat()).json();
    assert_eq!(by_name, by_number);
    // Without a list of classes they are the captions, in alphabetical order.
    let own = folder.clip(&[&args[..], &["--labels-from", "txt"]].concat());
    let own = own.json();
    assert_eq!(own["per_class"][0]["name"], "blue");
    assert_eq!(own["top1"], by_number["top1"]);
}

#[test]
fn templates_come_from_a_file_or_from_the_command_line() {
    let folder = Folder::new();
    folder.write("templates.txt", b"{}\n");
    let args = [
        "eval",
        "zeroshot",
        "--model",
        "model",
        "--data",
        "a.tar",
        "--classes",
        "names.txt",
        "--json",
    ];
    let by_file = folder.clip(&[&args[..], &["--templates", "templates.txt"]].concat());
    let by_flag = folder.clip(&[&args[..], &["--template", "{}"]].concat());
    assert_eq!(by_file.json(), by_flag.json());
}

#[test]
fn a_head_is_kept_and_used_again() {
    let folder = Folder::new();
    let run = || {
        let ran = folder.clip(&[
            "eval",
            "zeroshot",
            "--model",
            "model",
            "--data",
            "a.tar",
            "--classes",
            "names.txt",
            "--head-cache",
            "deep/heads",
            "--json",
        ]);
        (ran.json(), ran.err)
    };
    let (first, made) = run();
    assert!(made.contains("kept in"), "{made}");
    let (second, taken) = run();
    assert!(taken.contains("taken from"), "{taken}");
    assert_eq!(first, second);
}

#[test]
fn bad_samples_are_counted_and_too_many_stop_the_evaluation() {
    let folder = Folder::new();
    let mut bytes = std::fs::read(folder.path("a.tar")).unwrap();
    // A byte of the first image, after its header.
    bytes[512 + 40] ^= 0xff;
    folder.write("b.tar", &bytes);
    let args = [
        "eval",
        "retrieval",
        "--model",
        "model",
        "--data",
        "b.tar",
        "--json",
    ];
    let refused = folder.clip(&args);
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.err.contains("1 of 6 samples are unusable"),
        "{refused:?}"
    );
    let allowed = folder.clip(&[&args[..], &["--max-bad-share", "0.5"]].concat());
    assert!(allowed.err.contains("sample `0` skipped"), "{allowed:?}");
    let found = allowed.json();
    assert_eq!(
        (&found["images"], &found["skipped"]),
        (&5.into(), &1.into())
    );
}
