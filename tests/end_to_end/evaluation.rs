use burn::tensor::DType;
use clip_data::{EvalNeeds, LoaderConfig, ShardSet};
use clip_zeroshot::evaluate_retrieval;

use serde_json::Value;

use crate::support::{Folder, encoders, picture, refused};

#[test]
fn retrieval_prints_the_librarys_figures() {
    let folder = Folder::new();
    let args = ["eval", "retrieval", "--model", "model", "--data", "a.tar"];
    let found = folder.clip(&[&args[..], &["--json"]].concat()).json();
    let encoders = encoders();
    let shards = ShardSet::from_paths(vec![folder.path("a.tar")]);
    let loader = encoders.loader(shards, EvalNeeds::Captions, LoaderConfig::default());
    let features = encoders.encode_shards(&loader.unwrap()).unwrap();
    let report = evaluate_retrieval(&encoders, &features, DType::F32)
        .unwrap()
        .report;
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

#[test]
fn a_probe_learns_what_its_features_hold() {
    let folder = Folder::new();
    folder.shard("train.tar", 60);
    folder.shard("test.tar", 30);
    let args = [
        "eval",
        "probe",
        "--model",
        "model",
        "--train",
        "train.tar",
        "--test",
        "test.tar",
        "--json",
    ];
    let found = folder.clip(&args).json();
    // Colours are told apart by every random network.
    assert!(found["top1"].as_f64().unwrap() > 0.9, "{found}");
    assert_eq!(
        (
            &found["train_samples"],
            &found["val_samples"],
            &found["width"]
        ),
        (&48.into(), &12.into(), &32.into())
    );
    assert!(found["search"]["visits"].as_array().unwrap().len() <= 15);
    assert_eq!(found["zero_shot"], serde_json::Value::Null);

    let more = [
        "--val",
        "a.tar",
        "--classes",
        "names.txt",
        "--shots",
        "4,1",
        "--draws",
        "2",
        "--feature-cache",
        "kept/features",
    ];
    let full = folder.clip(&[&args[..], &more].concat());
    assert!(full.err.contains("kept in kept/features"), "{full:?}");
    let found = full.json();
    assert_eq!(
        (&found["train_samples"], &found["val_samples"]),
        (&60.into(), &6.into())
    );
    assert_eq!(found["few_shot"][1]["shots"], 4);
    assert_eq!(
        found["few_shot"][0]["accuracies"].as_array().unwrap().len(),
        2
    );
    assert_eq!(found["zero_shot"]["samples"], 30);
    // One example does better than a random model's texts, so it is more than is needed.
    assert_eq!(found["break_even_shots"], 1.0, "{found}");
    let table = folder.clip(&[&args[..args.len() - 1], &more].concat());
    let bound = "zero-shot is matched by at most 1.0 examples a class";
    assert!(table.out.contains(bound), "{table:?}");
    assert!(!full.err.contains("--shots"), "{full:?}");
    let beyond = folder.clip(&[&args[..], &["--val", "a.tar", "--shots", "40"]].concat());
    let few =
        "--shots 40 asks for more examples than every class has: `class 0` has 20, the fewest";
    assert!(beyond.err.contains(few), "{beyond:?}");
    let again = folder.clip(&[&args[..], &more].concat());
    assert!(again.err.contains("taken from kept/features"), "{again:?}");
    assert_eq!(again.json(), found);
    // A shard that has changed has other features.
    folder.shard("test.tar", 27);
    let changed = folder.clip(&[&args[..], &more].concat()).json();
    assert_eq!(changed["samples"], 27);
}

#[test]
fn several_sets_come_out_as_one_table() {
    let folder = Folder::new();
    folder.shard("b.tar", 9);
    folder.write(
        "sets.toml",
        br#"
        [[set]]
        name = "plain"
        data = "a.tar"
        classes = "names.txt"

        [[set]]
        name = "shifted"
        data = "b.tar"
        template = ["a {} square.", "{}"]
        context = "a kind of colour"
        labels_from = "caption"
        shift_of = "plain"
        "#,
    );
    folder.write("line.csv", b"0.5,0.4\n0.8,0.7\n");
    let args = [
        "eval",
        "zeroshot",
        "--model",
        "model",
        "--sets",
        "sets.toml",
    ];
    let found = folder.clip(&[&args[..], &["--reference", "line.csv", "--json"]].concat());
    let found = found.json();
    let sets = found["sets"].as_array().unwrap();
    assert_eq!(
        (&sets[0]["samples"], &sets[1]["samples"]),
        (&6.into(), &9.into())
    );
    let top1 = |at: usize| sets[at]["top1"].as_f64().unwrap();
    let gap = sets[1]["shift"]["gap"].as_f64().unwrap();
    assert!((gap - (top1(0) - top1(1))).abs() < 1e-9);
    assert!(sets[1]["shift"]["effective_robustness"].is_number());
    let table = folder.clip(&args);
    assert!(table.out.starts_with("set "), "{table:?}");
    assert!(table.out.contains("points against plain"), "{table:?}");
}

#[test]
fn templates_groups_and_corruptions_are_measured_when_asked_for() {
    let folder = Folder::new();
    let args = [
        "eval",
        "zeroshot",
        "--model",
        "model",
        "--data",
        "a.tar",
        "--classes",
        "names.txt",
        "--template",
        "{}",
        "--template",
        "a {} square",
        "--ablation",
        "--groups",
        "--corruptions",
        "contrast,jpeg,contrast",
        "--html",
        "page.html",
    ];
    let found = folder.clip(&[&args[..], &["--json"]].concat()).json();
    assert_eq!(found["ablation"]["templates"].as_array().unwrap().len(), 2);
    assert_eq!(found["groups"][0]["level"], "group");
    assert!(found["groups"][0]["accuracy"].as_f64() >= found["top1"].as_f64());
    assert!(found["calibration"]["ece"].as_f64().unwrap() <= 1.0);
    let page = std::fs::read_to_string(folder.path("page.html")).unwrap();
    for part in [
        "Confusions",
        "Reliability",
        "data:image/png;base64,",
        "red taken for",
    ] {
        assert!(page.contains(part), "{part}");
    }
    let counted: u64 = found["confusion"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry[2].as_u64().unwrap())
        .sum();
    assert_eq!(counted, 6);
    let corruptions = found["robustness"]["corruptions"].as_array().unwrap();
    assert_eq!(corruptions.len(), 2);
    assert_eq!(corruptions[1]["corruption"], "jpeg");
    assert_eq!(corruptions[1]["top1"].as_array().unwrap().len(), 5);
    let table = folder.clip(&args);
    assert!(table.out.contains("top-1 under corruptions"), "{table:?}");
}

#[test]
fn groups_are_read_wherever_images_are_and_before_any_is_encoded() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("photos")).unwrap();
    for sample in 0..3 {
        folder.write(&format!("photos/{sample}.png"), &picture(sample));
        folder.write(
            &format!("photos/{sample}.cls"),
            sample.to_string().as_bytes(),
        );
        folder.write(&format!("photos/{sample}.json"), br#"{"group": "colour"}"#);
    }
    let args = |model, data| {
        let start = ["eval", "zeroshot", "--model", model, "--data", data];
        let end = ["--classes", "names.txt", "--groups", "--json"];
        [&start[..], &end].concat()
    };
    // Most samples are those of the tar, where blue alone is cold. Their keys are those of the folder.
    let found = folder.clip(&args("model", "photos::a.tar")).json();
    let groups = found["groups"][0]["per_group"].as_array().unwrap();
    let samples: Vec<_> = groups.iter().map(|group| &group["samples"]).collect();
    assert_eq!(samples, [&Value::from(3), &6.into()], "{found}");

    std::fs::create_dir(folder.path("plain")).unwrap();
    folder.write("plain/0.png", &picture(0));
    folder.write("plain/0.cls", b"0");
    // The model would be missed if it came first.
    refused(
        &folder,
        &[(&args("gone", "plain"), &["leave out --groups"])],
    );
}

