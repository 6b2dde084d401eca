//! A GPU against the processor: the same features, and the same training up to rounding.
//!
//! Mesa's software Vulkan is a GPU too: `apt-get install mesa-vulkan-drivers`, and `XDG_RUNTIME_DIR` set to a folder of one's
//! own. One command runs these, and with them the tests of `clip-model` against OpenCLIP, on the GPU; one program holds
//! both backends, and no other feature makes Burn's build longer:
//!
//! ```sh
//! BURN_DEVICE=wgpu cargo test --release --no-default-features -p clip-cli -p clip-model -p clip-tests \
//!     --features clip-cli/cpu,clip-cli/wgpu --lib --test version --test end_to_end -- --include-ignored --test-threads 1 \
//!     gpu:: reference_tests:: vision_variant_tests:: image_norm::
//! ```
//!
//! Software compiles each kernel in seconds: nearly all of a program's first minutes go there. Built with
//! `clip-cli/cuda` or `clip-cli/vulkan`, and with `BURN_DEVICE` so, they are tests of those.

use crate::{
    runs::{folder, metrics, pretrain},
    support::{Folder, encoders_of, refused},
};

/// Kernels sum in another order; relative to a feature vector's length.
const ROUNDING: f32 = 1e-4;
/// The same after three steps, each of which divides by a gradient's size.
const TRAINED: f64 = 1e-3;

/// bf16 has 8 bits of fraction: the losses of three steps.
const BF16: f64 = 0.05;

/// The GPU's backend.
fn gpu() -> String {
    std::env::var("BURN_DEVICE").unwrap_or_else(|_| "wgpu".to_owned())
}

const RESNET: &str = r#"{"embed_dim": 16, "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8,
    "head_width": 16, "patch_size": null}, "text_cfg": {"context_length": 12, "vocab_size": 540,
    "width": 16, "heads": 2, "layers": 1}}"#;

/// Feature vectors of three pictures and three texts.
fn features(folder: &Folder, model: &str, device: &str) -> Vec<Vec<f32>> {
    let out = format!("{device}.safetensors");
    let args = [
        "embed",
        "--model",
        model,
        "--images",
        "0.png",
        "1.png",
        "2.png",
        "--texts",
        "names.txt",
        "--device",
        device,
        "--out",
        &out,
    ];
    let ran = folder.clip(&args);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ["image_features", "text_features"]
        .iter()
        .flat_map(|name| folder.rows(&out, name))
        .collect()
}

#[test]
#[ignore = "needs a build with a GPU's backend, and a GPU or Mesa's software Vulkan; see tests/end_to_end/gpu.rs"]
fn features_are_the_processors() {
    let folder = folder();
    let ran = folder.clip(&["devices"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let gpu = gpu();
    assert!(ran.out.contains(&format!("{gpu}:0")), "no {gpu}: {ran:?}");
    println!("{}", ran.out);

    encoders_of(RESNET).save(&folder.path("resnet")).unwrap();
    for model in ["model", "resnet"] {
        let [ours, theirs] = [&*gpu, "cpu"].map(|device| features(&folder, model, device));
        assert_eq!(ours.len(), 3 + 3);
        // Unit vectors: their difference is relative already.
        for (ours, theirs) in ours.iter().zip(&theirs) {
            let squares = ours.iter().zip(theirs).map(|(a, b)| (a - b).powi(2));
            let error = squares.sum::<f32>().sqrt();
            println!("{model}: relative error {error:.1e}");
            assert!(error < ROUNDING, "{model}: {ours:?} {theirs:?}");
        }
    }
}

/// The losses of three training steps.
fn losses(folder: &Folder, name: &str, device: &str, set: &[&str]) -> Vec<f64> {
    let out = format!("{name}-{device}");
    let mut more = vec!["--steps", "3", "--val", "a.tar", "--device", device];
    more.extend(set.iter().flat_map(|&set| ["--set", set]));
    let ran = folder.clip(&pretrain(&out, &more));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let steps = metrics(folder, &out);
    let losses: Vec<f64> = steps
        .iter()
        .filter_map(|step| step["loss"].as_f64())
        .collect();
    println!("{out}: losses {losses:?}");
    assert_eq!(losses.len(), 3);
    losses
}

fn assert_near(ours: &[f64], theirs: &[f64], tolerance: f64) {
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert!((ours - theirs).abs() < tolerance, "{ours} {theirs}");
    }
}

#[test]
#[ignore = "needs a build with a GPU's backend, and a GPU or Mesa's software Vulkan; see tests/end_to_end/gpu.rs"]
fn training_is_the_processors() {
    let folder = folder();
    // Whole batches, then all that takes them apart or changes what is computed.
    let settings = [
        "chunk=3",
        "grad_checkpointing=true",
        "patch_dropout=0.5",
        "loss=\"siglip\"",
        "duplicates=\"positives\"",
        "ema=0.9",
        "optimizer.grad_clip_norm=1.0",
    ];
    for (name, set) in [("plain", &[][..]), ("settings", &settings[..])] {
        let [ours, theirs] = [&*gpu(), "cpu"].map(|device| losses(&folder, name, device, set));
        assert_near(&ours, &theirs, TRAINED);
    }
}

/// WGSL has no bf16; see its specification, section 6.2.
#[test]
#[ignore = "needs a build with a GPU's backend, and a GPU or Mesa's software Vulkan; see tests/end_to_end/gpu.rs"]
fn bf16_is_near_f32_or_refused_before_a_run_begins() {
    let folder = folder();
    let gpu = gpu();
    let bf16 = ["precision=bf16"];
    if gpu == "cuda" {
        let [ours, theirs] =
            [("bf16", &bf16[..]), ("f32", &[])].map(|(name, set)| losses(&folder, name, &gpu, set));
        assert_near(&ours, &theirs, BF16);
        assert_ne!(ours, theirs);
        return;
    }
    let args = pretrain("run", &["--device", &gpu, "--set", bf16[0]]);
    // A model that isn't there would be named if it were looked for first.
    let embed = [
        "embed",
        "--model",
        "gone",
        "--images",
        "0.png",
        "--out",
        "out.safetensors",
    ];
    let embed = [&embed[..], &["--device", &gpu, "--precision", "bf16"]].concat();
    refused(
        &folder,
        &[
            (&args, &["precision", &gpu, "f32 works everywhere"]),
            (&embed, &[&gpu, "doesn't compute in bf16"]),
        ],
    );
    assert!(!folder.path("run").join("metrics.jsonl").exists());
}
