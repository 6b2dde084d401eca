//! `clip weights import`, `export` and `inspect`.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::Value;

use crate::support::{Folder, encoders_of, refused};

/// A tiny model in every form, which clip-model's tests compare (`tests/reference/weights.py` there).
pub(crate) fn fixture(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    folder
        .join("../crates/clip-model/tests/reference/weights")
        .join(name)
}

/// The architecture of that model, which its shapes don't tell: its heads are smaller than the paper's.
pub(crate) const CONFIG: &str = r#"{"embed_dim": 4, "quick_gelu": true, "vision_cfg": {"image_size": 8, "layers": 2,
    "width": 8, "head_width": 4, "patch_size": 4}, "text_cfg": {"context_length": 6, "vocab_size": 20,
    "width": 8, "heads": 2, "layers": 1}}"#;

fn import<'a>(source: &'a str, out: &'a str) -> [&'a str; 7] {
    [
        "weights",
        "import",
        source,
        "--out",
        out,
        "--preset",
        "config.json",
    ]
}

#[test]
fn weights_come_in_and_go_out_unchanged() {
    let folder = Folder::new();
    folder.write("config.json", CONFIG.as_bytes());
    let archive = fixture("torchscript.pt");
    let ran = folder.clip(&import(archive.to_str().unwrap(), "in"));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(
        ran.err.contains("TorchScript") && ran.err.contains("QuickGELU"),
        "{ran:?}"
    );
    let export = |from: &str, format: &str, dtype: &str, out: &str| {
        let args = [
            "weights", "export", from, "--format", format, "--dtype", dtype, "--out", out,
        ];
        folder.clip(&args)
    };
    let ran = export("in", "openclip", "f32", "out");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let weights =
        |dir: &str| std::fs::read(folder.path(dir).join("open_clip_model.safetensors")).unwrap();
    assert_eq!(weights("out"), weights("in"));
    assert_eq!(export("in", "openclip", "f16", "half").code, Some(0));
    let inspected = |what: &str| folder.clip(&["weights", "inspect", what, "--json"]).json();
    assert_eq!(inspected("half")["params"], inspected("in")["params"]);
    assert_eq!(inspected("half")["tensors"][0]["dtype"], "F16");
    // CLIPModel comes with a tokenizer, and this vocabulary has none.
    let ran = export("in", "hf", "f32", "hf");
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("tokenizer.json"), "{ran:?}");
    assert!(!folder.path("hf").exists());
}

#[test]
fn a_model_with_a_tokenizer_survives_transformers_layout() {
    let folder = Folder::new();
    let args = [
        "weights", "export", "model", "--format", "hf", "--out", "hf",
    ];
    let ran = folder.clip(&args);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for file in [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
    ] {
        assert!(folder.path("hf").join(file).is_file(), "{file}");
    }
    assert_eq!(
        folder
            .clip(&["weights", "import", "hf", "--out", "back"])
            .code,
        Some(0)
    );
    let read = |dir: &str, file: &str| std::fs::read(folder.path(dir).join(file)).unwrap();
    for file in ["open_clip_config.json", "tokenizer.json"] {
        let json = |dir| serde_json::from_slice::<Value>(&read(dir, file)).unwrap();
        assert_eq!(json("back"), json("model"), "{file}");
    }
    let features = |dir: &str| {
        let out = format!("{dir}.safetensors");
        let args = [
            "embed",
            "--model",
            dir,
            "--images",
            "0.png",
            "--texts",
            "names.txt",
            "--out",
            &out,
        ];
        assert_eq!(folder.clip(&args).code, Some(0));
        read("", &out)
    };
    assert_eq!(features("back"), features("model"));
}

#[test]
fn a_vocabulary_as_large_as_clips_own_stays_the_models() {
    let folder = Folder::new();
    let json = r#"{"embed_dim": 16, "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "head_width": 16,
        "patch_size": 8}, "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2,
        "layers": 1}}"#;
    encoders_of(json).save(&folder.path("own")).unwrap();
    for args in [
        "weights export own --format hf --out hf",
        "weights import hf --out back",
    ] {
        let ran = folder.clip(&args.split(' ').collect::<Vec<_>>());
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
    let words = |dir: &str| {
        let file = std::fs::read(folder.path(dir).join("tokenizer.json")).unwrap();
        serde_json::from_slice::<Value>(&file).unwrap()["model"].take()
    };
    assert!(words("back") == words("own"));
}