#[test]
fn class_folders_are_labels_by_name_or_by_order() {
    let folder = Folder::new();
    folder.class_folders("named", ["red", "green", "blue"]);
    folder.class_folders("inet", ["n01440764", "n01443537", "n02"]);
    let eval = |data, classes| {
        let start = ["eval", "zeroshot", "--model", "model", "--data", data];
        [&start[..], &["--classes", classes, "--json"]].concat()
    };
    // As it lies among some of ImageNet's folders.
    folder.write("inet/synsets.txt", b"of the classes");
    let expected = folder.clip(&eval("a.tar", "names.txt")).json();
    let same = |found: &Value| {
        for key in ["samples", "top1", "top5", "per_class", "confusion"] {
            assert_eq!(found[key], expected[key], "{key}");
        }
    };
    same(&folder.clip(&eval("named", "names.txt")).json());
    // What is no image's is a sample without an image.
    let share = ["--max-bad-share", "0.2"];
    same(
        &folder
            .clip(&[&eval("inet", "names.txt")[..], &share].concat())
            .json(),
    );
    let packed = folder.clip(&["data", "pack", "inet", "--out", "packed"]);
    assert_eq!(packed.code, Some(0), "{packed:?}");
    same(&folder.clip(&eval("packed/*.tar", "names.txt")).json());
    let listed = std::fs::read_to_string(folder.path("packed/classes.txt")).unwrap();
    assert_eq!(listed.lines().count(), 3, "{listed}");
    assert!(listed.lines().is_sorted(), "{listed}");

    folder.write("two.txt", b"red\ngreen\n");
    folder.write("order.txt", b"n02\nblue\nred\n");
    std::fs::remove_file(folder.path("inet/synsets.txt")).unwrap();
    let retrieval = ["eval", "retrieval", "--model", "model", "--data", "inet"];
    std::fs::create_dir(folder.path("plain")).unwrap();
    folder.write("plain/0.png", &picture(0));
    refused(
        &folder,
        &[
            (
                &eval("inet", "two.txt"),
                &["class folders of inet: there are 3, from `n01440764` to `n02`, but 2 classes"],
            ),
            (
                &eval("inet", "order.txt"),
                &["`n02` is number 3 of them and number 1 of the classes"],
            ),
            (&retrieval, &["inet (6 no caption)"]),
            (
                &eval("plain", "names.txt"),
                &["plain (1 no class)", "KEY.cls", "--labels-from caption"],
            ),
        ],
    );
}

