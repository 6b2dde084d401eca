use std::{
    fs,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::runs::{checkpoint, checkpoints, folder, metrics, model_weights, pretrain, weights};
#[cfg(unix)]
use crate::support::{Folder, Ran, ran};

#[test]
fn a_killed_run_ends_with_the_weights_of_one_that_was_not() {
    // One thread encodes a batch as a whole.
    for threads in ["threads=1", "threads=2"] {
        is_killed_and_ends_as_if_not(&[threads]);
    }
}

#[test]
fn a_killed_run_of_adapters_ends_with_the_weights_of_one_that_was_not() {
    let lora = ["lora.rank=2", "threads=2", "optimizer.grad_clip_norm=1.0"];
    is_killed_and_ends_as_if_not(&lora);
}

fn is_killed_and_ends_as_if_not(settings: &[&str]) {
    let folder = folder();
    // Far more steps than are taken until the first checkpoint is seen.
    let mut more = vec!["--steps", "40", "--set", "ema=0.9"];
    more.extend(settings.iter().flat_map(|set| ["--set", set]));
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
    let steps = metrics(&folder, "straight").into_iter();
    let waits: Vec<f64> = steps
        .filter_map(|line| line["data_wait"].as_f64())
        .collect();
    assert_eq!(waits.len(), 40);
    assert!(
        waits.iter().all(|wait| (0.0..=1.0).contains(wait)),
        "{waits:?}"
    );
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
    let newest = folder.path("run/checkpoints/step-00000010/optimizer.bpk");
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
fn a_run_that_diverges_goes_back_as_often_as_it_may() {
    let folder = folder();
    for threads in ["threads=1", "threads=2"] {
        let more = [threads, "checkpoint.minutes=1e-9", "checkpoint.rollbacks=2"];
        let more: Vec<&str> = more.iter().flat_map(|set| ["--set", set]).collect();
        let ran = folder.clip(&pretrain(threads, &[&["--lr", "1e30"], &more[..]].concat()));
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert_eq!(
            ran.err.matches("Rolled back to step 1").count(),
            2,
            "{ran:?}"
        );
        assert!(ran.err.contains("training has diverged"), "{ran:?}");
        // The first step, and no other, was sound.
        let losses = metrics(&folder, threads);
        assert_eq!(losses.len(), 1, "{losses:?}");
    }
}

#[test]
fn an_evaluation_without_numbers_is_a_divergence_too() {
    let folder = folder();
    let more = "threads=1 schedule.kind=constant warmup_steps=1";
    let more: Vec<&str> = more.split(' ').flat_map(|set| ["--set", set]).collect();
    let begun = folder.clip(&pretrain("run", &[&more[..], &["--steps", "4"]].concat()));
    assert_eq!(begun.code, Some(0), "{begun:?}");
    // The fifth step's gradient is sound, and takes the weights out of sight.
    let resume = [
        "pretrain", "--resume", "run", "--steps", "5", "--lr", "1e30",
    ];
    let more = "checkpoint.rollbacks=2 eval.steps=1";
    let more: Vec<&str> = more.split(' ').flat_map(|set| ["--set", set]).collect();
    let ran = folder.clip(&[&resume[..], &["--val", "a.tar"], &more].concat());
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let told = |text: &str| ran.err.matches(text).count();
    let found = [5, 3].map(|step| told(&format!("evaluation of step {step} is NaN")));
    assert_eq!(found, [2, 1], "{ran:?}");
    // The checkpoint from which it diverges at once a second time may hold the cause: then the one before.
    let back = [4, 2].map(|step| told(&format!("Rolled back to step {step},")));
    assert_eq!(back, [1, 1], "{ran:?}");
    // Each time it is the fifth step that is taken, as the last of the run.
    assert_eq!(told("step 5/5  epoch"), 2, "{ran:?}");
}

#[test]
fn what_ends_a_run_but_not_its_model_costs_no_step() {
    let folder = folder();
    let more = ["--val", "a.tar", "--set", "eval.steps=3"];
    let straight = folder.clip(&pretrain("straight", &more));
    assert_eq!(straight.code, Some(0), "{straight:?}");

    // The page of the first evaluation can't be written where a folder stands.
    fs::create_dir_all(folder.path("run/report.html")).unwrap();
    let ran = folder.clip(&pretrain("run", &more));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("run/report.html"), "{ran:?}");
    // The second step's is due, the third's is not.
    let kept = [2, 3].map(|step| folder.path(&format!("run/checkpoints/step-0000000{step}")));
    assert_eq!(checkpoints(&folder, "run"), kept, "{ran:?}");

    fs::remove_dir(folder.path("run/report.html")).unwrap();
    let resumed = folder.clip(&["pretrain", "--resume", "run"]);
    assert_eq!(resumed.code, Some(0), "{resumed:?}");
    assert!(weights(&folder, "run") == weights(&folder, "straight"));
}

/// Runs the program in a shell that has lowered its limits before.
#[cfg(unix)]
fn limited(folder: &Folder, limits: &str, args: &[&str]) -> Ran {
    let command = folder.command(args);
    let shell = format!("{limits}; exec \"$0\" \"$@\"");
    ran(Command::new("sh")
        .args(["-c", &shell])
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir(folder.path(".")))
}

#[cfg(target_os = "linux")]
#[test]
fn threads_that_the_system_does_not_give_are_an_error() {
    let folder = folder();
    // The stacks of a thousand threads need more.
    let args = pretrain("many", &["--set", "threads=1000"]);
    let refused = limited(&folder, "ulimit -v 1500000", &args);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.err.contains("cannot start 1000 threads"),
        "{refused:?}"
    );
}

