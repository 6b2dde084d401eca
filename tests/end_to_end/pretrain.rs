use std::fs;

use serde_json::Value;

use crate::runs::{PRESET, checkpoints, folder, metrics, pretrain, weights};

#[test]
fn a_run_leaves_a_model_that_every_command_uses() {
    let folder = folder();
    fs::write(folder.path("templates.txt"), "a {} square\n{}\n").unwrap();
    fs::write(folder.path("twice.txt"), "red\ngreen\nblue\nred\n").unwrap();
    fs::write(
        folder.path("run.toml"),
        "lr = 3e-3\n[eval]\nsteps = 5\n[[data.zeroshot]]\nname = \"squares\"\nshards = \"a.tar\"\n\
         classes = \"names.txt\"\ntemplates = \"templates.txt\"\n[[data.zeroshot]]\nname = \"twice\"\n\
         shards = \"a.tar\"\nclasses = \"twice.txt\"\nallow_duplicates = true\ntemplates = \"templates.txt\"\n",
    )
    .unwrap();
    let more = ["--val", "a.tar", "--config", "run.toml", "--json"];
    let ran = folder.clip(&pretrain("deep/run", &more));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let found: Value = serde_json::from_str(ran.out.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&found["steps"], &found["samples"]),
        (&10.into(), &80.into())
    );
    assert_eq!(found["model_dir"], "deep/run/model");
    assert!(found["images_per_s"].as_f64().unwrap() > 0.0);
    let top1 = found["zeroshot"]["top1_squares"].clone();
    assert!(top1.is_number(), "{found}");
    assert!(found["zeroshot"]["top1_twice"].is_number(), "{found}");

    // The directory gives what the run found.
    let shards = ["--model", "deep/run/model", "--data", "a.tar", "--json"];
    let again = folder
        .clip(&[&["eval", "retrieval"], &shards[..]].concat())
        .json();
    for key in ["i2t_r1", "i2t_r10", "t2i_r5", "i2t_median_rank"] {
        assert_eq!(again[key], found["retrieval"][key], "{key}");
    }
    let classes = ["--classes", "names.txt", "--templates", "templates.txt"];
    let again = folder.clip(&[&["eval", "zeroshot"], &shards[..], &classes].concat());
    assert_eq!(again.json()["top1"], top1);

    let lines = metrics(&folder, "deep/run");
    assert_eq!(lines.len(), 12, "ten steps, two evaluations");
    assert_eq!(lines[11]["zeroshot_top1_squares"], top1);
    assert!(found["val_loss"].as_f64().unwrap() > 0.0, "{found}");
    assert_eq!(lines[11]["val_loss"], found["val_loss"]);
    let report = fs::read_to_string(folder.path("deep/run/report.html")).unwrap();
    for part in ["image→text", "squares", "data:image/png"] {
        assert!(report.contains(part), "{part} is not in the report");
    }
    let config = fs::read_to_string(folder.path("deep/run/config.toml")).unwrap();
    assert!(
        config.contains("lr = 0.003") && config.contains("beta_2 = 0.98"),
        "{config}"
    );
}

