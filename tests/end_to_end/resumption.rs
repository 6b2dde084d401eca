//! What a run may be resumed with, and what is told of it then.

use std::fs;

use serde_json::Value;

use crate::runs::{checkpoints, folder, metrics, pretrain, weights};

/// An evaluation after every second step.
const EVALUATED: [&str; 4] = ["--val", "a.tar", "--set", "eval.steps=2"];

#[test]
fn a_run_that_is_done_is_told_once_however_often_it_is_resumed() {
    let folder = folder();
    let run = folder.clip(&pretrain("run", &EVALUATED));
    assert_eq!(run.code, Some(0), "{run:?}");
    let told = fs::read(folder.path("run/metrics.jsonl")).unwrap();
    let json: Value = folder
        .clip(&["pretrain", "--resume", "run", "--json"])
        .json();
    assert!(json["retrieval"]["i2t_r1"].is_number(), "{json}");
    assert!(fs::read(folder.path("run/metrics.jsonl")).unwrap() == told);
}

#[test]
fn a_run_that_another_kind_of_device_began_is_told_to_stay_cut_as_it_is() {
    let folder = folder();
    // As on a GPU.
    let cut = [
        "--set",
        "text_buckets=1",
        "--set",
        "threads=1",
        "--set",
        "chunk=8",
    ];
    let run = folder.clip(&pretrain("run", &[&cut[..], &["--steps", "2"]].concat()));
    assert_eq!(run.code, Some(0), "{run:?}");
    let told = "batches stay cut as the run began (chunk = 8, threads = 1, text_buckets = 1)";
    assert!(!run.err.contains(told), "{run:?}");
    let resume = ["pretrain", "--resume", "run", "--steps", "4"];
    let resumed = folder.clip(&resume);
    assert_eq!(resumed.code, Some(0), "{resumed:?}");
    assert!(resumed.err.contains(told), "{resumed:?}");
    let anew = [
        "--set",
        "text_buckets=0",
        "--set",
        "threads=0",
        "--set",
        "chunk=0",
    ];
    let anew = folder.clip(&[&resume[..], &anew].concat());
    assert_eq!(anew.code, Some(0), "{anew:?}");
    assert!(!anew.err.contains("stay cut"), "{anew:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn the_peak_memory_of_a_run_is_that_of_the_start_that_took_most() {
    let folder = folder();
    let run = folder.clip(&pretrain("run", &EVALUATED));
    assert_eq!(run.code, Some(0), "{run:?}");
    let newest = checkpoints(&folder, "run").pop().unwrap();
    let path = newest.join("state.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert!(state["peak_memory"].as_u64().unwrap() > 1 << 20, "{state}");
    // More than a process that has nothing left to do takes.
    state["peak_memory"] = (7_u64 << 30).into();
    fs::write(&path, state.to_string()).unwrap();
    let ran = folder.clip(&["pretrain", "--resume", "run", "--json"]);
    assert_eq!(ran.json()["peak_rss_mb"], (7_u64 << 30) as f64 / 1e6);
    let report = fs::read_to_string(folder.path("run/report.html")).unwrap();
    assert!(report.contains("7.00 GiB"), "the report has the same");
}

#[test]
fn a_list_of_runs_tells_which_of_them_go_on() {
    let folder = folder();
    let run = folder.clip(&pretrain("run", &[]));
    assert_eq!(run.code, Some(0), "{run:?}");
    let state = || {
        let told = folder.clip(&["runs", "run", "--json"]).json();
        assert_eq!(
            (&told["steps"], &told["total_steps"]),
            (&10.into(), &10.into())
        );
        told["state"].as_str().unwrap().to_owned()
    };
    assert_eq!(state(), "finished");
    let lock = fs::File::create(folder.path("run/.lock")).unwrap();
    lock.lock().unwrap();
    assert_eq!(state(), "running");
    drop(lock);
    // As one that was killed after its last step.
    fs::remove_dir_all(folder.path("run/model")).unwrap();
    assert_eq!(state(), "stopped");
    let settings = fs::read_to_string(folder.path("run/config.toml")).unwrap();
    let longer = settings.replace("steps = 10\n", "steps = 12\n");
    fs::write(folder.path("run/config.toml"), longer).unwrap();
    let table = folder.clip(&["runs", "run"]);
    assert!(table.out.contains("stopped  10 of 12"), "{table:?}");
}

#[test]
fn an_evaluation_that_a_stop_left_out_is_made_up_for() {
    let folder = folder();
    let run = folder.clip(&pretrain("run", &EVALUATED));
    assert_eq!(run.code, Some(0), "{run:?}");
    let keys = |line: &Value| {
        line.as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    let expected: Vec<_> = metrics(&folder, "run").iter().map(keys).collect();
    // As a run leaves them that is asked to stop in its eighth step.
    let newest = checkpoints(&folder, "run").pop().unwrap();
    fs::remove_dir_all(newest).unwrap();
    let path = folder.path("run/metrics.jsonl");
    let lines = fs::read_to_string(&path).unwrap();
    let left_out = |line: &&str| line.contains("\"step\":8,") && line.contains("i2t_r1");
    let kept: Vec<&str> = lines.lines().filter(|line| !left_out(line)).collect();
    fs::write(&path, kept.join("\n") + "\n").unwrap();
    assert_eq!(metrics(&folder, "run").len() + 1, expected.len());

    let resumed = folder.clip(&["pretrain", "--resume", "run"]);
    assert_eq!(resumed.code, Some(0), "{resumed:?}");
    assert_eq!(
        metrics(&folder, "run").iter().map(keys).collect::<Vec<_>>(),
        expected
    );
}

/// Lines of the metrics that tell an evaluation.
#[cfg(unix)]
fn evaluations(folder: &crate::support::Folder, out: &str) -> Vec<(u64, Value)> {
    let lines = metrics(folder, out).into_iter();
    let found = lines.filter(|line| !line["i2t_r1"].is_null());
    found
        .map(|line| (line["step"].as_u64().unwrap(), line["i2t_r1"].clone()))
        .collect()
}

#[cfg(unix)]
#[test]
fn an_evaluation_does_not_keep_a_run_from_stopping() {
    use std::{
        process::{Command, Stdio},
        time::{Duration, Instant},
    };
    let folder = folder();
    folder.shard("val.tar", 2_000);
    // Evaluations take most of the time: the first is at hand after the first step.
    let args = [
        "--val",
        "val.tar",
        "--set",
        "eval.steps=1",
        "--steps",
        "3",
        "--set",
        "threads=1",
    ];
    let straight = folder.clip(&pretrain("straight", &args));
    assert_eq!(straight.code, Some(0), "{straight:?}");

    let said = fs::File::create(folder.path("said")).unwrap();
    let mut clip = folder.command(&pretrain("run", &args));
    let mut clip = clip.stdout(Stdio::null()).stderr(said).spawn().unwrap();
    let log = folder.path("run/metrics.jsonl");
    let begun = Instant::now();
    while !fs::read_to_string(&log).is_ok_and(|told| told.contains("\"step\":1")) {
        assert!(clip.try_wait().unwrap().is_none(), "it ended early");
        assert!(begun.elapsed() < Duration::from_mins(2), "no step");
        std::thread::sleep(Duration::from_millis(2));
    }
    let pid = clip.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(clip.wait().unwrap().code(), Some(130));
    let said = fs::read_to_string(folder.path("said")).unwrap();
    for words in [
        "stopping after this step",
        "once more to quit at once",
        "stopped after step 1 of 3",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(evaluations(&folder, "run"), []);

    let resumed = folder.clip(&["pretrain", "--resume", "run"]);
    assert_eq!(resumed.code, Some(0), "{resumed:?}");
    assert_eq!(
        evaluations(&folder, "run"),
        evaluations(&folder, "straight")
    );
    assert!(weights(&folder, "run") == weights(&folder, "straight"));
}

#[test]
fn a_run_whose_checkpoints_are_gone_does_not_begin_again_unasked() {
    let folder = folder();
    let run = folder.clip(&pretrain("run", &[]));
    assert_eq!(run.code, Some(0), "{run:?}");
    let told = fs::read(folder.path("run/metrics.jsonl")).unwrap();
    fs::remove_dir_all(folder.path("run/checkpoints")).unwrap();
    let resumed = folder.clip(&["pretrain", "--resume", "run"]);
    assert_eq!(resumed.code, Some(1), "{resumed:?}");
    assert!(
        resumed
            .err
            .contains("tells of 10 steps, and its checkpoints are gone"),
        "{resumed:?}"
    );
    assert!(fs::read(folder.path("run/metrics.jsonl")).unwrap() == told);
}

#[test]
fn a_run_cannot_be_made_shorter_than_it_is() {
    let folder = folder();
    let run = folder.clip(&pretrain("run", &[]));
    assert_eq!(run.code, Some(0), "{run:?}");
    let settings = fs::read(folder.path("run/config.toml")).unwrap();
    let resumed = folder.clip(&["pretrain", "--resume", "run", "--steps", "4"]);
    assert_eq!(resumed.code, Some(1), "{resumed:?}");
    assert!(
        resumed.err.contains("has done 10 steps already"),
        "{resumed:?}"
    );
    assert!(fs::read(folder.path("run/config.toml")).unwrap() == settings);
}

#[test]
fn data_may_have_moved_and_may_not_be_others() {
    let folder = folder();
    let more = [
        "--steps",
        "12",
        "--set",
        "schedule.kind=constant",
        "--set",
        "warmup_steps=1",
    ];
    let straight = folder.clip(&pretrain("straight", &more));
    assert_eq!(straight.code, Some(0), "{straight:?}");
    let run = folder.clip(&pretrain("run", &[&["--steps", "6"], &more[2..]].concat()));
    assert_eq!(run.code, Some(0), "{run:?}");
    fs::create_dir(folder.path("moved")).unwrap();
    for shard in ["train-0.tar", "train-1.tar"] {
        fs::rename(folder.path(shard), folder.path("moved").join(shard)).unwrap();
    }
    let resume = ["pretrain", "--resume", "run", "--steps", "12", "--train"];
    let others = folder.clip(&[&resume[..], &["moved/train-1.tar::a.tar"]].concat());
    assert_eq!(others.code, Some(1), "{others:?}");
    assert!(others.err.contains("samples"), "{others:?}");
    let moved = folder.clip(&[&resume[..], &["moved/train-{0..1}.tar"]].concat());
    assert_eq!(moved.code, Some(0), "{moved:?}");
    assert!(
        moved
            .err
            .contains("changed since the run began: data.train"),
        "{moved:?}"
    );
    assert!(
        weights(&folder, "run") == weights(&folder, "straight"),
        "weights differ"
    );
}

#[test]
fn a_refused_start_leaves_nothing_to_the_next_run() {
    let folder = folder();
    // CLIP's own, as a run of another preset would leave it.
    fs::create_dir(folder.path("run")).unwrap();
    fs::copy(
        folder.path("model/tokenizer.json"),
        folder.path("run/tokenizer.json"),
    )
    .unwrap();
    let refused = folder.clip(&pretrain("refused", &["--val", "nosuch.tar"]));
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(!folder.path("refused/tokenizer.json").exists());
    for out in ["run", "refused", "fresh"] {
        let run = folder.clip(&pretrain(out, &[]));
        assert_eq!(run.code, Some(0), "{run:?}");
    }
    for out in ["run", "refused"] {
        assert!(weights(&folder, out) == weights(&folder, "fresh"), "{out}");
    }
}

#[test]
fn a_run_that_ended_before_its_first_checkpoint_begins_again() {
    let folder = folder();
    let run = folder.clip(&pretrain("run", &[]));
    assert_eq!(run.code, Some(0), "{run:?}");
    let straight = weights(&folder, "run");
    // As one that was killed in its tenth step, while its first checkpoint was being written.
    for gone in ["run/checkpoints", "run/model"] {
        fs::remove_dir_all(folder.path(gone)).unwrap();
    }
    fs::remove_file(folder.path("run/checkpointed.txt")).unwrap();
    fs::create_dir_all(folder.path("run/checkpoints/step-00000002.partial")).unwrap();
    let resumed = folder.clip(&[&pretrain("run", &[])[..], &["--resume", "auto"]].concat());
    assert_eq!(resumed.code, Some(0), "{resumed:?}");
    assert!(resumed.err.contains("has no checkpoint yet"), "{resumed:?}");
    assert!(weights(&folder, "run") == straight);
    assert_eq!(metrics(&folder, "run").len(), 10);
}

#[test]
fn a_new_run_does_not_go_on_from_what_lies_in_its_directory() {
    let folder = folder();
    let run = folder.clip(&pretrain("run", &[]));
    assert_eq!(run.code, Some(0), "{run:?}");
    fs::create_dir(folder.path("other")).unwrap();
    let checkpoints = ["run", "other"].map(|out| folder.path(out).join("checkpoints"));
    fs::rename(&checkpoints[0], &checkpoints[1]).unwrap();
    for more in [&["--seed", "7"][..], &["--resume", "auto"]] {
        let refused = folder.clip(&pretrain("other", more));
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(
            refused.err.contains("holds checkpoints of another run"),
            "{refused:?}"
        );
        assert!(!folder.path("other/config.toml").exists());
    }
}
