//! Initial mean and deviation of every parameter against the reference's formulas.

use burn::{module::Module, tensor::Device};

use crate::{
    Clip, ClipConfig, Init,
    encoder::{
        Activation, ImageEncoder, TimmProjection,
        convnext::{ConvNeXt, ConvNeXtShape},
        eva::{Eva, EvaFamily, EvaShape},
        fastvit::{FastVit, FastVitShape, FastVitStageShape},
        siglip::{SiglipShape, SiglipVisionTransformer},
        timm_vit::{TimmVisionTransformer, TimmVitShape, TimmVitStem},
        vitamin::{ViTamin, ViTaminShape},
    },
    weights::named_params,
};

/// Further than this many standard errors away by chance in one of 3 million comparisons.
const SIGMAS: f64 = 5.0;

#[derive(Debug)]
enum Expected {
    Constant(f64),
    Normal(f64),
    /// Of PyTorch's `U(±bound)`.
    Uniform(f64),
    /// A normal cut two deviations away.
    Truncated(f64),
}
use Expected::{Constant, Normal, Truncated, Uniform};

const TEXT_WIDTH: f64 = 64.0;
const TEXT_LAYERS: f64 = 3.0;
const VISION_WIDTH: f64 = 48.0;

fn text(name: &str) -> Expected {
    let attn_std = TEXT_WIDTH.powf(-0.5);
    let proj_std = attn_std * (2.0 * TEXT_LAYERS).powf(-0.5);
    let end = |suffix: &str| name.ends_with(suffix);
    match name {
        "logit_scale" => Constant((1.0_f64 / 0.07).ln()),
        "token_embedding.weight" => Normal(0.02),
        "positional_embedding" | "cls_emb" => Normal(0.01),
        "text_projection" => Normal(attn_std),
        _ if end("ln_1.weight") || end("ln_2.weight") || end("ln_final.weight") => Constant(1.0),
        _ if end("in_proj_weight") => Normal(attn_std),
        _ if end("out_proj.weight") || end("c_proj.weight") => Normal(proj_std),
        _ if end("c_fc.weight") => Normal((2.0 * TEXT_WIDTH).powf(-0.5)),
        _ if end("c_fc.bias") => Uniform(TEXT_WIDTH.powf(-0.5)),
        _ if end("c_proj.bias") => Uniform((4.0 * TEXT_WIDTH).powf(-0.5)),
        _ => Constant(0.0), // other biases
    }
}

fn vision_transformer(name: &str, shape: &[usize]) -> Expected {
    let end = |suffix: &str| name.ends_with(suffix);
    match name {
        "class_embedding" | "positional_embedding" | "proj" => Normal(VISION_WIDTH.powf(-0.5)),
        "conv1.weight" => Uniform(fan_in(shape).powf(-0.5)),
        _ if end("ln_1.weight") || end("ln_2.weight") || name.starts_with("ln_") => {
            Constant(f64::from(u8::from(end("weight"))))
        }
        // Xavier's.
        _ if end("in_proj_weight") => Uniform((6.0 / (4.0 * VISION_WIDTH)).sqrt()),
        _ if end(".weight") => Uniform(fan_in(shape).powf(-0.5)),
        _ if end("c_fc.bias") => Uniform(VISION_WIDTH.powf(-0.5)),
        _ if end("c_proj.bias") => Uniform((4.0 * VISION_WIDTH).powf(-0.5)),
        _ => Constant(0.0),
    }
}

fn coca(name: &str, shape: &[usize]) -> Expected {
    match name {
        "attn_pool.query" => Normal(1.0),
        // Xavier's.
        "attn_pool.attn.q_proj_weight" => Uniform((6.0 / (2.0 * TEXT_WIDTH)).sqrt()),
        "attn_pool.attn.k_proj_weight" | "attn_pool.attn.v_proj_weight" => {
            Uniform((6.0 / (TEXT_WIDTH + VISION_WIDTH)).sqrt())
        }
        "attn_pool.ln_q.weight" | "attn_pool.ln_k.weight" => Constant(1.0),
        _ => vision_transformer(name, shape),
    }
}

