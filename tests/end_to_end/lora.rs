//! Runs that train low-rank adapters.

use std::{collections::BTreeMap, fs};

use safetensors::SafeTensors;

use crate::{
    runs::{PRESET, folder, pretrain, weights},
    support::Folder,
};

const LORA: [&str; 4] = ["--init", "first/model", "--set", "lora.rank=2"];

/// With a model in `first/model` to fine-tune.
fn begun() -> Folder {
    let folder = folder();
    let first = folder.clip(&pretrain("first", &["--steps", "2"]));
    assert_eq!(first.code, Some(0), "{first:?}");
    folder
}

fn tensors(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let tensors = file
        .iter()
        .map(|(name, view)| (name.to_owned(), view.data().to_vec()));
    tensors.collect()
}

#[test]
fn what_is_saved_is_an_ordinary_model_whose_other_weights_are_the_first_ones() {
    let folder = begun();
    let ran = folder.clip(&pretrain("tuned", &LORA));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    // Two encoders of two blocks: queries, keys, values and the output have 32 rows and columns, the MLP 128 on one
    // side.
    let adapters = 4 * 2 * (4 * (32 + 32) + 2 * (32 + 128));
    let told = format!(
        "LoRA: {} parameters are trained, {adapters} of them",
        adapters + 1
    );
    assert!(ran.err.contains(&told), "{told}: {ran:?}");
    let [before, after] = ["first", "tuned"].map(|run| tensors(&weights(&folder, run)));
    let changed = before
        .iter()
        .filter(|(name, bytes)| after[*name] != **bytes);
    let changed: Vec<&str> = changed.map(|(name, _)| name.as_str()).collect();
    assert_eq!(before.len(), after.len());
    assert_eq!(changed.len(), 4 * 4 + 1, "{changed:?}");
    let expected = |name: &&str| {
        *name == "logit_scale"
            || name.contains("resblocks") && name.ends_with("weight") && !name.contains("ln_")
    };
    assert!(changed.iter().all(expected), "{changed:?}");

    // Between both models, as between any two.
    let args = "weights interpolate first/model tuned/model --share 0.5 --out between";
    let ran = folder.clip(&args.split(' ').collect::<Vec<_>>());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let ran = folder.clip(&[
        "eval",
        "retrieval",
        "--model",
        "between",
        "--data",
        "a.tar",
        "--json",
    ]);
    assert!(ran.json()["i2t_r1"].is_number(), "{ran:?}");
}

#[test]
fn adapters_learn_from_a_teacher_too() {
    let folder = begun();
    let more = [
        &LORA[..],
        &["--distill", "first/model", "--set", "threads=2"],
    ]
    .concat();
    let ran = folder.clip(&pretrain("tuned", &more));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(weights(&folder, "tuned") != weights(&folder, "first"));
}

#[test]
fn a_run_keeps_its_adapters_settings() {
    let folder = begun();
    let ran = folder.clip(&pretrain("tuned", &LORA));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let longer = ["pretrain", "--resume", "tuned", "--steps", "12"];
    for (set, told) in [
        ("lora.rank=3", "lora.rank: 2 -> 3"),
        ("lora.alpha=3", "lora.alpha: 8.0 -> 3.0"),
        ("lora.train=[\"ln_final\"]", "lora.train"),
        ("lock_image=true", "lock_image: false -> true"),
    ] {
        let ran = folder.clip(&[&longer[..], &["--set", set]].concat());
        assert_eq!(ran.code, Some(1), "{set}: {ran:?}");
        assert!(ran.err.contains(told), "{set}: {ran:?}");
    }
    // What it began with may be gone.
    fs::remove_dir_all(folder.path("first")).unwrap();
    let ran = folder.clip(&longer);
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[test]
fn what_has_nothing_to_adapt_is_refused_before_a_run_is_made() {
    let folder = folder();
    let layers = PRESET.replacen(
        "\"layers\": 2, \"width\": 32",
        "\"layers\": [1, 1, 1, 1], \"width\": 8",
        1,
    );
    let layers = layers.replace("\"image_size\": 16", "\"image_size\": 32");
    folder.write("resnet.json", layers.as_bytes());
    for (preset, set, told) in [
        (
            "resnet.json",
            "lora.rank=2",
            "the image encoder has nothing to adapt",
        ),
        ("tiny.json", "lora.rank=33", "`lora.rank` is 33"),
        ("tiny.json", "lora.rank=0", "`lora.rank` must be at least 1"),
        (
            "tiny.json",
            "lora.targets=[]",
            "`lora.targets` must name a matrix",
        ),
        ("tiny.json", "lora.targets=[\"qkv\"]", "q_proj"),
        ("tiny.json", "lora={ train = [\"norm\"] }", "\"norm\""),
        ("tiny.json", "lora={ dropout = 0.1 }", "dropout"),
    ] {
        let args = pretrain("refused", &["--set", set]);
        let args: Vec<&str> = args
            .iter()
            .map(|arg| if *arg == "tiny.json" { preset } else { *arg })
            .collect();
        let ran = folder.clip(&args);
        assert_eq!(ran.code, Some(2), "{set}: {ran:?}");
        assert!(ran.err.contains(told), "{set}: {ran:?}");
    }
    let lamb = ["--set", "lora.rank=2", "--set", "optimizer.kind=lamb"];
    let ran = folder.clip(&pretrain("refused", &lamb));
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.contains("with `lora`"), "{ran:?}");
    assert!(!folder.path("refused").exists());
}

#[test]
fn adapters_of_random_weights_are_only_odd() {
    let folder = folder();
    let ran = folder.clip(&pretrain("odd", &["--set", "lora.rank=2"]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.err.contains("`lora` adapts random weights"), "{ran:?}");
}