#[cfg(unix)]
#[test]
fn a_checkpoint_that_does_not_fit_leaves_the_one_before() {
    let folder = folder();
    // A schedule that a longer run shares.
    let more = "threads=1 schedule.kind=constant warmup_steps=1";
    let more: Vec<&str> = more.split(' ').flat_map(|set| ["--set", set]).collect();
    let straight = folder.clip(&pretrain("straight", &more));
    assert_eq!(straight.code, Some(0), "{straight:?}");

    let begun = folder.clip(&pretrain("full", &[&more[..], &["--steps", "2"]].concat()));
    assert_eq!(begun.code, Some(0), "{begun:?}");
    // A disk that is full for files above 200 KiB: the weights are 300, all else is smaller.
    let resume = ["pretrain", "--resume", "full", "--steps", "10"];
    let stopped = limited(&folder, "trap '' XFSZ; ulimit -f 400", &resume);
    assert_eq!(stopped.code, Some(1), "{stopped:?}");
    let unwritten = "cannot write full/checkpoints/step-00000004.partial/model.safetensors";
    assert!(stopped.err.contains(unwritten), "{stopped:?}");
    let left = fs::read_dir(folder.path("full/checkpoints")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["step-00000002"]);

    let resumed = folder.clip(&resume);
    assert_eq!(resumed.code, Some(0), "{resumed:?}");
    assert!(weights(&folder, "full") == weights(&folder, "straight"));
}

#[test]
fn twenty_kills_at_any_moment_and_damaged_checkpoints_change_nothing() {
    let folder = folder();
    let more = "threads=1 checkpoint.keep=3 ema=0.9";
    let more: Vec<&str> = more.split(' ').flat_map(|set| ["--set", set]).collect();
    let more = [&more[..], &["--steps", "60"]].concat();
    let begun = Instant::now();
    let straight = folder.clip(&pretrain("straight", &more));
    let whole = begun.elapsed();
    assert_eq!(straight.code, Some(0), "{straight:?}");

    // A run at its end has only its beginning left: what is more in the whole are steps. An eighth of them a round is too
    // little to reach the end by in the first rounds, however fast the machine.
    let begun = Instant::now();
    let nothing_left =
        folder.clip(&[&pretrain("straight", &more)[..], &["--resume", "auto"]].concat());
    let start = begun.elapsed();
    assert_eq!(nothing_left.code, Some(0), "{nothing_left:?}");
    let latest = (start + whole.saturating_sub(start) / 8).as_micros() as u64;

    let killed = [&pretrain("killed", &more)[..], &["--resume", "auto"]].concat();
    // Any spread of moments will do; this one is the same each time.
    let mut draws = 1_u64;
    let mut below = |bound: u64| {
        draws = draws
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (draws >> 33) % bound
    };
    let mut interrupted = 0;
    for round in 0..20 {
        let mut clip = folder.command(&killed);
        let mut clip = clip
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_micros(below(latest)));
        interrupted += u32::from(clip.try_wait().unwrap().is_none());
        clip.kill().unwrap();
        clip.wait().unwrap();
        let checkpoints = checkpoints(&folder, "killed");
        let [.., _, newest] = &checkpoints[..] else {
            continue;
        };
        let file = newest.join("optimizer.bpk");
        match round % 4 {
            0 => {
                let bytes = fs::read(&file).unwrap();
                fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
            }
            1 => {
                let mut bytes = fs::read(&file).unwrap();
                let place = below(bytes.len() as u64) as usize;
                bytes[place] ^= 1 << below(8);
                fs::write(&file, bytes).unwrap();
            }
            2 => {
                let partial = newest.with_extension("partial");
                // There already if the same checkpoint was being written once more.
                let _ = fs::remove_dir_all(&partial);
                fs::rename(newest, partial).unwrap();
            }
            _ => {}
        }
    }
    assert!(interrupted > 5, "{interrupted} of 20 kills hit a run");
    let resumed = folder.clip(&killed);
    assert_eq!(resumed.code, Some(0), "{resumed:?}");
    assert!(weights(&folder, "killed") == weights(&folder, "straight"));
    let averaged = |out| model_weights(&folder, &format!("{out}/model-ema"));
    assert!(averaged("killed") == averaged("straight"));
    let losses = |out| {
        let lines = metrics(&folder, out).into_iter();
        lines.map(|line| line["loss"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(losses("killed"), losses("straight"));
}

#[cfg(unix)]
#[test]
fn a_run_whose_directory_is_moved_stops_and_leaves_its_place_alone() {
    let folder = folder();
    let mut clip = folder.command(&pretrain("run", &["--set", "steps=100000"]));
    let mut clip = clip
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    checkpoint(&folder, "run", &mut clip);
    fs::rename(folder.path("run"), folder.path("moved")).unwrap();
    let ended = clip.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(
        said.contains("run was moved, removed or replaced"),
        "{said}"
    );
    assert!(!folder.path("run").exists());
    assert!(!checkpoints(&folder, "moved").is_empty());
    let log = fs::read_to_string(folder.path("moved/log.txt")).unwrap();
    assert!(log.contains("moved, removed or replaced"), "{log}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_run_that_is_started_to_ignore_a_hangup_does() {
    let folder = folder();
    let command = folder.command(&pretrain("run", &["--steps", "60"]));
    let mut clip = Command::new("sh")
        .args(["-c", "trap '' HUP; exec \"$0\" \"$@\""])
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir(folder.path("."))
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    checkpoint(&folder, "run", &mut clip);
    let hung_up = Command::new("kill")
        .args(["-HUP", &clip.id().to_string()])
        .status();
    assert!(hung_up.unwrap().success());
    let ended = clip.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(folder.path("run/model").exists());
}