fn coca_decoder(name: &str, shape: &[usize]) -> Expected {
    let end = |suffix: &str| name.ends_with(suffix);
    match name {
        "text_projection" => Normal(TEXT_WIDTH.powf(-0.5)),
        _ if end("in_proj_weight") => Uniform((6.0 / (4.0 * TEXT_WIDTH)).sqrt()),
        // Vectors are norms' gains.
        _ if end("weight") && shape.len() == 1 => Constant(1.0),
        _ if end("weight") => Uniform(fan_in(shape).powf(-0.5)),
        _ if end("c_fc.bias") => Uniform(TEXT_WIDTH.powf(-0.5)),
        _ if end("c_proj.bias") => Uniform((4.0 * TEXT_WIDTH).powf(-0.5)),
        _ => Constant(0.0),
    }
}

fn modified_resnet(name: &str, shape: &[usize]) -> Expected {
    let pooled = (32.0 * 8.0_f64).powf(-0.5);
    let end = |suffix: &str| name.ends_with(suffix);
    match name {
        "bn3.weight" => Constant(1.0), // the stem's
        "attnpool.positional_embedding" => Normal(pooled),
        _ if end("bn3.weight") => Constant(0.0),
        _ if end("running_mean") || end("num_batches_tracked") => Constant(0.0),
        _ if end("running_var") => Constant(1.0),
        _ if name.starts_with("attnpool.") && end("weight") => Normal(pooled),
        _ if name.starts_with("attnpool.") => Uniform(pooled),
        _ if shape.len() == 4 => Uniform(fan_in(shape).powf(-0.5)),
        _ => Constant(f64::from(u8::from(end("weight")))), // batch norms
    }
}

fn siglip(name: &str, shape: &[usize]) -> Expected {
    let end = |suffix: &str| name.ends_with(suffix);
    match name {
        "trunk.patch_embed.proj.weight" => Uniform(fan_in(shape).powf(-0.5)),
        "trunk.patch_embed.proj.bias" => Uniform((3.0 * 16.0_f64).powf(-0.5)),
        "trunk.pos_embed" => Normal(0.02),
        "trunk.attn_pool.latent" => Truncated(VISION_WIDTH.powf(-0.5)),
        _ if end("norm1.weight") || end("norm2.weight") || end("norm.weight") => Constant(1.0),
        _ if end("weight") => Normal(0.02),
        _ => Constant(0.0),
    }
}

fn convnext(name: &str, shape: &[usize]) -> Expected {
    let end = |suffix: &str| name.ends_with(suffix);
    match name {
        // PyTorch's linear layers, of 16 channels and then of twice 48.
        "head.mlp.fc1.weight" | "head.mlp.fc1.bias" => Uniform(16.0_f64.powf(-0.5)),
        "head.mlp.fc2.weight" => Uniform((2.0 * VISION_WIDTH).powf(-0.5)),
        _ if end("gamma") => Constant(1e-6),
        // Vectors are norms' gains, of the stem and of what leads to a stage too.
        _ if end("weight") && shape.len() == 1 => Constant(1.0),
        _ if end("weight") => Normal(0.02),
        _ => Constant(0.0),
    }
}

