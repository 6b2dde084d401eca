use std::fs;

use crate::runs::{folder, pretrain, weights};

#[test]
fn several_devices_give_the_weights_of_one_with_as_many_threads() {
    let folder = folder();
    let run = |out: &str, more: &[&str]| {
        let ran = folder.clip(&pretrain(out, more));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        weights(&folder, out)
    };
    // Four chunks, two at a time.
    let chunk = ["--set", "chunk=2"];
    let threads = run("threads", &[&chunk[..], &["--set", "threads=2"]].concat());
    let devices = ["--devices", "cpu,cpu"];
    assert!(run("devices", &[&chunk[..], &devices].concat()) == threads);

    // What a run began with stays when it goes on with one device.
    run(
        "resumed",
        &[&chunk[..], &devices, &["--steps", "4"]].concat(),
    );
    let schedule = ["--resume", "resumed", "--steps", "10", "--device", "cpu"];
    let ran = folder.clip(&[&["pretrain"], &schedule[..]].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let config = fs::read_to_string(folder.path("resumed/config.toml")).unwrap();
    for setting in ["chunk = 2", "threads = 2"] {
        assert!(config.contains(setting), "{config}");
    }
}

#[test]
fn chunks_are_chosen_by_memory_and_kept() {
    let folder = folder();
    for (out, memory, chunk, said) in [
        (
            "roomy",
            "1GiB",
            "chunk = 4",
            "batch 8 in chunks of 4: predicted 0.0",
        ),
        ("tight", "1kB", "chunk = 1", "it may not fit"),
    ] {
        let memory = format!("memory={memory}");
        let more = ["--steps", "1", "--set", "threads=2", "--set", &memory];
        let ran = folder.clip(&pretrain(out, &more));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(ran.err.contains(said), "{ran:?}");
        let config = fs::read_to_string(folder.path(out).join("config.toml")).unwrap();
        assert!(config.contains(chunk), "{config}");
    }
}

#[test]
fn devices_that_are_not_there_or_too_few_are_named() {
    let folder = folder();
    for (more, code, words) in [
        (&["--devices", "cpu,gpu"][..], 2, "no backend `gpu`"),
        (&["--devices", "cpu,cpu:9"], 1, "cpu:9"),
        (
            &["--devices", "cpu", "--device", "cpu"],
            2,
            "cannot be used with",
        ),
        (&["--elastic", "--devices", "cpu"], 2, "name two or more"),
        (&["--elastic"], 2, "name two or more"),
        (
            &["--token-file", "names.txt", "--devices", "cpu"],
            2,
            "remote://HOST:PORT",
        ),
    ] {
        let ran = folder.clip(&pretrain("refused", more));
        assert_eq!(ran.code, Some(code), "{ran:?}");
        assert!(ran.err.contains(words), "{ran:?}");
        assert!(!folder.path("refused").exists(), "{more:?}");
    }
}