#[test]
fn what_does_not_fit_is_listed_and_nothing_is_written() {
    let folder = Folder::new();
    let wider = CONFIG.replace(r#""embed_dim": 4"#, r#""embed_dim": 5"#);
    folder.write(
        "config.json",
        wider.replace(r#""layers": 2"#, r#""layers": 1"#).as_bytes(),
    );
    let source = fixture("checkpoint.pt");
    let ran = folder.clip(&import(source.to_str().unwrap(), "in"));
    assert_eq!(ran.code, Some(1));
    for part in [
        "unexpected visual.transformer.resblocks.1.attn.in_proj_bias",
        "visual.proj has shape [8, 4], expected [8, 5]",
        "text_projection has shape [8, 4], expected [8, 5]",
    ] {
        assert!(ran.err.contains(part), "{part}: {ran:?}");
    }
    let left = std::fs::read_dir(folder.path("")).unwrap();
    let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(left.into_iter().all(|name| !name.starts_with("in")));
}

#[test]
fn an_existing_folder_is_kept() {
    let folder = Folder::new();
    folder.write("config.json", CONFIG.as_bytes());
    let before = std::fs::read(folder.path("model/open_clip_model.safetensors")).unwrap();
    let source = fixture("state_dict.pt");
    let ran = folder.clip(&import(source.to_str().unwrap(), "model"));
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("nothing is overwritten"), "{ran:?}");
    assert_eq!(
        std::fs::read(folder.path("model/open_clip_model.safetensors")).unwrap(),
        before
    );
}

#[test]
fn another_image_size_is_said_out_loud() {
    let folder = Folder::new();
    let args = [
        "weights",
        "import",
        "model",
        "--out",
        "large",
        "--image-size",
        "32",
    ];
    let ran = folder.clip(&args);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(
        ran.err.contains("resized from a 2x2 grid to 4x4"),
        "{ran:?}"
    );
    let found = folder
        .clip(&["weights", "inspect", "large", "--json"])
        .json();
    let tensors = found["tensors"].as_array().unwrap();
    let mut positions = tensors
        .iter()
        .filter(|tensor| tensor["name"] == "visual.positional_embedding");
    assert_eq!(
        positions.next().unwrap()["shape"],
        serde_json::json!([17, 32])
    );
}

#[test]
fn a_pickle_that_would_run_something_is_refused() {
    let folder = Folder::new();
    folder.write(
        "evil.bin",
        b"\x80\x02cposix\nsystem\nX\x0c\x00\x00\x00touch PWNED.\x85R.",
    );
    for args in [
        &["weights", "inspect", "evil.bin"][..],
        &["weights", "import", "evil.bin", "--out", "in"],
    ] {
        let ran = folder.clip(args);
        assert_eq!(ran.code, Some(1));
        assert!(ran.err.contains("`posix.system`"), "{ran:?}");
    }
    assert!(!folder.path("PWNED.").exists() && !folder.path("in").exists());
}

/// Downloads break off and disks rot. The library's tests damage files at many more places.
#[test]
fn damaged_files_are_refused_and_nothing_is_written() {
    let folder = Folder::new();
    folder.write("config.json", CONFIG.as_bytes());
    let index = br#"{"weight_map": {"a": "../../etc/passwd"}}"#;
    folder.write("escapes.safetensors.index.json", index);
    folder.write("empty.pt", b"");
    folder.write("huge.safetensors", &[0xff; 64]);
    let mut sources = vec![
        "escapes.safetensors.index.json".to_owned(),
        "empty.pt".to_owned(),
        "huge.safetensors".to_owned(),
        "gone.pt".to_owned(),
        "0.png".to_owned(),
    ];
    for name in ["torchscript.pt", "state_dict.pt", "reference.safetensors"] {
        let whole = std::fs::read(fixture(name)).unwrap();
        for (number, length) in [1, 9, whole.len() / 2, whole.len() - 1]
            .into_iter()
            .enumerate()
        {
            let source = format!("{number}-{name}");
            folder.write(&source, &whole[..length]);
            sources.push(source);
        }
    }
    for source in sources {
        let ran = folder.clip(&import(&source, "in"));
        assert_eq!(ran.code, Some(1), "{source}: {ran:?}");
        assert!(ran.err.contains(&source), "{source}: {ran:?}");
        assert!(!folder.path("in").exists(), "{source}");
    }
    let names = std::fs::read_dir(folder.path("")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(names.into_iter().all(|name| !name.contains("partial")));
}

#[test]
fn a_model_between_two_is_made_of_both() {
    let folder = Folder::new();
    let ran = folder.clip(&[
        "weights",
        "interpolate",
        "model",
        "model",
        "--share",
        "0.5",
        "--out",
        "same",
    ]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for file in [
        "open_clip_model.safetensors",
        "tokenizer.json",
        "open_clip_config.json",
    ] {
        let read = |dir: &str| std::fs::read(folder.path(dir).join(file)).unwrap();
        assert_eq!(read("same"), read("model"), "{file}");
    }
    let wrong = folder.clip(&[
        "weights",
        "interpolate",
        "model",
        "model",
        "--share",
        "1.5",
        "--out",
        "x",
    ]);
    assert_eq!(wrong.code, Some(2), "{wrong:?}");

    let grown = [
        "weights",
        "import",
        "model",
        "--out",
        "large",
        "--image-size",
        "32",
    ];
    assert_eq!(folder.clip(&grown).code, Some(0));
    let config = folder.path("large/open_clip_config.json");
    let json = std::fs::read_to_string(&config).unwrap();
    let json = json.replace(
        r#""embed_dim": 16"#,
        r#""embed_dim": 16, "quick_gelu": true"#,
    );
    std::fs::write(&config, json).unwrap();
    let ran = folder.clip(&[
        "weights",
        "interpolate",
        "model",
        "large",
        "--share",
        "0.5",
        "--out",
        "x",
    ]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    for part in [
        "`vision_cfg.image_size` is 16 and 32",
        "`quick_gelu` is not set and true",
    ] {
        assert!(ran.err.contains(part), "{part}: {ran:?}");
    }
    assert!(!folder.path("x").exists());
}

#[test]
fn models_are_joined_by_their_words_whatever_start_and_end_are_called() {
    let folder = Folder::new();
    let tokenizer = std::fs::read_to_string(folder.path("model/tokenizer.json")).unwrap();
    let beside = |name: &str, tokenizer: &str| {
        let there = folder.path(name);
        std::fs::create_dir(&there).unwrap();
        for entry in std::fs::read_dir(folder.path("model")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), there.join(entry.file_name())).unwrap();
        }
        std::fs::write(there.join("tokenizer.json"), tokenizer).unwrap();
        let line = format!("weights interpolate {name} model --share 0.5 --out between-{name}");
        folder.clip(&line.split(' ').collect::<Vec<_>>())
    };
    // OpenAI's names, and merges as they were once written.
    let mut theirs: serde_json::Value = serde_json::from_str(
        &tokenizer
            .replace("<start_of_text>", "<|startoftext|>")
            .replace("<end_of_text>", "<|endoftext|>"),
    )
    .unwrap();
    for merge in theirs["model"]["merges"].as_array_mut().unwrap() {
        let line = format!(
            "{} {}",
            merge[0].as_str().unwrap(),
            merge[1].as_str().unwrap()
        );
        *merge = line.into();
    }
    let ran = beside("theirs", &theirs.to_string());
    assert_eq!(ran.code, Some(0), "{ran:?}");

    let vocabulary = theirs["model"]["vocab"].as_object_mut().unwrap();
    let (a, b) = (vocabulary["a"].clone(), vocabulary["b"].clone());
    vocabulary["a"] = b;
    vocabulary["b"] = a;
    let ran = beside("other", &theirs.to_string());
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("different tokenizers"), "{ran:?}");
}

#[test]
fn what_was_written_is_told_as_json() {
    let folder = Folder::new();
    let inspected = folder.clip(&["weights", "inspect", "model", "--json"]);
    let params = &inspected.json()["params"];
    for command in [
        "import model",
        "export model --format openclip",
        "interpolate model model --share 0.5",
    ] {
        let out = command.split(' ').next().unwrap();
        let line = format!("weights {command} --out {out} --json");
        let ran = folder.clip(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(
            ran.json(),
            serde_json::json!({ "out": out, "params": params })
        );
    }
}

#[test]
fn a_model_that_nobody_could_hold_is_not_made_to_be_listed() {
    let folder = Folder::new();
    folder.write(
        "vast.json",
        br#"{"embed_dim": 65536, "vision_cfg": {"image_size": 224, "layers": 1024, "width": 65536, "patch_size": 14},
            "text_cfg": {"width": 65536, "heads": 1024, "layers": 1024}}"#,
    );
    let words = ["vast.json describes a model of", "reduce its widths"];
    refused(&folder, &[(&["weights", "inspect", "vast.json"], &words)]);
}

#[test]
fn buffers_are_not_counted_as_parameters() {
    let folder = Folder::new();
    let found = folder
        .clip(&["weights", "inspect", "RN50", "--json"])
        .json();
    assert_eq!(found["params"], 102_007_137); // OpenCLIP's count
}

/// Deployed without this program or OpenCLIP: all that a caller needs is in the folder. What the files compute is tested in
/// clip-onnx.
#[test]
fn a_model_goes_out_as_onnx() {
    let folder = Folder::new();
    let export = |dtype: &str, out: &str| {
        let args = [
            "weights", "export", "model", "--format", "onnx", "--dtype", dtype, "--out", out,
        ];
        folder.clip(&args)
    };
    let ran = export("f32", "onnx");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.out.trim(), "onnx");
    for file in [
        "tokenizer.json",
        "tokenizer_config.json",
        "preprocessor_config.json",
    ] {
        assert!(folder.path("onnx").join(file).is_file(), "{file}");
    }
    let read = |dir: &str, file: &str| std::fs::read(folder.path(dir).join(file)).unwrap();
    let config = "open_clip_config.json";
    let json = |dir| serde_json::from_slice::<Value>(&read(dir, config)).unwrap();
    assert_eq!(json("onnx"), json("model"));
    assert_eq!(export("f16", "half").code, Some(0));
    for (file, names) in [
        ("image_encoder.onnx", ["pixel_values", "image_embeds"]),
        ("text_encoder.onnx", ["input_ids", "text_embeds"]),
    ] {
        let [whole, half] = ["onnx", "half"].map(|dir| read(dir, file));
        for name in names.into_iter().chain(["logit_scale"]) {
            let mut windows = whole.windows(name.len());
            assert!(windows.any(|window| window == name.as_bytes()), "{name}");
        }
        assert!(half.len() < whole.len(), "{file}");
    }
    let again = export("f32", "onnx");
    assert_eq!(again.code, Some(1));
    assert!(again.err.contains("nothing is overwritten"), "{again:?}");
}

