//! Initial weights have the mean and deviation of OpenAI's `initialize_parameters` (`clip/model.py`), and of PyTorch's
//! defaults where that code leaves them.

use burn::tensor::Device;

use crate::{ClipConfig, INITIAL_LOGIT_SCALE, weights::named_params};

/// Deviations that a sample mean or deviation may be off: once in millions by chance, and the seed is fixed.
const SIGMAS: f64 = 5.0;

const WIDTH: f64 = 64.0;
const LAYERS: f64 = 3.0;

/// Mean and standard deviation of a parameter, by its OpenCLIP name.
fn expected(name: &str) -> (f64, f64) {
    let uniform = |bound: f64| (0.0, bound / 3_f64.sqrt());
    let (tower, rest) = match name.strip_prefix("visual.") {
        Some(rest) => ("image", rest),
        None => ("text", name),
    };
    let part = rest.splitn(4, '.').nth(3);
    let residual = (WIDTH * 2.0 * LAYERS).powf(-0.5);
    match (tower, part.unwrap_or(rest)) {
        (_, "logit_scale") => (f64::from(INITIAL_LOGIT_SCALE), 0.0),
        (_, "attn.in_proj_bias" | "attn.out_proj.bias") => (0.0, 0.0),
        ("text", "token_embedding.weight") => (0.0, 0.02),
        ("text", "positional_embedding") => (0.0, 0.01),
        ("text", "attn.out_proj.weight" | "mlp.c_proj.weight") => (0.0, residual),
        ("text", "mlp.c_fc.weight") => (0.0, (2.0 * WIDTH).powf(-0.5)),
        ("text", "attn.in_proj_weight" | "text_projection")
        | ("image", "class_embedding" | "positional_embedding" | "proj") => (0.0, WIDTH.powf(-0.5)),
        ("image", "conv1.weight") => uniform((3.0 * 64.0_f64).powf(-0.5)),
        ("image", "attn.in_proj_weight") => uniform((6.0 / (4.0 * WIDTH)).sqrt()),
        (_, "mlp.c_fc.bias") | ("image", "attn.out_proj.weight" | "mlp.c_fc.weight") => {
            uniform(WIDTH.powf(-0.5))
        }
        (_, "mlp.c_proj.bias") | ("image", "mlp.c_proj.weight") => {
            uniform((4.0 * WIDTH).powf(-0.5))
        }
        (_, norm) if norm.contains("ln_") && norm.ends_with("weight") => (1.0, 0.0),
        (_, norm) if norm.contains("ln_") && norm.ends_with("bias") => (0.0, 0.0),
        _ => panic!("{name} has no expectation"),
    }
}

#[test]
fn initial_weights_have_the_references_mean_and_deviation() {
    let json = r#"{"embed_dim": 48, "vision_cfg": {"image_size": 32, "layers": 3, "width": 64,
        "head_width": 16, "patch_size": 8}, "text_cfg": {"context_length": 16,
        "vocab_size": 500, "width": 64, "heads": 4, "layers": 3}}"#;
    let config = ClipConfig::from_json(json, "test").unwrap();
    for param in named_params(&config.init(11, &Device::flex()), true) {
        let values: Vec<f32> = param.data.unwrap().try_to_vec().unwrap();
        let count = values.len() as f64;
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
        let squares = values.iter().map(|&x| (f64::from(x) - mean).powi(2));
        let deviation = (squares.sum::<f64>() / count).sqrt();
        let (want_mean, want_deviation) = expected(&param.name);
        let off = (mean - want_mean).abs();
        assert!(
            off <= SIGMAS * want_deviation / count.sqrt() + 1e-6,
            "{}: mean {mean}, expected {want_mean}",
            param.name
        );
        let off = (deviation - want_deviation).abs();
        assert!(
            off <= SIGMAS * want_deviation / (2.0 * count).sqrt() + 1e-6,
            "{}: deviation {deviation}, expected {want_deviation}",
            param.name
        );
    }
}
