use std::{io::Write, process::Stdio};

use clip_zeroshot::EncodeTexts;
use serde_json::Value;

use crate::support::{Folder, encoders, encoders_of, picture};

#[test]
fn classify_prints_probabilities_of_own_labels() {
    let folder = Folder::new();
    let args = ["classify", "0.png", "1.png", "--model", "model"];
    let ran = folder.clip(&[&args[..], &["--labels", "red,green,blue", "--json"]].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let lines: Vec<Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["image"], "1.png");
    let labels = lines[0]["labels"].as_array().unwrap();
    let sum: f64 = labels
        .iter()
        .map(|label| label["probability"].as_f64().unwrap())
        .sum();
    assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    assert!(labels[0]["probability"].as_f64() >= labels[1]["probability"].as_f64());
    let by_file = folder.clip(&[&args[..], &["--classes", "names.txt", "--json"]].concat());
    assert_eq!(by_file.out, ran.out);
    let table = folder.clip(&[&args[..], &["--labels", "red,green", "--top", "1"]].concat());
    assert_eq!(table.out.lines().count(), 4, "{table:?}");
}

#[test]
fn a_siglip_model_is_asked_of_each_label_alone() {
    let folder = Folder::new();
    let json = r#"{"embed_dim": 16, "init_logit_scale": 1.0, "init_logit_bias": -10.0, "vision_cfg": {"image_size": 16,
        "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}, "text_cfg": {"context_length": 12,
        "vocab_size": 540, "width": 16, "heads": 2, "layers": 1}}"#;
    encoders_of(json).save(&folder.path("siglip")).unwrap();
    let args = [
        "classify",
        "0.png",
        "--model",
        "siglip",
        "--labels",
        "red,green,blue",
    ];
    let found = folder.clip(&[&args[..], &["--json"]].concat()).json();
    for label in found["labels"].as_array().unwrap() {
        // A cosine times e, and the bias: nothing matches.
        let probability = label["probability"].as_f64().unwrap();
        assert!(probability > 0.0 && probability < 1e-3, "{label}");
    }
}

#[test]
fn images_are_named_by_folder_by_glob_or_on_stdin() {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.path("album/deep")).unwrap();
    folder.write("album/b.PNG", &picture(1));
    folder.write("album/deep/a.png", &picture(2));
    folder.write("album/notes.txt", b"no image");
    let args = |image| {
        [
            "classify", image, "--model", "model", "--labels", "a,b", "--json",
        ]
    };
    let images = |out: &str| -> Vec<String> {
        let object = |line: &str| serde_json::from_str::<Value>(line).unwrap();
        let image = |line| object(line)["image"].as_str().unwrap().to_owned();
        out.lines().map(image).collect()
    };
    let below = folder.clip(&args("album"));
    assert_eq!(images(&below.out), ["album/b.PNG", "album/deep/a.png"]);
    assert_eq!(
        images(&folder.clip(&args("[01].png")).out),
        ["0.png", "1.png"]
    );
    let listed = |list: &[u8]| {
        let mut clip = folder.command(&args("-"));
        let piped = Stdio::piped;
        let mut clip = clip.stdin(piped()).stdout(piped()).spawn().unwrap();
        clip.stdin.take().unwrap().write_all(list).unwrap();
        let output = clip.wait_with_output().unwrap();
        images(&String::from_utf8(output.stdout).unwrap())
    };
    let found = listed(b"2.png\n\nalbum/b.PNG\n");
    assert_eq!(found, ["2.png", "album/b.PNG"]);
    #[cfg(unix)]
    {
        use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

        let name = OsStr::from_bytes(b"caf\xe9.png");
        std::fs::write(folder.path(".").join(name), picture(3)).unwrap();
        assert_eq!(listed(b"2.png\ncaf\xe9.png\n").len(), 2);
    }
    let nothing = folder.clip(&args("*.webp"));
    assert_eq!(nothing.code, Some(1));
    assert!(
        nothing.err.contains("no file matches `*.webp`"),
        "{nothing:?}"
    );
}

#[test]
fn a_file_that_is_no_image_costs_only_itself() {
    let folder = Folder::new();
    folder.write("note.jpg", b"no image");
    let ran = folder.clip(&[
        "classify",
        "note.jpg",
        "0.png",
        "gone.png",
        "--model",
        "model",
        "--labels",
        "red,green",
        "--json",
    ]);
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.out.lines().count(), 1);
    assert!(ran.out.contains("0.png"), "{ran:?}");
    assert!(
        ran.err.contains("error: note.jpg is not a usable image"),
        "{ran:?}"
    );
    assert!(ran.err.contains("cannot read gone.png"), "{ran:?}");
    assert!(
        ran.err.contains("2 of 3 images could not be classified"),
        "{ran:?}"
    );
}