#[test]
fn what_clip_model_cannot_hold_is_not_exported() {
    let folder = Folder::new();
    let config = folder.path("model/open_clip_config.json");
    let json = std::fs::read_to_string(&config).unwrap();
    let json = json.replace(
        r#""context_length""#,
        r#""no_causal_mask": true, "context_length""#,
    );
    std::fs::write(&config, json).unwrap();
    let ran = folder.clip(&[
        "weights", "export", "model", "--format", "hf", "--out", "hf",
    ]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("`text_cfg.no_causal_mask`"), "{ran:?}");
    assert!(!folder.path("hf").exists());
}

#[test]
fn a_weight_that_half_precision_cannot_hold_is_not_written_as_infinite() {
    let folder = Folder::new();
    let path = folder.path("model/open_clip_model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let weight = tensors.tensor("ln_final.weight").unwrap().data();
    let at = weight.as_ptr().addr() - bytes.as_ptr().addr();
    bytes[at..at + 4].copy_from_slice(&1e5_f32.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    for (dtype, code) in [("f16", 1), ("bf16", 0)] {
        let ran = folder.clip(&[
            "weights", "export", "model", "--format", "openclip", "--dtype", dtype, "--out", dtype,
        ]);
        assert_eq!(ran.code, Some(code), "{ran:?}");
        let told = ran.err.contains("ln_final.weight of model has 100000");
        assert_eq!(told, dtype == "f16", "{ran:?}");
    }
    assert!(!folder.path("f16").exists());
}