#[test]
fn what_cannot_be_trained_is_refused_before_anything_is_made() {
    let folder = folder();
    folder.write("empty.toml", b"lr = 1e-3\nlerning_rate = 1\n");
    folder.broken("wordless.tar", 1, 1);
    // What is failed is 1; a setting that can't be is wrong usage, 2.
    let cases: &[(&[&str], &str, i32)] = &[
        (&["--train", "gone-{0..1}.tar"], "gone-0.tar", 1),
        (&["--train", "train-0.tar::"], "empty", 1),
        (
            &["--train", "wordless.tar"],
            "a vocabulary from wordless.tar",
            1,
        ),
        (&["--preset", "ViT-Nano-6"], "ViT-Nano-6-36", 1),
        (&["--config", "gone.toml"], "gone.toml", 1),
        (&["--config", "empty.toml"], "lerning_rate", 2),
        (&["--set", "optimizer.beta=1"], "optimizer.beta", 2),
        (&["--set", "lr=fast"], "lr", 2),
        (&["--set", "lr=-1"], "lr", 2),
        (&["--batch", "500"], "500", 1),
        (&["--val", "names.txt::gone.tar"], "gone.tar", 1),
    ];
    for (more, word, code) in cases {
        // A flag that is given twice is wrong usage, so the one under test replaces the usual one.
        let usual = pretrain("refused", &[]);
        let at = usual.iter().position(|arg| *arg == more[0]);
        let mut args = usual.clone();
        if let Some(at) = at {
            args.drain(at..at + 2);
        }
        let ran = folder.clip(&[&args[..], more].concat());
        assert_eq!(
            (ran.code, ran.out.as_str()),
            (Some(*code), ""),
            "{more:?}: {ran:?}"
        );
        assert!(
            ran.err.contains("error: ") && ran.err.contains(word),
            "{word}: {ran:?}"
        );
        assert!(!folder.path("refused/config.toml").exists(), "{more:?}");
    }
    folder.write("file", b"");
    let ran = folder.clip(&pretrain("file/run", &[]));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("file/run"), "{ran:?}");
}

#[test]
fn a_directory_is_not_written_over_and_its_order_not_changed() {
    let folder = folder();
    assert_eq!(folder.clip(&pretrain("run", &[])).code, Some(0));
    let again = folder.clip(&pretrain("run", &[]));
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(again.err.contains("--resume run"), "{again:?}");
    let other = folder.clip(&["pretrain", "--resume", "run", "--seed", "7"]);
    assert_eq!(other.code, Some(1), "{other:?}");
    assert!(other.err.contains("seed: 0 -> 7"), "{other:?}");
    let longer = folder.clip(&["pretrain", "--resume", "run", "--steps", "12"]);
    assert_eq!(longer.code, Some(0), "{longer:?}");
    assert!(longer.err.contains("steps: 10 -> 12"), "{longer:?}");
    assert_eq!(metrics(&folder, "run").len(), 12);
}

#[test]
fn adams_constants_are_those_of_the_image_encoder_unless_they_are_set() {
    let folder = folder();
    let resnet = PRESET
        .replace(
            "\"image_size\": 16, \"layers\": 2, \"width\": 32",
            "\"image_size\": 32, \"layers\": [1, 1, 1, 1], \"width\": 8",
        )
        .replace("\"patch_size\": 8", "\"patch_size\": null");
    folder.write("tiny.json", resnet.as_bytes());
    let saved = |out: &str, more: &[&str]| {
        let ran = folder.clip(&pretrain(out, &[&["--steps", "1"], more].concat()));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let config = fs::read_to_string(folder.path(out).join("config.toml")).unwrap();
        let number = |key: &str| {
            let mut lines = config.lines().filter_map(|line| line.strip_prefix(key));
            lines.next().unwrap().parse::<f32>().unwrap()
        };
        (number("beta_2 = "), number("epsilon = "))
    };
    assert_eq!(saved("run", &[]), (0.999, 1e-8));
    let set = ["--set", "optimizer.beta_2=0.95"];
    assert_eq!(saved("other", &set), (0.95, 1e-8));
}

