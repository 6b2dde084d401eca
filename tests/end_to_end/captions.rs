//! Models that write captions: how they are trained, and what they write.

use std::fs;

use serde_json::Value;

use crate::runs::{checkpoints, folder, metrics, pretrain, weights};
use crate::support::{Folder, encoders_of};

const COCA: &str = r#"{"embed_dim": 32, "custom_text": true, "vision_cfg": {"image_size": 16, "layers": 1, "width": 32,
    "head_width": 16, "patch_size": 8, "attentional_pool": true, "attn_pooler_queries": 4, "output_tokens": true},
    "text_cfg": {"context_length": 12, "vocab_size": 540, "width": 32, "heads": 2, "layers": 1, "embed_cls": true,
    "output_tokens": true}, "multimodal_cfg": {"width": 32, "heads": 2, "layers": 1}}"#;

fn coca_folder() -> Folder {
    let folder = folder();
    folder.write("tiny.json", COCA.as_bytes());
    folder
}

fn clip(folder: &Folder, args: &[&str]) {
    let ran = folder.clip(args);
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[test]
fn a_run_learns_captions_and_is_resumed_bit_by_bit() {
    let folder = coca_folder();
    // Long enough to learn three words and some numbers.
    let args = ["--set", "chunk=3", "--steps", "60", "--lr", "0.01"];
    clip(&folder, &pretrain("whole", &args));
    clip(&folder, &pretrain("parts", &args));
    let newest = checkpoints(&folder, "parts").pop().unwrap();
    fs::remove_dir_all(newest).unwrap();
    fs::remove_dir_all(folder.path("parts/model")).unwrap();
    clip(&folder, &["pretrain", "--resume", "parts"]);
    assert!(weights(&folder, "parts") == weights(&folder, "whole"));

    let lines = metrics(&folder, "whole");
    let losses = lines
        .iter()
        .filter_map(|line| line["caption_loss"].as_f64());
    let losses: Vec<f64> = losses.collect();
    assert_eq!(losses.len(), 60);
    // ln 540 is what guessing loses.
    assert!(losses[0] > 5.0 && losses[59] < 2.0, "{losses:?}");
    let said = fs::read_to_string(folder.path("whole/log.txt")).unwrap();
    assert!(said.contains("  caption "), "{said}");

    let images = ["caption", "0.png", "1.png", "--model", "whole/model"];
    let captions = |more: &[&str]| -> Vec<String> {
        let ran = folder.clip(&[&images[..], more].concat());
        assert_eq!(ran.code, Some(0), "{ran:?}");
        ran.out.lines().map(str::to_owned).collect()
    };
    for way in [&[][..], &["--beams", "4"], &["--top-k", "1"]] {
        let json = captions(&[way, &["--json"]].concat());
        let line: Value = serde_json::from_str(&json[1]).unwrap();
        assert_eq!(line["image"], "1.png");
        let text = line["caption"].as_str().unwrap();
        assert!(
            ["red", "green", "blue"]
                .iter()
                .any(|name| text.starts_with(name)),
            "{text}"
        );
        assert_eq!(captions(way)[1], format!("1.png: {text}"));
    }
    let drawn = |seed| {
        let draws = ["--top-p", "0.99", "--temperature", "3", "--seed", seed];
        captions(&draws)
    };
    assert_eq!(drawn("1"), drawn("1"));
    assert_ne!(drawn("1"), drawn("2"));
    // Its encoders are a CLIP model's.
    let args = [
        "classify",
        "0.png",
        "--model",
        "whole/model",
        "--labels",
        "red,blue",
    ];
    clip(&folder, &args);
}

#[test]
fn what_cannot_write_captions_or_learn_them_so_is_refused() {
    let folder = coca_folder();
    let ran = folder.clip(&["caption", "0.png", "--model", "model"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("it has no decoder"), "{ran:?}");
    encoders_of(COCA).save(&folder.path("coca")).unwrap();
    for (args, told) in [
        (&["--top-k", "0"][..], "0 is not in"),
        (&["--temperature", "2"], "required"),
        (&["--top-k", "3", "--top-p", "0.5"], "cannot be used with"),
        (&["--beams", "3", "--top-k", "3"], "cannot be used with"),
        (&["--longest", "13"], "the model's context of 12"),
    ] {
        let ran = folder.clip(&[&["caption", "0.png", "--model", "coca"], args].concat());
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.err.contains(told), "{ran:?}");
    }
    for (args, told) in [
        (
            &["--set", "loss=\"siglip\""][..],
            "`loss` must be \"infonce\"",
        ),
        (
            &["--distill", "model"],
            "`distill` is for models without a decoder",
        ),
        (
            &["--set", "coca_caption_loss_weight=-1"],
            "must not be negative",
        ),
    ] {
        let ran = folder.clip(&pretrain("run", args));
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.err.contains(told), "{ran:?}");
        assert!(!folder.path("run").exists());
    }
}
