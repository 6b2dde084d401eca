//! A GPU against the processor: the same features, and the same training up to rounding.
//!
//! Mesa's software Vulkan is a GPU too: `apt-get install mesa-vulkan-drivers`, and `XDG_RUNTIME_DIR` set. Then
//! `cargo test --release -p clip-cli -p clip-tests --features clip-cli/wgpu --bin clip --test end_to_end gpu -- --ignored`.

use crate::{
    runs::{folder, metrics, pretrain},
    support::Folder,
};

/// Kernels sum in another order; relative to a feature vector's length.
const ROUNDING: f32 = 1e-4;
/// The same after three steps, each of which divides by a gradient's size.
const TRAINED: f64 = 1e-3;

/// Feature vectors of three pictures and four texts.
fn features(folder: &Folder, device: &str) -> Vec<Vec<f32>> {
    let out = format!("{device}.safetensors");
    let args = [
        "embed",
        "--model",
        "model",
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
fn a_gpu_computes_what_a_processor_does() {
    let folder = folder();
    let ran = folder.clip(&["devices"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("wgpu:0"), "no device of wgpu: {ran:?}");
    println!("{}", ran.out);

    let (ours, theirs) = (features(&folder, "wgpu"), features(&folder, "cpu"));
    assert_eq!(ours.len(), 3 + 3);
    // Unit vectors: their difference is relative already.
    for (ours, theirs) in ours.iter().zip(&theirs) {
        let squares = ours.iter().zip(theirs).map(|(a, b)| (a - b).powi(2));
        let error = squares.sum::<f32>().sqrt();
        println!("relative error {error:.1e}");
        assert!(error < ROUNDING, "{ours:?} {theirs:?}");
    }

    let losses = |device: &str| -> Vec<f64> {
        let more = ["--steps", "3", "--val", "a.tar", "--device", device];
        let ran = folder.clip(&pretrain(device, &more));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let steps = metrics(&folder, device);
        steps
            .iter()
            .filter_map(|step| step["loss"].as_f64())
            .collect()
    };
    let (ours, theirs) = (losses("wgpu"), losses("cpu"));
    println!("losses {ours:?} on the GPU, {theirs:?} on the processor");
    assert_eq!((ours.len(), theirs.len()), (3, 3));
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert!((ours - theirs).abs() < TRAINED, "{ours} {theirs}");
    }
}