#[test]
fn bad_samples_are_counted_and_too_many_stop_the_run() {
    let folder = folder();
    folder.broken("broken.tar", 40, 10);
    let train = ["--train", "train-0.tar::broken.tar"];
    let mut args = pretrain("run", &["--set", "data.max_bad_share=0.3"]);
    args.splice(1..3, train);
    let ran = folder.clip(&args);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.err.contains("broken.tar: sample"), "{ran:?}");
    let report = fs::read_to_string(folder.path("run/report.html")).unwrap();
    assert!(report.contains("broken.tar") && report.contains("no caption"));

    let mut args = pretrain("stopped", &["--set", "data.max_bad_share=0.05"]);
    args.splice(1..3, train);
    let ran = folder.clip(&args);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("worst shards: broken.tar"), "{ran:?}");

    // Whoever looks later learns it too, until the run goes on.
    let told = || folder.clip(&["runs", "stopped", "--json"]).json();
    let failed = |told: &Value| {
        assert_eq!(told["state"], "failed");
        let error = told["error"].as_str().unwrap();
        assert!(error.contains("worst shards: broken.tar"), "{error}");
    };
    failed(&told());
    let resume = ["pretrain", "--resume", "stopped"];
    let refused = folder.clip(&[&resume[..], &["--seed", "7"]].concat());
    assert_eq!(refused.code, Some(1), "{refused:?}");
    failed(&told());
    let goes_on = folder.clip(&[&resume[..], &["--set", "data.max_bad_share=0.3"]].concat());
    assert_eq!(goes_on.code, Some(0), "{goes_on:?}");
    let now = told();
    assert_eq!(
        (&now["state"], &now["error"]),
        (&"finished".into(), &Value::Null)
    );
    let log = fs::read_to_string(folder.path("stopped/log.txt")).unwrap();
    for said in [
        "step 10/10",
        "worst shards: broken.tar",
        "broken.tar: sample",
    ] {
        assert!(log.contains(said), "{log}");
    }
    assert!(
        !log.contains("seed"),
        "what was refused is none of the run's: {log}"
    );
}