fn eva(name: &str, shape: &[usize]) -> Expected {
    let end = |suffix: &str| name.ends_with(suffix);
    let depth = |number: f64| (2.0 * number).sqrt();
    match name {
        "trunk.patch_embed.proj.weight" => Uniform(fan_in(shape).powf(-0.5)),
        "trunk.patch_embed.proj.bias" => Uniform((3.0 * 16.0_f64).powf(-0.5)),
        "trunk.pos_embed" | "trunk.cls_token" => Normal(0.02),
        "trunk.attn_pool.latent" => Truncated(VISION_WIDTH.powf(-0.5)),
        "trunk.head.weight" => Normal(0.001 * 0.02),
        _ if end(".0.attn.proj.weight") || end(".0.mlp.fc2.weight") => Normal(0.02 / depth(1.0)),
        _ if end(".1.attn.proj.weight") || end(".1.mlp.fc2.weight") => Normal(0.02 / depth(2.0)),
        _ if end("weight") && shape.len() == 1 => Constant(1.0),
        _ if end("weight") => Normal(0.02),
        _ => Constant(0.0),
    }
}

fn fastvit(name: &str, shape: &[usize]) -> Expected {
    let end = |suffix: &str| name.ends_with(suffix);
    match name {
        "trunk.head.fc.bias" => Constant(0.0),
        _ if end("running_mean") || end("num_batches_tracked") => Constant(0.0),
        _ if end("running_var") => Constant(1.0),
        _ if end("gamma") => Constant(1e-5),
        _ if name.contains(".mlp.") && shape.len() > 1 => Normal(0.02),
        _ if shape.len() == 4 => Uniform(fan_in(shape).powf(-0.5)),
        _ if shape.len() == 2 => Normal(0.02),
        // From 8 and 16 channels to a quarter, which is at least 8, and a sixteenth.
        "trunk.stages.1.downsample.proj.0.se.fc1.bias"
        | "trunk.stages.1.downsample.proj.0.se.fc2.bias" => Uniform(8.0_f64.powf(-0.5)),
        "trunk.final_conv.se.fc1.bias" => Uniform(16.0_f64.powf(-0.5)),
        "trunk.final_conv.se.fc2.bias" => Uniform(1.0),
        _ if end("pos_enc.bias") => Uniform(1.0 / 7.0),
        _ => Constant(f64::from(u8::from(end("weight")))), // norms, and biases of an MLP
    }
}

fn timm_vit(name: &str, shape: &[usize]) -> Expected {
    let end = |suffix: &str| name.ends_with(suffix);
    match name {
        "trunk.cls_token" => Normal(1e-6),
        "trunk.pos_embed" => Normal(0.02),
        // From 12 features of patches of 2 by 2.
        "trunk.patch_embed.backbone.2.conv.bias" => Uniform((4.0 * 12.0_f64).powf(-0.5)),
        _ if end("running_mean") || end("num_batches_tracked") => Constant(0.0),
        _ if end("running_var") => Constant(1.0),
        _ if shape.len() == 4 => Uniform(fan_in(shape).powf(-0.5)),
        _ if shape.len() == 2 => Normal(0.02),
        _ => Constant(f64::from(u8::from(end("weight")))), // norms, and other biases
    }
}

fn vitamin(name: &str, shape: &[usize]) -> Expected {
    let end = |suffix: &str| name.ends_with(suffix);
    // Of a convolution whose groups are one channel each, 9.
    let fan_out = |depthwise| {
        if depthwise {
            9
        } else {
            shape[0] * shape[2] * shape[3]
        }
    };
    match name {
        "head.proj.weight" => Uniform(VISION_WIDTH.powf(-0.5)),
        // PyTorch's default, from 8 channels.
        "trunk.patch_embed.backbone.pool.proj.weight"
        | "trunk.patch_embed.backbone.pool.proj.bias" => Uniform((9.0 * 8.0_f64).powf(-0.5)),
        "trunk.pos_embed" => Normal(0.02),
        _ if shape.len() == 4 => Normal((2.0 / fan_out(end("kxk.weight")) as f64).sqrt()),
        _ if shape.len() == 2 => Normal(0.02),
        _ => Constant(f64::from(u8::from(end("weight")))), // norms, and other biases
    }
}

fn fan_in(shape: &[usize]) -> f64 {
    shape[1..].iter().product::<usize>() as f64
}

