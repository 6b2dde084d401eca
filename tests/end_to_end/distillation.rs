//! Runs that learn from another model beside the captions.

use std::fs;

use serde_json::Value;

use crate::runs::{PRESET, checkpoints, folder, metrics, pretrain, weights};

#[test]
fn a_student_learns_from_its_teacher_and_is_resumed_bit_by_bit() {
    let folder = folder();
    let clip = |args: &[&str]| {
        let ran = folder.clip(args);
        assert_eq!(ran.code, Some(0), "{ran:?}");
    };
    clip(&pretrain("teacher", &["--seed", "3", "--steps", "4"]));
    clip(&pretrain("untaught", &["--init", "teacher/model"]));
    let taught = ["--distill", "teacher/model", "--set", "chunk=3"];
    clip(&pretrain("whole", &taught));
    clip(&pretrain("parts", &taught));
    let newest = checkpoints(&folder, "parts").pop().unwrap();
    fs::remove_dir_all(newest).unwrap();
    fs::remove_dir_all(folder.path("parts/model")).unwrap();
    clip(&["pretrain", "--resume", "parts"]);
    assert!(weights(&folder, "parts") == weights(&folder, "whole"));

    // Its words are the teacher's, which were learned from the captions.
    let read = |file: &str| fs::read(folder.path(file)).unwrap();
    assert!(read("whole/tokenizer.json") == read("teacher/tokenizer.json"));
    let distill = |run: &str| -> Vec<Value> {
        let lines = metrics(&folder, run);
        let losses = lines.iter().filter_map(|line| line.get("distill_loss"));
        losses.cloned().collect()
    };
    let losses = distill("whole");
    assert_eq!(losses.len(), 10);
    let sound = |loss: &Value| loss.as_f64().is_some_and(|loss| loss > 0.0);
    assert!(losses.iter().all(sound), "{losses:?}");
    assert!(distill("untaught").is_empty());

    let said = |run: &str| String::from_utf8(read(&format!("{run}/log.txt"))).unwrap();
    assert!(said("whole").contains("  distill ") && !said("untaught").contains("  distill "));
    let report = |run: &str| String::from_utf8(read(&format!("{run}/report.html"))).unwrap();
    let (taught, untaught) = (report("whole"), report("untaught"));
    assert!(taught.contains("<dt>Teacher</dt><dd>teacher/model</dd>"));
    assert!(untaught.contains("<dt>Began with</dt><dd>teacher/model</dd>"));
}

#[test]
fn a_teacher_that_sees_or_reads_otherwise_is_refused_before_anything_is_made() {
    let folder = folder();
    let ran = folder.clip(&pretrain("teacher", &["--steps", "2"]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    folder.write(
        "large.json",
        PRESET
            .replace("16, \"layers\"", "24, \"layers\"")
            .as_bytes(),
    );
    let ran = folder.clip(&pretrain("other", &["--steps", "2"]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    // As many other words.
    folder.write("words.txt", b"quick brown foxes jump over many lazy dogs\n");
    let words = [
        "data",
        "tokenizer",
        "train",
        "--text",
        "words.txt",
        "--vocab-size",
        "540",
    ];
    let ran = folder.clip(&[&words[..], &["--out", "other/model/tokenizer.json"]].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let cases: &[(&[&str], &str)] = &[
        (&["--distill", "nowhere"], "cannot learn from nowhere"),
        (
            &["--distill", "teacher/model", "--preset", "large.json"],
            "--image-size 24",
        ),
        (
            &["--distill", "teacher/model", "--preset", "ViT-Mini-16-96"],
            "images of 16 pixels, and the preset ones of 96",
        ),
        (
            &["--distill", "teacher/model", "--set", "loss=\"siglip\""],
            "a teacher's probabilities are of a softmax",
        ),
        (
            &["--distill", "teacher/model", "--init", "other/model"],
            "the run's vocabulary is another",
        ),
    ];
    for (args, told) in cases {
        let preset = if args.contains(&"--preset") {
            &[][..]
        } else {
            &["--preset", "tiny.json"]
        };
        let run = [
            "pretrain",
            "--train",
            "train-{0..1}.tar",
            "--batch",
            "8",
            "--steps",
            "2",
            "--out",
            "run",
        ];
        let ran = folder.clip(&[&run[..], preset, args].concat());
        // Settings that can't be together are wrong usage.
        let code = if told.contains("probabilities") { 2 } else { 1 };
        assert_eq!(ran.code, Some(code), "{args:?}: {ran:?}");
        assert!(ran.err.contains(told), "{args:?}: {ran:?}");
        assert!(!folder.path("run").exists(), "{args:?}");
    }
}