#[test]
fn a_run_is_evaluated_and_saved_by_epochs() {
    let folder = folder();
    folder.class_folders("inet", ["n01440764", "n01443537", "n02"]);
    fs::write(folder.path("templates.txt"), "{}\n").unwrap();
    fs::write(
        folder.path("run.toml"),
        "[eval]\nepochs = 0.5\n[checkpoint]\nepochs = 0.2\nkeep = 0\n[[data.zeroshot]]\nname = \"inet\"\n\
         shards = \"inet\"\nclasses = \"names.txt\"\ntemplates = \"templates.txt\"\n",
    )
    .unwrap();
    // 80 samples are ten steps of eight.
    let by_epochs = |out, more: &[&'static str]| {
        let data = ["pretrain", "--train", "train-{0..1}.tar", "--epochs", "1"];
        let model = ["--preset", "tiny.json", "--batch", "8", "--out", out];
        folder.clip(&[&data[..], &model, &["--config", "run.toml"], more].concat())
    };
    let steps = |out| -> Vec<String> {
        let name =
            |path: &std::path::PathBuf| path.file_name().unwrap().to_string_lossy()[5..].to_owned();
        checkpoints(&folder, out).iter().map(name).collect()
    };
    let ran = by_epochs("run", &[]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let all = [2, 4, 6, 8, 10].map(|step| format!("{step:08}"));
    assert_eq!(steps("run"), all);
    let lines = metrics(&folder, "run");
    let evaluated = lines.iter().filter(|line| line["loss"].is_null());
    let evaluated: Vec<_> = evaluated.map(|line| line["step"].as_u64()).collect();
    assert_eq!(evaluated, [Some(5), Some(10)]);
    // Classes by the order of their folders, as `clip eval zeroshot` takes them.
    let args = ["eval", "zeroshot", "--model", "run/model", "--data", "inet"];
    let more = ["--classes", "names.txt", "--template", "{}", "--json"];
    let again = folder.clip(&[&args[..], &more].concat()).json();
    assert_eq!(lines[11]["zeroshot_top1_inet"], again["top1"]);

    let ran = by_epochs("flag", &["--checkpoint-steps", "4"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(steps("flag"), [4, 8, 10].map(|step| format!("{step:08}")));
    let both = by_epochs("both", &["--set", "eval.steps=3"]);
    let reason = "`eval.epochs` and `eval.steps` are two answers to one question";
    assert!(
        both.code != Some(0) && both.err.contains(reason),
        "{both:?}"
    );
}

#[test]
fn averaged_weights_are_evaluated_and_the_best_checkpoint_stays() {
    let folder = folder();
    let more = [
        "--val",
        "a.tar",
        "--set",
        "eval.steps=1",
        "--set",
        "ema=0.5",
        "--set",
        "checkpoint.best=i2t_r1",
        "--set",
        "checkpoint.keep=1",
        "--set",
        "schedule.kind=constant",
        "--lr",
        "0.03",
    ];
    let ran = folder.clip(&pretrain("run", &more));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let lines = metrics(&folder, "run");
    assert_eq!(lines[18]["lr"], 0.03);
    let evaluations: Vec<&Value> = lines.iter().filter(|line| line["loss"].is_null()).collect();
    let best = evaluations
        .iter()
        .rev()
        .max_by(|a, b| {
            a["i2t_r1"]
                .as_f64()
                .partial_cmp(&b["i2t_r1"].as_f64())
                .unwrap()
        })
        .unwrap();
    let kept = format!("step-{:08}", best["step"].as_u64().unwrap());
    let checkpoints = fs::read_dir(folder.path("run/checkpoints")).unwrap();
    let mut checkpoints: Vec<_> = checkpoints
        .map(|entry| entry.unwrap().file_name())
        .collect();
    checkpoints.sort();
    assert!(
        checkpoints.contains(&kept.clone().into()),
        "{kept} of {checkpoints:?}"
    );
    assert!(checkpoints.contains(&"step-00000010".into()));
    assert!(checkpoints.len() <= 2, "{checkpoints:?}");
    let named = format!("`clip weights import run/checkpoints/{kept} --out DIR`");
    assert!(ran.out.contains(&named), "{ran:?}");

    let again = [
        "eval",
        "retrieval",
        "--model",
        "run/model-ema",
        "--data",
        "a.tar",
        "--json",
    ];
    let again = folder.clip(&again).json();
    assert_eq!(
        again["i2t_median_rank"],
        evaluations[9]["ema_i2t_median_rank"]
    );

    let wrong = folder.clip(&pretrain(
        "wrong",
        &["--val", "a.tar", "--set", "checkpoint.best=r1"],
    ));
    assert_eq!(wrong.code, Some(2));
    assert!(
        wrong.err.contains("\"r1\"") && wrong.err.contains("i2t_r1"),
        "{wrong:?}"
    );
}

/// A step this small is none in f32: it changes no bit of a weight, not even of one that is 0.
const STILL: [&str; 4] = ["--lr", "1e-300", "--steps", "1"];

#[test]
fn a_run_may_begin_with_a_models_weights() {
    let folder = folder();
    assert_eq!(
        folder.clip(&pretrain("first", &["--steps", "2"])).code,
        Some(0)
    );
    let more = [&["--init", "first/model"], &STILL[..]].concat();
    let ran = folder.clip(&pretrain("second", &more));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(weights(&folder, "second"), weights(&folder, "first"));
    let tokenizer = |run: &str| fs::read(folder.path(run).join("model/tokenizer.json")).unwrap();
    assert_eq!(tokenizer("second"), tokenizer("first"));
    let config = fs::read_to_string(folder.path("second/config.toml")).unwrap();
    assert!(config.contains("init = \"first/model\""), "{config}");

    // Another image size, said out loud; and another model, refused before anything is made.
    folder.write(
        "large.json",
        PRESET
            .replace("\"image_size\": 16", "\"image_size\": 32")
            .as_bytes(),
    );
    folder.write(
        "wide.json",
        PRESET
            .replace("\"embed_dim\": 16", "\"embed_dim\": 8")
            .as_bytes(),
    );
    let with_preset = |preset: &str, out: &str| {
        let args = pretrain(out, &more);
        let args: Vec<&str> = args
            .iter()
            .map(|arg| if *arg == "tiny.json" { preset } else { *arg })
            .collect();
        folder.clip(&args)
    };
    let ran = with_preset("large.json", "third");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(
        ran.err.contains("resized from a 2x2 grid to 4x4"),
        "{ran:?}"
    );
    let ran = with_preset("wide.json", "refused");
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.err
            .contains("visual.proj has shape [32, 16], expected [32, 8]"),
        "{ran:?}"
    );
    assert!(!folder.path("refused").exists());

    // Its checkpoint has all that a run goes on with.
    fs::remove_dir_all(folder.path("first")).unwrap();
    let ran = folder.clip(&["pretrain", "--resume", "second", "--steps", "2"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[test]
fn a_run_begins_with_what_its_weights_are_of() {
    let folder = folder();
    let first = folder.clip(&pretrain("first", &["--steps", "2"]));
    assert_eq!(first.code, Some(0), "{first:?}");
    let tune = |out, more: &[&str]| {
        let args = [
            "pretrain",
            "--train",
            "train-{0..1}.tar",
            "--batch",
            "8",
            "--steps",
            "2",
        ];
        folder.clip(&[&args[..], &["--init", "first/model", "--out", out], more].concat())
    };
    // Its own architecture needs no name.
    let tuned = tune("tuned", &[]);
    assert_eq!(tuned.code, Some(0), "{tuned:?}");
    // CLIP's weights become SigLIP's, and back.
    let siglip = tune("siglip", &["--set", "loss=siglip"]);
    assert_eq!(siglip.code, Some(0), "{siglip:?}");
    assert!(
        siglip.err.contains("logit_bias: it begins at -10"),
        "{siglip:?}"
    );
    let back = folder.clip(&pretrain(
        "back",
        &["--init", "siglip/model", "--steps", "2"],
    ));
    assert_eq!(back.code, Some(0), "{back:?}");
    assert!(back.err.contains("logit_bias is left out"), "{back:?}");

    // As many weights of the same shapes, and another model.
    let other = PRESET.replace("\"heads\": 2", "\"heads\": 4");
    folder.write(
        "other.json",
        other.replacen('{', "{\"quick_gelu\": true, ", 1).as_bytes(),
    );
    let other = tune("other", &["--preset", "other.json"]);
    assert_eq!(other.code, Some(1), "{other:?}");
    for words in [
        "`quick_gelu` is not set there and true here",
        "`text_cfg.heads` is 2 there and 4 here",
    ] {
        assert!(other.err.contains(words), "{words}: {other:?}");
    }
    // What no shape tells either.
    let pooled = PRESET.replace("\"heads\": 2", "\"heads\": 2, \"pool_type\": \"last\"");
    folder.write("pooled.json", pooled.as_bytes());
    let pooled = tune("pooled", &["--preset", "pooled.json"]);
    assert_eq!(pooled.code, Some(1), "{pooled:?}");
    let words = "`text_cfg.pool_type` is not set there and \"last\" here";
    assert!(pooled.err.contains(words), "{pooled:?}");
    let large = tune("large", &["--preset", "ViT-Mini-16-96"]);
    // Weights that were never set.
    let path = folder.path("siglip/model/open_clip_model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len() - 4;
    bytes[end..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let unset = folder.clip(&pretrain("unset", &["--init", "siglip/model"]));
    assert_eq!(unset.code, Some(1), "{unset:?}");
    assert!(unset.err.contains("in siglip/model is NaN"), "{unset:?}");
    assert_eq!(large.code, Some(1), "{large:?}");
    assert!(
        large.err.len() < 1_500 && large.err.contains("more"),
        "{large:?}"
    );
}

#[test]
fn a_preset_that_was_not_named_or_is_a_directory_is_said() {
    let folder = folder();
    // Weights with nothing beside them that says what they are.
    let bare = folder.path("model/open_clip_model.safetensors");
    fs::copy(bare, folder.path("bare.safetensors")).unwrap();
    let begin = |more: &[&str]| {
        let args = ["pretrain", "--train", "train-{0..1}.tar", "--batch", "8"];
        folder.clip(&[&args[..], &["--steps", "1", "--out", "run"], more].concat())
    };
    let ran = begin(&["--init", "bare.safetensors"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let told = "no `--preset` was given, so ViT-Mini-16-96 was taken; name theirs";
    assert!(ran.err.contains(told), "{ran:?}");
    let ran = begin(&["--init", "bare.safetensors", "--preset", "ViT-Nano-6-36"]);
    let told = "the preset must be of their architecture";
    assert!(ran.err.contains(told), "{ran:?}");
    let ran = begin(&["--init", "none.safetensors"]);
    assert!(
        ran.err.contains("no file or folder `none.safetensors`"),
        "{ran:?}"
    );
    assert!(!ran.err.contains("--preset"), "{ran:?}");

    let told = "weights are new: `--init model` begins with those in it";
    let ran = begin(&["--preset", "local-dir:model"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.err.contains(told), "{ran:?}");
}
