//! A run's checkpoints used as models: what their weights mean is in the run's directory.

use std::fs;

use serde_json::Value;

use crate::{
    runs::{PRESET, folder, pretrain},
    support::{Folder, refused},
};

/// A run with a vocabulary of its own, heads that no shape tells, and images normalised otherwise than by default, which
/// ended with its tenth step, a checkpoint.
fn trained(folder: &Folder) {
    folder.write(
        "tiny.json",
        PRESET.replace("\"heads\": 2", "\"heads\": 4").as_bytes(),
    );
    let ran = folder.clip(&pretrain(
        "run",
        &[
            "--set",
            "preprocess.mean=[0.5, 0.5, 0.5]",
            "--set",
            "preprocess.std=[0.5, 0.5, 0.5]",
            "--set",
            "ema=0.5",
        ],
    ));
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

const LAST: &str = "run/checkpoints/step-00000010";

#[test]
fn the_last_checkpoint_is_the_runs_model_by_every_command() {
    let folder = folder();
    trained(&folder);
    let features = |model: &str, out: &str| {
        let args = [
            "embed",
            "--model",
            model,
            "--images",
            "0.png",
            "1.png",
            "--texts",
            "names.txt",
            "--out",
            out,
        ];
        let ran = folder.clip(&args);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        ["image_features", "text_features"].map(|name| folder.rows(out, name))
    };
    let expected = features("run/model", "model.safetensors");
    assert_eq!(features(LAST, "checkpoint.safetensors"), expected);
    assert_eq!(
        features("local-dir:run/model", "local.safetensors"),
        expected
    );
    let averaged = features("run/model-ema", "ema.safetensors");
    assert_ne!(averaged, expected);
    let ema = format!("{LAST}/ema.safetensors");
    assert_eq!(features(&ema, "averaged.safetensors"), averaged);

    let file = |name: &str| std::fs::read(folder.path(name)).unwrap();
    let ran = folder.clip(&["weights", "import", LAST, "--out", "imported"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.err.contains("are those of run"), "{ran:?}");
    for name in [
        "open_clip_config.json",
        "open_clip_model.safetensors",
        "tokenizer.json",
    ] {
        assert_eq!(
            file(&format!("imported/{name}")),
            file(&format!("run/model/{name}")),
            "{name}"
        );
    }
    let between = [
        "weights",
        "interpolate",
        "run/model",
        LAST,
        "--share",
        "1",
        "--out",
        "between",
    ];
    let ran = folder.clip(&between);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(
        file("between/open_clip_model.safetensors"),
        file("run/model/open_clip_model.safetensors")
    );
    let params = |what: &str| -> Value {
        folder.clip(&["weights", "inspect", what, "--json"]).json()["params"].clone()
    };
    assert_eq!(params(LAST), params("run/model"));
}

#[test]
fn a_run_begins_with_another_runs_checkpoint_and_takes_its_architecture() {
    let folder = folder();
    trained(&folder);
    let begin = |out: &'static str, init: &'static str| {
        let args = [
            "pretrain",
            "--train",
            "train-{0..1}.tar",
            "--steps",
            "1",
            "--batch",
            "8",
            "--lr",
            "1e-300",
            "--init",
            init,
            "--out",
            out,
            "--plain",
        ];
        let ran = folder.clip(&args);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let file = format!("{out}/model/open_clip_model.safetensors");
        std::fs::read(folder.path(&file)).unwrap()
    };
    let from_model = begin("second", "run/model");
    assert_eq!(begin("third", LAST), from_model);
    assert_eq!(begin("fourth", "local-dir:run/model"), from_model);
    let config = |run: &str| {
        let text =
            std::fs::read_to_string(folder.path(run).join("model/open_clip_config.json")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()
    };
    assert_eq!(config("third"), config("second"));
    assert_eq!(config("third")["model_cfg"]["text_cfg"]["heads"], 4);
    assert_eq!(config("third")["preprocess_cfg"]["mean"][0], 0.5);
}

#[test]
fn a_run_and_a_checkpoint_away_from_it_are_refused_with_what_to_name() {
    let folder = folder();
    trained(&folder);
    std::fs::rename(folder.path(LAST), folder.path("moved")).unwrap();
    let classify = |model| {
        [
            "classify", "0.png", "--labels", "red,blue", "--model", model,
        ]
    };
    let import = |source| ["weights", "import", source, "--out", "out"];
    let both: &[&str] = &[
        "run is a run's directory",
        "run/model,",
        "run/checkpoints/step-N",
    ];
    let lone: &[&str] = &["moved is a checkpoint of a run", "RUN/checkpoints/step-N"];
    refused(
        &folder,
        &[
            (&classify("run"), both),
            (&import("run"), both),
            (&classify("moved"), lone),
            (&import("moved"), lone),
        ],
    );
    assert!(!folder.path("out").exists());
}

#[test]
fn a_vocabulary_that_is_learned_here_takes_the_place_of_the_presets() {
    let folder = folder();
    // As SigLIP's presets say of theirs.
    let theirs = "\"heads\": 2, \"hf_tokenizer_name\": \"timm/ViT-B-16-SigLIP\", \"tokenizer_kwargs\": {\"clean\": \"canonicalize\"}";
    let preset = PRESET.replace("\"heads\": 2", theirs);
    folder.write("tiny.json", preset.as_bytes());
    let begun = folder.clip(&pretrain("run", &["--steps", "2"]));
    assert_eq!(begun.code, Some(0), "{begun:?}");
    let resumed = folder.clip(&["pretrain", "--resume", "run", "--steps", "4"]);
    assert_eq!(resumed.code, Some(0), "{resumed:?}");
    for model in ["run/model", "run/checkpoints/step-00000004"] {
        let ran = folder.clip(&[
            "classify", "0.png", "--labels", "red,blue", "--model", model,
        ]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
    let config = fs::read_to_string(folder.path("run/model/open_clip_config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    let kwargs = &config["model_cfg"]["text_cfg"]["tokenizer_kwargs"];
    assert_eq!(kwargs["clean"], "lower", "{config}");
}
