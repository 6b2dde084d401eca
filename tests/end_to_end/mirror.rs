//! A run whose directory is lost goes on from its mirror.

use std::{
    fs,
    process::Stdio,
    time::{Duration, Instant},
};

use crate::{
    object_store::ObjectStore,
    runs::{checkpoint, checkpoints, folder, pretrain, weights},
    support::{Folder, Ran, ran},
};

const PLACE: &str = "s3://bucket/runs/one";

/// `clip pretrain` of a small run that is copied to `place`.
fn mirrored<'a>(out: &'a str, place: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let set = ["--set", place, "--set", "ema=0.9"];
    pretrain(out, &[&set[..], more].concat())
}

fn setting(place: &str) -> String {
    format!("checkpoint.mirror=\"{place}\"")
}

#[test]
fn a_run_on_a_machine_that_is_gone_ends_with_the_weights_of_one_that_is_not() {
    let folder = folder();
    let straight = folder.clip(&pretrain(
        "straight",
        &["--steps", "40", "--set", "ema=0.9"],
    ));
    assert_eq!(straight.code, Some(0), "{straight:?}");

    let elsewhere = folder.path("elsewhere").display().to_string();
    let setting = setting(&elsewhere);
    let run = mirrored("run", &setting, &["--steps", "40", "--resume", "auto"]);
    let mut clip = folder.command(&run);
    let mut clip = clip
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    checkpoint(&folder, "run", &mut clip);
    let begun = Instant::now();
    let whole = || {
        checkpoints(&folder, "elsewhere")
            .iter()
            .any(|path| path.join("state.json").exists())
    };
    while !whole() {
        assert!(clip.try_wait().unwrap().is_none(), "the run ended early");
        assert!(begun.elapsed() < Duration::from_mins(2), "no copy");
    }
    clip.kill().unwrap();
    clip.wait().unwrap();
    fs::remove_dir_all(folder.path("run")).unwrap();
    // What it was writing when it was killed.
    let oldest = checkpoints(&folder, "elsewhere").remove(0);
    fs::write(oldest.join(".optimizer.bpk.partial"), "half").unwrap();

    let again = folder.clip(&run);
    assert_eq!(again.code, Some(0), "{again:?}");
    for words in ["brought the run from", "resuming after step"] {
        assert!(again.err.contains(words), "{words}: {again:?}");
    }
    assert!(
        weights(&folder, "run") == weights(&folder, "straight"),
        "weights differ"
    );
    // The mirror is a run's directory, model and all.
    assert!(
        weights(&folder, "elsewhere") == weights(&folder, "straight"),
        "weights differ"
    );
    let names = |out| -> Vec<_> {
        let steps = checkpoints(&folder, out).into_iter();
        steps
            .map(|path| path.file_name().unwrap().to_owned())
            .collect()
    };
    // As many, the last among them. Of a small run's, some come too fast to be copied.
    let (here, there) = (names("run"), names("elsewhere"));
    assert_eq!((there.len(), there.last()), (here.len(), here.last()));
    for file in ["metrics.jsonl", "report.html"] {
        let [here, there] =
            ["run", "elsewhere"].map(|out| fs::read(folder.path(out).join(file)).unwrap());
        assert!(here == there, "{file} differs");
    }
}

#[test]
fn a_run_is_not_gone_on_with_where_its_mirror_is_ahead() {
    let folder = folder();
    let set = "checkpoint.mirror=\"elsewhere\"";
    let begun = folder.clip(&mirrored("run", set, &[]));
    assert_eq!(begun.code, Some(0), "{begun:?}");
    // As on a machine that the run left after step 8.
    fs::remove_dir_all(folder.path("run/checkpoints/step-00000010")).unwrap();
    let there = || {
        let metrics = fs::read(folder.path("elsewhere/metrics.jsonl")).unwrap();
        (checkpoints(&folder, "elsewhere"), metrics)
    };
    fs::write(folder.path("run/metrics.jsonl"), "").unwrap();
    let before = there();
    let again = mirrored("run", set, &["--resume", "auto"]);
    for args in [&["pretrain", "--resume", "run"][..], &again] {
        let refused = folder.clip(args);
        assert_eq!(refused.code, Some(1), "{refused:?}");
        let words = "newest checkpoint there is of step 10, and here of step 8. Move run away";
        assert!(refused.err.contains(words), "{refused:?}");
        assert!(there() == before, "the mirror changed");
    }
    fs::rename(folder.path("run"), folder.path("away")).unwrap();
    let brought = folder.clip(&again);
    assert_eq!(brought.code, Some(0), "{brought:?}");
    let words = "as it was after step 10";
    assert!(brought.err.contains(words), "{words}: {brought:?}");
}