fn check(model: &Clip, vision: fn(&str, &[usize]) -> Expected) {
    for param in named_params(model, true) {
        let values = param.data.unwrap().try_to_vec::<f32>().unwrap();
        let count = values.len() as f64;
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
        let squares = values.iter().map(|&x| (f64::from(x) - mean).powi(2));
        let deviation = (squares.sum::<f64>() / count).sqrt();
        let (name, shape) = (&param.name, &param.shape);
        let expected = if let Some(name) = name.strip_prefix("visual.") {
            vision(name, shape)
        } else if let Some(name) = name.strip_prefix("text_decoder.") {
            coca_decoder(name, shape)
        } else {
            text(name.strip_prefix("text.").unwrap_or(name))
        };
        let std = match expected {
            Constant(value) => {
                let same = values
                    .iter()
                    .all(|&x| (f64::from(x) - value).abs() <= 1e-6 * value.abs());
                assert!(same, "{name}: {mean} ± {deviation}, not {expected:?}");
                continue;
            }
            Normal(std) => std,
            Uniform(bound) => {
                let within = values.iter().all(|&x| f64::from(x).abs() <= bound);
                assert!(within, "{name}: not {expected:?}");
                bound / 3.0_f64.sqrt()
            }
            Truncated(std) => {
                let within = values.iter().all(|&x| f64::from(x).abs() <= 2.0 * std);
                assert!(within, "{name}: not {expected:?}");
                0.8796 * std // of a standard normal within ±2
            }
        };
        let off = (mean / std * count.sqrt()).abs();
        assert!(off < SIGMAS, "{name}: mean {mean}, {expected:?}");
        let off = ((deviation / std - 1.0) * (2.0 * count).sqrt()).abs();
        assert!(off < SIGMAS, "{name}: deviation {deviation}, {expected:?}");
    }
}

fn config(vision: &str) -> ClipConfig {
    let json = format!(
        r#"{{"embed_dim": 48, "vision_cfg": {vision}, "text_cfg": {{"context_length": 9,
        "vocab_size": 60, "width": 64, "heads": 2, "layers": 3}}}}"#
    );
    ClipConfig::from_json(&json, "test").unwrap()
}

#[test]
fn a_vision_transformer_begins_as_open_ais() {
    let vision =
        r#"{"image_size": 16, "layers": 2, "width": 48, "head_width": 16, "patch_size": 4}"#;
    check(&config(vision).init(0, &Device::flex()), vision_transformer);
}

#[test]
fn a_coca_begins_as_open_clips() {
    let json = r#"{"embed_dim": 64, "custom_text": true, "vision_cfg": {"image_size": 16, "layers": 2, "width": 48,
        "head_width": 16, "patch_size": 4, "attentional_pool": true, "output_tokens": true}, "text_cfg":
        {"context_length": 9, "vocab_size": 60, "width": 64, "heads": 2, "layers": 3, "embed_cls": true,
        "output_tokens": true}, "multimodal_cfg": {"width": 64, "heads": 2, "layers": 2}}"#;
    let config = ClipConfig::from_json(json, "test").unwrap();
    let model = config.init(0, &Device::flex());
    assert_eq!(model.num_params(), config.num_params());
    check(&model, coca);
}

#[test]
fn a_resnet_begins_as_open_ais() {
    let vision = r#"{"image_size": 32, "layers": [1, 2, 1, 1], "width": 8, "head_width": 64}"#;
    check(&config(vision).init(0, &Device::flex()), modified_resnet);
}

#[test]
fn a_siglip_begins_as_timms() {
    let vision =
        r#"{"image_size": 16, "layers": 1, "width": 48, "head_width": 16, "patch_size": 4}"#;
    let shape = SiglipShape {
        image_size: 16,
        patch_size: 4,
        width: 48,
        layers: 2,
        heads: 3,
        mlp_width: 192,
        activation: Activation::Gelu,
    };
    let init = &mut Init::new(0, &Device::flex());
    let mut model = Clip::init(&config(vision), init);
    model.visual = ImageEncoder::Siglip(SiglipVisionTransformer::init(&shape, init));
    check(&model, siglip);
}