#[test]
fn embed_writes_normalised_features() {
    let folder = Folder::new();
    folder.write("texts.txt", b"a red square\n\nblue\n");
    let ran = folder.clip(&[
        "embed",
        "--model",
        "model",
        "--images",
        "0.png",
        "1.png",
        "--texts",
        "texts.txt",
        "--out",
        "x.safetensors",
        "--json",
    ]);
    let shapes = ran.json();
    assert_eq!(shapes["image_features"], serde_json::json!([2, 16]));
    assert_eq!(shapes["text_features"], serde_json::json!([3, 16]));
    for row in folder.rows("x.safetensors", "image_features") {
        let norm: f32 = row.iter().map(|value| value * value).sum();
        assert!((norm - 1.0).abs() < 1e-5, "{norm}");
    }
    let texts = ["a red square", "", "blue"].map(str::to_owned);
    let expected = encoders().encode_texts(&texts).unwrap();
    let expected = clip_model::l2_normalize(expected)
        .try_into_vec_as::<f32>()
        .unwrap();
    let got = folder.rows("x.safetensors", "text_features").concat();
    for (got, expected) in got.iter().zip(&expected) {
        // Sums in another order, as texts are encoded by length.
        assert!((got - expected).abs() < 1e-5, "{got} {expected}");
    }
    let only = folder.clip(&[
        "embed",
        "--model",
        "model",
        "--images",
        "2.png",
        "--out",
        "y.safetensors",
    ]);
    assert_eq!(only.out, "image_features [1, 16]\n");
    let left: Vec<_> = std::fs::read_dir(folder.path("")).unwrap().collect();
    let partial = |name: &std::ffi::OsStr| name.to_string_lossy().contains("partial");
    assert!(
        left.into_iter()
            .all(|entry| !partial(&entry.unwrap().file_name()))
    );
}

#[test]
fn embed_takes_folders_and_stdin_and_says_whose_rows_there_are() {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.path("album/deep")).unwrap();
    folder.write("album/deep/a.png", &picture(1));
    folder.write("album/b.png", b"no image");
    let args = ["embed", "--model", "model", "--out", "x.safetensors"];
    let ran = folder.clip(&[&args[..], &["--images", "album", "?.png"]].concat());
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(ran.out, "image_features [4, 16]\n");
    assert!(
        ran.err.contains("error: album/b.png is not a usable"),
        "{ran:?}"
    );
    assert!(
        ran.err.contains("1 of 5 images could not be read"),
        "{ran:?}"
    );
    let bytes = std::fs::read(folder.path("x.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let paths = tensors.tensor("image_paths").unwrap();
    let paths: Vec<String> = serde_json::from_slice(paths.data()).unwrap();
    assert_eq!(paths, ["album/deep/a.png", "0.png", "1.png", "2.png"]);

    let mut command = folder.command(&[&args[..], &["--texts", "-"]].concat());
    let piped = Stdio::piped;
    let mut clip = command.stdin(piped()).stdout(piped()).spawn().unwrap();
    clip.stdin
        .take()
        .unwrap()
        .write_all(b"red\nblue\n")
        .unwrap();
    let output = clip.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"text_features [2, 16]\n");
    let both = [&args[..], &["--texts", "-", "--images", "-"]].concat();
    let ran = folder.clip(&both);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.contains("both read stdin"), "{ran:?}");
}

#[test]
fn half_precision_gives_nearly_the_same_features() {
    let folder = Folder::new();
    folder.write("texts.txt", b"a red square\nblue\n");
    let features = |precision: &str| {
        let out = format!("{precision}.safetensors");
        let args = ["embed", "--model", "model", "--images", "0.png", "1.png"];
        let more = [
            "--texts",
            "texts.txt",
            "--precision",
            precision,
            "--out",
            &out,
        ];
        let ran = folder.clip(&[&args[..], &more].concat());
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let rows = |name: &str| folder.rows(&out, name);
        [rows("image_features"), rows("text_features")].concat()
    };
    let exact = features("f32");
    for (precision, least) in [("f16", 0.9999), ("bf16", 0.999)] {
        let half = features(precision);
        assert_ne!(half, exact, "{precision}");
        for (half, exact) in half.iter().zip(&exact) {
            let cosine: f32 = half.iter().zip(exact).map(|(a, b)| a * b).sum();
            assert!(cosine > least, "{precision}: {cosine}");
        }
    }
    let ran = folder.clip(&[
        "embed",
        "--model",
        "model",
        "--precision",
        "fp8",
        "--out",
        "x",
    ]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.contains("f32, bf16 or f16"), "{ran:?}");
}

#[test]
fn inspect_counts_what_is_there() {
    let folder = Folder::new();
    let found = |what: &str| folder.clip(&["weights", "inspect", what, "--json"]).json();
    let dir = found("model");
    assert_eq!(dir["params"], encoders().config().num_params());
    assert_eq!(found("model/open_clip_model.safetensors"), dir);
    // The only file of weights, beside the index that a search keeps.
    std::fs::create_dir(folder.path("bare")).unwrap();
    for name in ["bare/own.safetensors", "bare/.clip-index.safetensors"] {
        let weights = folder.path("model/open_clip_model.safetensors");
        std::fs::copy(weights, folder.path(name)).unwrap();
    }
    assert_eq!(found("bare"), dir);
    let names: Vec<_> = dir["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| &t["name"])
        .collect();
    assert!(
        names.contains(&&Value::from("visual.conv1.weight")),
        "{names:?}"
    );
    // The parameters of open_clip_torch 3.3.0's ViT-B-32; its `state_dict` has as many tensors.
    let preset = found("ViT-B-32");
    assert_eq!(preset["params"], 151_277_313);
    assert_eq!(preset["tensors"].as_array().unwrap().len(), 302);
    let table = folder.clip(&["weights", "inspect", "model"]);
    assert!(table.out.contains("visual.conv1.weight"), "{table:?}");
}