/// Runs `clip` where `s3://` is this store.
fn clip(folder: &Folder, store: &ObjectStore, args: &[&str]) -> Ran {
    ran(store.known_to(&mut folder.command(args)))
}

#[test]
fn an_object_store_that_fails_now_and_then_brings_the_run_back() {
    let (folder, store) = (folder(), ObjectStore::start());
    let straight = folder.clip(&pretrain("straight", &["--set", "ema=0.9"]));
    assert_eq!(straight.code, Some(0), "{straight:?}");

    let setting = setting(PLACE);
    let begun = clip(&folder, &store, &mirrored("run", &setting, &[]));
    assert_eq!(begun.code, Some(0), "{begun:?}");
    let there = |name: &str| format!("bucket/runs/one/{name}");
    for file in [
        "config.toml",
        "metrics.jsonl",
        "model/open_clip_model.safetensors",
        "model-ema/open_clip_config.json",
    ] {
        assert!(
            store.read(&there(file)) == fs::read(folder.path("run").join(file)).unwrap(),
            "{file} differs"
        );
    }
    // As many as the run keeps. Of a small run's, some come too fast to be copied.
    let states = |step: &u64| there(&format!("checkpoints/step-{step:08}/state.json"));
    let steps: Vec<u64> = (1..=10)
        .filter(|step| store.names().contains(&states(step)))
        .collect();
    assert_eq!((steps.len(), steps[1]), (2, 10), "{steps:?}");

    // The newest is cut off, the one before is whole.
    store.change(&states(&10), None);
    let other = clip(
        &folder,
        &store,
        &["pretrain", "--resume", PLACE, "--out", "other"],
    );
    assert_eq!(other.code, Some(0), "{other:?}");
    let said = format!("resuming after step {}", steps[0]);
    assert!(other.err.contains(&said), "{other:?}");
    assert!(
        weights(&folder, "other") == weights(&folder, "straight"),
        "weights differ"
    );

    // A file of more than one part, among those that lie beside the checkpoints.
    let large: Vec<u8> = (0..40_000_000_u32).map(|at| (at % 251) as u8).collect();
    folder.write("other/notes.txt", &large);
    // Names are what they are.
    let odd = "50% of #1 [a]~?.txt";
    folder.write(&format!("other/{odd}"), b"odd");
    let longer = clip(
        &folder,
        &store,
        &["pretrain", "--resume", "other", "--steps", "12"],
    );
    assert_eq!(longer.code, Some(0), "{longer:?}");
    assert!(
        store.read(&there("notes.txt")) == large,
        "a file in parts differs"
    );
    assert_eq!(store.parts(), 0);
    assert_eq!(store.read(&there(odd)), b"odd");
    // Folders that the store's own page made.
    for marker in ["", "checkpoints/", "model/"] {
        store.change(&there(marker), Some(Vec::new()));
    }

    // A damaged copy is named, and the one before is taken.
    let newest = there("checkpoints/step-00000012/optimizer.bpk");
    let mut bytes = store.read(&newest);
    bytes[100] ^= 1;
    store.change(&newest, Some(bytes));
    let third = clip(
        &folder,
        &store,
        &["pretrain", "--resume", PLACE, "--out", "third"],
    );
    assert_eq!(third.code, Some(0), "{third:?}");
    for words in ["step-00000012 is damaged", "as it was after step 10"] {
        assert!(third.err.contains(words), "{words}: {third:?}");
    }
    assert!(
        weights(&folder, "third") == weights(&folder, "other"),
        "weights differ"
    );
    let back = fs::read(folder.path("third").join(odd));
    assert_eq!(back.unwrap(), b"odd");

    // What could not be copied when it was written is, when the run goes on.
    let newest = there("checkpoints/step-00000012/state.json");
    store.change(&newest, None);
    let again = clip(&folder, &store, &["pretrain", "--resume", "third"]);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(store.names().contains(&newest), "{:?}", store.names());
}

