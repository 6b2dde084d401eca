use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::Folder;

/// Small enough to take a few steps a second, and with a vocabulary of its own.
const PRESET: &str = r#"{"embed_dim": 16, "vision_cfg": {"image_size": 16, "layers": 2, "width": 32,
    "head_width": 16, "patch_size": 8}, "text_cfg": {"context_length": 12, "vocab_size": 540,
    "width": 32, "heads": 2, "layers": 2}}"#;

/// A folder with two shards to train on, one to evaluate on, and the preset.
fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("tiny.json", PRESET.as_bytes());
    folder.shard("train-0.tar", 40);
    folder.shard("train-1.tar", 40);
    folder
}

/// `clip pretrain` in ten steps of eight, two of them between checkpoints.
fn pretrain<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let args = [
        "pretrain",
        "--train",
        "train-{0..1}.tar",
        "--preset",
        "tiny.json",
        "--batch",
        "8",
        "--steps",
        "10",
        "--checkpoint-steps",
        "2",
        "--out",
        out,
    ];
    [&args[..], more].concat()
}

fn weights(folder: &Folder, out: &str) -> Vec<u8> {
    model_weights(folder, &format!("{out}/model"))
}

fn model_weights(folder: &Folder, dir: &str) -> Vec<u8> {
    let path = folder.path(dir).join("open_clip_model.safetensors");
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn metrics(folder: &Folder, out: &str) -> Vec<Value> {
    let text = fs::read_to_string(folder.path(out).join("metrics.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Waits until the run has written a checkpoint.
fn checkpoint(folder: &Folder, out: &str, clip: &mut Child) {
    let path = folder.path(out).join("checkpoints");
    let begun = Instant::now();
    let whole = |path: &Path| {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let mut names = entries.map(|entry| entry.file_name());
        names.any(|name| !name.to_string_lossy().contains("partial"))
    };
    while !whole(&path) {
        assert!(clip.try_wait().unwrap().is_none(), "the run ended early");
        assert!(begun.elapsed() < Duration::from_mins(2), "no checkpoint");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_run_leaves_a_model_that_every_command_uses() {
    let folder = folder();
    fs::write(folder.path("templates.txt"), "a {} square\n{}\n").unwrap();
    fs::write(
        folder.path("run.toml"),
        "lr = 3e-3\n[eval]\nsteps = 5\n[[data.zeroshot]]\nname = \"squares\"\nshards = \"a.tar\"\n\
         classes = \"names.txt\"\ntemplates = \"templates.txt\"\n",
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
fn a_killed_run_ends_with_the_weights_of_one_that_was_not() {
    let folder = folder();
    let mut more = vec!["--set", "threads=2", "--set", "ema=0.9"];
    more.extend(["--val", "a.tar", "--set", "eval.steps=2"]);
    let straight = folder.clip(&pretrain("straight", &more));
    assert_eq!(straight.code, Some(0), "{straight:?}");

    let mut clip = folder.command(&pretrain("killed", &more));
    let mut clip = clip
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    checkpoint(&folder, "killed", &mut clip);
    // SIGKILL: nothing in the program can answer it.
    clip.kill().unwrap();
    clip.wait().unwrap();
    // What there is to see of a run is there before its end.
    let report = fs::read_to_string(folder.path("killed/report.html")).unwrap();
    assert!(report.contains("image→text"));
    let resumed = folder.clip(&["pretrain", "--resume", "killed"]);
    assert_eq!(resumed.code, Some(0), "{resumed:?}");
    assert!(resumed.err.contains("resuming after step"), "{resumed:?}");
    assert!(
        weights(&folder, "killed") == weights(&folder, "straight"),
        "weights differ"
    );
    let averaged = |out| model_weights(&folder, &format!("{out}/model-ema"));
    assert!(
        averaged("killed") == averaged("straight"),
        "averaged weights differ"
    );
    assert!(averaged("straight") != weights(&folder, "straight"));
    let losses = |out| {
        let lines = metrics(&folder, out).into_iter();
        lines.map(|line| line["loss"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(losses("killed"), losses("straight"));
}

#[test]
fn a_damaged_checkpoint_is_passed_over_and_said() {
    let folder = folder();
    let first = folder.clip(&pretrain("run", &[]));
    assert_eq!(first.code, Some(0), "{first:?}");
    let expected = weights(&folder, "run");
    let newest = folder.path("run/checkpoints/step-00000010/optimizer.bin");
    let bytes = fs::read(&newest).unwrap();
    fs::write(&newest, &bytes[..bytes.len() / 2]).unwrap();
    fs::remove_dir_all(folder.path("run/model")).unwrap();
    let again = folder.clip(&["pretrain", "--resume", "run"]);
    assert_eq!(again.code, Some(0), "{again:?}");
    for words in ["step-00000010 is damaged", "resuming after step 8"] {
        assert!(again.err.contains(words), "{words}: {again:?}");
    }
    assert!(weights(&folder, "run") == expected, "weights differ");
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on() {
    let folder = folder();
    let mut command: Command = folder.command(&pretrain("run", &["--set", "steps=100000"]));
    let mut clip = command
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    checkpoint(&folder, "run", &mut clip);
    let killed = Command::new("kill")
        .args(["-INT", &clip.id().to_string()])
        .status();
    assert!(killed.unwrap().success());
    let ended = clip.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{ended:?}");
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(
        said.contains("go on with: clip pretrain --resume run"),
        "{said}"
    );
    assert!(!folder.path("run/model").exists());
}

#[test]
fn what_cannot_be_trained_is_refused_before_anything_is_made() {
    let folder = folder();
    folder.write("empty.toml", b"lr = 1e-3\nlerning_rate = 1\n");
    let cases: &[(&[&str], &str)] = &[
        (&["--train", "gone-{0..1}.tar"], "gone-0.tar"),
        (&["--train", "train-0.tar::"], "empty"),
        (&["--preset", "ViT-Z"], "ViT-Nano-6-36"),
        (&["--config", "empty.toml"], "lerning_rate"),
        (&["--set", "optimizer.beta=1"], "optimizer.beta"),
        (&["--set", "lr=fast"], "lr"),
        (&["--lr", "0"], "lr"),
        (&["--batch", "500"], "500"),
        (&["--val", "names.txt::gone.tar"], "gone.tar"),
    ];
    for (more, word) in cases {
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
            (Some(1), ""),
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
    assert_eq!(wrong.code, Some(1));
    assert!(
        wrong.err.contains("\"r1\"") && wrong.err.contains("i2t_r1"),
        "{wrong:?}"
    );
}

#[test]
fn a_run_that_diverges_goes_back_as_often_as_it_may() {
    let folder = folder();
    let more = [
        "--lr",
        "1e30",
        "--set",
        "checkpoint.minutes=1e-9",
        "--set",
        "checkpoint.rollbacks=2",
    ];
    let ran = folder.clip(&pretrain("run", &more));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(
        ran.err.matches("Rolled back to step 1").count(),
        2,
        "{ran:?}"
    );
    assert!(ran.err.contains("training has diverged"), "{ran:?}");
}