#[test]
fn a_convnext_begins_as_timms() {
    let vision =
        r#"{"image_size": 16, "layers": 1, "width": 48, "head_width": 16, "patch_size": 4}"#;
    let shape = ConvNeXtShape {
        depths: [1, 2, 1, 1],
        channels: [4, 8, 12, 16],
        epsilon: 1e-6,
        projection: TimmProjection::Mlp,
    };
    let init = &mut Init::new(0, &Device::flex());
    let mut model = Clip::init(&config(vision), init);
    model.visual = ImageEncoder::ConvNeXt(ConvNeXt::init(&shape, 48, init));
    check(&model, convnext);
}

#[test]
fn evas_begin_as_timms() {
    let vision =
        r#"{"image_size": 16, "layers": 1, "width": 48, "head_width": 16, "patch_size": 4}"#;
    for family in [
        EvaFamily::Eva01,
        EvaFamily::Eva02,
        EvaFamily::Eva02PostNorm,
        EvaFamily::PerceptionEncoder,
    ] {
        let shape = EvaShape {
            family,
            image_size: 16,
            patch_size: 4,
            width: 48,
            layers: 2,
            heads: 3,
            mlp_width: 128,
            class_token: true,
        };
        let init = &mut Init::new(0, &Device::flex());
        let mut model = Clip::init(&config(vision), init);
        model.visual = ImageEncoder::Eva(Eva::init(&shape, 48, init));
        check(&model, eva);
    }
}

const FASTVIT_STAGES: [FastVitStageShape; 2] = [
    FastVitStageShape {
        depth: 1,
        channels: 4,
        attention: false,
        squeeze_excite: false,
    },
    FastVitStageShape {
        depth: 1,
        channels: 8,
        attention: true,
        squeeze_excite: true,
    },
];

#[test]
fn mobile_clips_begin_as_timms() {
    let vision =
        r#"{"image_size": 16, "layers": 1, "width": 48, "head_width": 16, "patch_size": 4}"#;
    for layer_norm in [false, true] {
        let shape = FastVitShape {
            stages: &FASTVIT_STAGES,
            mlp_ratio: 2,
            head_width: 4,
            stem_scale: !layer_norm,
            layer_norm,
        };
        let init = &mut Init::new(0, &Device::flex());
        let mut model = Clip::init(&config(vision), init);
        model.visual = ImageEncoder::FastVit(FastVit::init(&shape, 48, init));
        check(&model, fastvit);
    }
    for stem in [TimmVitStem::Convolutions, TimmVitStem::Patches(16)] {
        let shape = TimmVitShape {
            stem,
            image_size: 64,
            width: 48,
            layers: 2,
            heads: 3,
        };
        let init = &mut Init::new(0, &Device::flex());
        let mut model = Clip::init(&config(vision), init);
        model.visual = ImageEncoder::TimmVit(TimmVisionTransformer::init(&shape, 48, init));
        check(&model, timm_vit);
    }
}

#[test]
fn a_vitamin_begins_as_timms() {
    let vision =
        r#"{"image_size": 16, "layers": 1, "width": 48, "head_width": 16, "patch_size": 4}"#;
    let shape = ViTaminShape {
        image_size: Some(64),
        channels: [4, 8],
        width: 48,
        layers: 2,
        heads: 3,
        projection: TimmProjection::Linear,
    };
    let init = &mut Init::new(0, &Device::flex());
    let mut model = Clip::init(&config(vision), init);
    model.visual = ImageEncoder::ViTamin(ViTamin::init(&shape, 48, init));
    check(&model, vitamin);
}
