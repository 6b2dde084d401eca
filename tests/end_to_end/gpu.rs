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
//! Software compiles each kernel in seconds: nearly all of a program's first minutes go there.

use crate::{
    runs::{folder, metrics, pretrain},
    support::{Folder, encoders_of, refused},
};

/// Kernels sum in another order; relative to a feature vector's length.
const ROUNDING: f32 = 1e-4;
/// The same after three steps, each of which divides by a gradient's size.
const TRAINED: f64 = 1e-3;

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
#[ignore = "needs --features clip-cli/wgpu and a GPU or Mesa's software Vulkan; see tests/end_to_end/gpu.rs"]
fn features_are_the_processors() {
    let folder = folder();
    let ran = folder.clip(&["devices"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("wgpu:0"), "no device of wgpu: {ran:?}");
    println!("{}", ran.out);

    encoders_of(RESNET).save(&folder.path("resnet")).unwrap();
    for model in ["model", "resnet"] {
        let [ours, theirs] = ["wgpu", "cpu"].map(|device| features(&folder, model, device));
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

#[test]
#[ignore = "needs --features clip-cli/wgpu and a GPU or Mesa's software Vulkan; see tests/end_to_end/gpu.rs"]
fn training_is_the_processors() {
    let folder = folder();
    let losses = |name: &str, device: &str, set: &[&str]| -> Vec<f64> {
        let out = format!("{name}-{device}");
        let mut more = vec!["--steps", "3", "--val", "a.tar", "--device", device];
        more.extend(set.iter().flat_map(|&set| ["--set", set]));
        let ran = folder.clip(&pretrain(&out, &more));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let steps = metrics(&folder, &out);
        steps
            .iter()
            .filter_map(|step| step["loss"].as_f64())
            .collect()
    };
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
        let [ours, theirs] = ["wgpu", "cpu"].map(|device| losses(name, device, set));
        println!("{name}: losses {ours:?} on the GPU, {theirs:?} on the processor");
        assert_eq!((ours.len(), theirs.len()), (3, 3));
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert!((ours - theirs).abs() < TRAINED, "{name}: {ours} {theirs}");
        }
    }
}

/// WGSL has none; see its specification, section 6.2.
#[test]
#[ignore = "needs --features clip-cli/wgpu and a GPU or Mesa's software Vulkan; see tests/end_to_end/gpu.rs"]
fn bf16_is_refused_before_a_run_begins() {
    let folder = folder();
    let args = pretrain("run", &["--device", "wgpu", "--set", "precision=bf16"]);
    refused(
        &folder,
        &[(&args, &["precision", "wgpu", "f32 works everywhere"])],
    );
    assert!(!folder.path("run").join("metrics.jsonl").exists());
}