#[test]
fn a_probe_takes_class_folders_without_a_list() {
    let folder = Folder::new();
    for split in ["train", "test"] {
        folder.class_folders(split, ["red", "green", "blue"]);
    }
    let args = |test| {
        let start = ["eval", "probe", "--model", "model", "--train", "train"];
        [&start[..], &["--val", "train", "--test", test, "--json"]].concat()
    };
    let found = folder.clip(&args("test")).json();
    assert!(found["top1"].as_f64().unwrap() > 0.9, "{found}");
    assert_eq!(found["per_class"][0]["name"], "blue");
    folder.class_folders("other", ["red", "green", "grey"]);
    let words: &[&str] = &["other has the class folder `grey`, which train hasn't"];
    refused(&folder, &[(&args("other"), words)]);
}

#[test]
fn features_are_kept_of_tars_alone() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("photos")).unwrap();
    folder.write("photos/0.png", &picture(0));
    folder.write("photos/0.txt", b"red");
    let args = ["eval", "retrieval", "--model", "model", "--data", "photos"];
    let kept = [&args[..], &["--feature-cache", "kept"]].concat();
    let words: &[&str] = &[
        "cannot keep the features of photos",
        "leave out --feature-cache",
    ];
    refused(&folder, &[(&kept, words)]);
    assert_eq!(folder.clip(&args).code, Some(0));
}

#[test]
fn retrieval_says_where_each_query_stands() {
    let folder = Folder::new();
    // An earlier file under another name: it would change with what is written in place.
    folder.write("earlier.jsonl", b"earlier");
    std::fs::hard_link(folder.path("earlier.jsonl"), folder.path("q.jsonl")).unwrap();
    let found = folder
        .clip(&[
            "eval",
            "retrieval",
            "--model",
            "model",
            "--data",
            "a.tar",
            "--per-query",
            "q.jsonl",
            "--half",
            "--json",
        ])
        .json();
    let earlier = std::fs::read(folder.path("earlier.jsonl")).unwrap();
    assert_eq!(
        earlier, b"earlier",
        "the file is replaced, and not written over"
    );
    let lines = std::fs::read_to_string(folder.path("q.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 18);
    assert_eq!(
        (&lines[2]["query"], &lines[2]["key"]),
        (&"image".into(), &"2".into())
    );
    assert_eq!(lines[7]["caption"], "red 0");
    let ranks = lines[6..].iter().map(|line| line["rank"].as_f64().unwrap());
    let mean = ranks.sum::<f64>() / 12.0;
    assert!((mean - found["t2i_mean_rank"].as_f64().unwrap()).abs() < 1e-9);
}