#[test]
fn a_mirror_that_cannot_be_used_is_refused_before_anything_is_computed() {
    let (folder, store) = (folder(), ObjectStore::start());
    let setting = setting(PLACE);
    store.refuse(&["PUT", "POST", "DELETE"]);
    let refused = clip(&folder, &store, &mirrored("run", &setting, &[]));
    assert_eq!(refused.code, Some(1), "{refused:?}");
    for words in [
        "cannot keep a copy of the run",
        "cannot write s3://bucket/runs/one/",
    ] {
        assert!(refused.err.contains(words), "{words}: {refused:?}");
    }
    assert!(!refused.err.contains("step 1/"), "{refused:?}");
    assert!(!folder.path("run/config.toml").exists());
    // Where old checkpoints can't be removed, it ends as early.
    store.refuse(&["DELETE"]);
    let other = setting.replace("one", "two");
    let refused = clip(&folder, &store, &mirrored("run", &other, &[]));
    assert_eq!(refused.code, Some(1), "{refused:?}");
    for words in [
        "cannot remove s3://bucket/runs/two/",
        "AccessDenied",
        "check AWS_ACCESS_KEY_ID",
    ] {
        assert!(refused.err.contains(words), "{words}: {refused:?}");
    }
    assert!(!refused.err.contains("step 1/"), "{refused:?}");

    store.refuse(&[]);
    let begun = clip(&folder, &store, &mirrored("first", &setting, &[]));
    assert_eq!(begun.code, Some(0), "{begun:?}");
    let cases = [
        (&[][..], "already holds a run"),
        (
            &["--resume", "auto", "--seed", "9"],
            "holds another run (seed",
        ),
    ];
    for (more, words) in cases {
        let second = clip(&folder, &store, &mirrored("second", &setting, more));
        assert_eq!(second.code, Some(1), "{second:?}");
        assert!(second.err.contains(words), "{words}: {second:?}");
        fs::remove_dir_all(folder.path("second")).ok();
    }
    let nothing = clip(
        &folder,
        &store,
        &["pretrain", "--resume", "s3://bucket/none", "--out", "x"],
    );
    assert!(
        nothing.err.contains("holds no run with a checkpoint"),
        "{nothing:?}"
    );
    let nowhere = clip(&folder, &store, &["pretrain", "--resume", PLACE]);
    assert_eq!(nowhere.code, Some(2), "{nowhere:?}");
    assert!(nowhere.err.contains("needs `--out DIR`"), "{nowhere:?}");
    let own = folder.clip(&mirrored("own", "checkpoint.mirror=\"own/copy\"", &[]));
    assert_eq!(own.code, Some(1), "{own:?}");
    assert!(own.err.contains("the run's own directory"), "{own:?}");
}

#[test]
fn a_mirror_is_not_shared_by_two_runs_that_begin_at_once() {
    let folder = folder();
    let set = "checkpoint.mirror=\"elsewhere\"";
    let mut clip = folder.command(&mirrored("run", set, &["--steps", "40"]));
    let said = fs::File::create(folder.path("said")).unwrap();
    let mut clip = clip.stdout(Stdio::null()).stderr(said).spawn().unwrap();
    checkpoint(&folder, "run", &mut clip);
    // Another one's settings, whatever this one writes; as a whole, as a run puts them there.
    let code = loop {
        folder.write("others.toml", b"seed = 9\n");
        fs::rename(
            folder.path("others.toml"),
            folder.path("elsewhere/config.toml"),
        )
        .unwrap();
        if let Some(ended) = clip.try_wait().unwrap() {
            break ended.code();
        }
    };
    let said = fs::read_to_string(folder.path("said")).unwrap();
    assert_eq!(code, Some(1), "{said}");
    for words in ["another run writes into elsewhere", "the run is whole here"] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn a_mirror_that_is_gone_costs_the_run_nothing_but_is_told() {
    let folder = folder();
    let straight = folder.clip(&pretrain("straight", &["--set", "ema=0.9"]));
    assert_eq!(straight.code, Some(0), "{straight:?}");
    fs::create_dir(folder.path("elsewhere")).unwrap();
    // Where its checkpoints would be stands a file.
    folder.write("elsewhere/checkpoints", b"in the way");
    let run = folder.clip(&mirrored("run", "checkpoint.mirror=\"elsewhere\"", &[]));
    assert_eq!(run.code, Some(1), "{run:?}");
    for words in [
        "isn't in elsewhere: cannot",
        "the run is whole here, and its copy isn't",
    ] {
        assert!(run.err.contains(words), "{words}: {run:?}");
    }
    assert!(
        weights(&folder, "run") == weights(&folder, "straight"),
        "weights differ"
    );
}
