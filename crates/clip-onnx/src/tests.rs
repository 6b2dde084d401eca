//! What is written, run by `rten`, gives the features of Burn's model.

use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use clip_model::{
    ClipConfig, l2_normalize,
    weights::{
        CONFIG_FILE, FloatType, ImportedWeights, ReadOptions, WEIGHTS_FILE, parameter_shapes,
    },
};
use rten::{Model, Value};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::json;

use crate::{IMAGE_FILE, TEXT_FILE, export, export::export_within, file::LARGEST_MESSAGE};

/// Numbers of length 1, computed in f32 in another order of sums.
const ROUNDING: f32 = 1e-5;
/// The same from weights with 11 bits of precision.
const HALF: f32 = 5e-3;

/// Numbers in `[-1, 1]` that only the seed decides.
fn noise(seed: u32) -> impl Iterator<Item = f32> {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(1);
    std::iter::from_fn(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
    })
}

/// No weight is what a model begins with, where zeros and ones would hide that one is missing.
fn values(name: &str, shape: &[usize]) -> Vec<f32> {
    let seed = name.bytes().fold(0, |seed: u32, byte| {
        seed.wrapping_mul(31).wrapping_add(byte.into())
    });
    let count = shape.iter().product();
    let is_factor = name.ends_with("weight") || name.ends_with("running_var");
    let (middle, spread) = match shape {
        [] | [_] if is_factor => (1.0, 0.3),
        [] | [_] => (0.0, 0.3),
        [_, from @ ..] => (0.0, 1.7 / (from.iter().product::<usize>() as f32).sqrt()),
    };
    let noise = noise(seed).take(count);
    noise.map(|noise| middle + spread * noise).collect()
}

/// A model directory with such weights, as it is read.
fn checkpoint(config: &serde_json::Value, dir: &Path) -> ImportedWeights {
    checkpoint_of(config, dir, values)
}

/// The same with these weights.
fn checkpoint_of(
    config: &serde_json::Value,
    dir: &Path,
    values: impl Fn(&str, &[usize]) -> Vec<f32>,
) -> ImportedWeights {
    let device = Device::flex();
    let hub = json!({"model_cfg": config, "preprocess_cfg": {}});
    std::fs::write(dir.join(CONFIG_FILE), hub.to_string()).unwrap();
    let config = ClipConfig::from_json(&config.to_string(), "test").unwrap();
    let tensors: Vec<_> = parameter_shapes(&config.init_blank(&device))
        .into_iter()
        .map(|(name, shape)| {
            let (dtype, bytes) = if name.ends_with("num_batches_tracked") {
                (Dtype::I64, 7_i64.to_le_bytes().to_vec())
            } else {
                let values = values(&name, &shape).into_iter();
                (Dtype::F32, values.flat_map(f32::to_le_bytes).collect())
            };
            (name, dtype, shape, bytes)
        })
        .collect();
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
        (name.as_str(), view)
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(dir.join(WEIGHTS_FILE), bytes).unwrap();
    ImportedWeights::read(dir, &ReadOptions::default(), &device).unwrap()
}

/// A vision transformer and a text transformer with these changes.
fn small(
    mut changes: serde_json::Value,
    vision: serde_json::Value,
    text: serde_json::Value,
) -> serde_json::Value {
    let mut config = json!({
        "embed_dim": 8,
        "vision_cfg": {"image_size": 18, "layers": 2, "width": 16, "head_width": 4, "patch_size": 4},
        "text_cfg": {"context_length": 7, "vocab_size": 20, "width": 8, "heads": 2, "layers": 2},
    });
    changes["vision_cfg"] = vision;
    changes["text_cfg"] = text;
    for (key, change) in changes.as_object().unwrap() {
        match (&mut config[key], change) {
            (serde_json::Value::Object(part), serde_json::Value::Object(change)) => {
                part.extend(change.clone());
            }
            (value, change) => *value = change.clone(),
        }
    }
    config
}

/// Two images and three captions.
struct Inputs {
    size: usize,
    pixels: Vec<f32>,
    ids: Vec<i32>,
}

const IMAGES: usize = 2;
const CAPTIONS: usize = 3;

impl Inputs {
    /// Captions end with 19, the highest; 5 is `eos_id` of one test, once in each: of several highest rten finds the last, and
    /// ONNX means the first, which `tests/reference/onnx_parity.py` asks for. Padding is 0.
    fn of(config: &ClipConfig) -> Self {
        let size = config.vision_cfg.image_size;
        let context = config.text_cfg.context_length;
        let captions: [&[i32]; CAPTIONS] = [
            &[18, 3, 4, 5, 19],
            &[18, 7, 5, 19],
            &[18, 8, 2, 9, 11, 5, 19],
        ];
        let padded = captions.iter().flat_map(|caption| {
            let ids = caption.iter().copied();
            ids.chain(std::iter::repeat(0)).take(context)
        });
        Self {
            size,
            pixels: noise(1).take(IMAGES * 3 * size * size).collect(),
            ids: padded.collect(),
        }
    }

    /// By Burn's model: normalised features of images and captions.
    fn by_burn(&self, checkpoint: &ImportedWeights) -> [Vec<f32>; 2] {
        let device = Device::flex();
        let model = checkpoint.model(&device);
        let pixels = TensorData::new(self.pixels.clone(), [IMAGES, 3, self.size, self.size]);
        let ids = TensorData::new(self.ids.clone(), [CAPTIONS, self.ids.len() / CAPTIONS]);
        let images = model.encode_image(Tensor::from_data(pixels, &device));
        let texts = model.encode_text(Tensor::<2, Int>::from_data(ids, &device));
        [images, texts].map(|features| l2_normalize(features).into_data().try_to_vec().unwrap())
    }

    /// By what was written into `folder`.
    fn by_onnx(&self, folder: &Path) -> [Vec<f32>; 2] {
        let pixels = Value::from_shape([IMAGES, 3, self.size, self.size], self.pixels.clone());
        let ids = Value::from_shape([CAPTIONS, self.ids.len() / CAPTIONS], self.ids.clone());
        [
            run(
                &folder.join(IMAGE_FILE),
                ["pixel_values", "image_embeds"],
                pixels.unwrap(),
            ),
            run(
                &folder.join(TEXT_FILE),
                ["input_ids", "text_embeds"],
                ids.unwrap(),
            ),
        ]
    }
}

fn run(file: &Path, [input, output]: [&str; 2], value: Value) -> Vec<f32> {
    let model =
        Model::load_file(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let [input, output] = [input, output].map(|name| model.node_id(name).unwrap());
    let [features] = model
        .run_n(vec![(input, value.into())], [output], None)
        .unwrap();
    let (_, features) = features.into_shape_vec::<f32, 2>().unwrap();
    features
}

fn assert_close(got: &[Vec<f32>; 2], expected: &[Vec<f32>; 2], tolerance: f32, what: &str) {
    for (got, expected) in got.iter().zip(expected) {
        assert_eq!(got.len(), expected.len(), "{what}");
        for (got, expected) in got.iter().zip(expected) {
            // A NaN is not below anything.
            assert!(
                (got - expected).abs() < tolerance,
                "{what}: {got} {expected}"
            );
        }
    }
}

fn assert_burns_features(config: &serde_json::Value) {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(config, dir.path());
    export(&checkpoint, dir.path(), FloatType::F32).unwrap();
    let inputs = Inputs::of(&checkpoint.config);
    let expected = inputs.by_burn(&checkpoint);
    assert_close(
        &inputs.by_onnx(dir.path()),
        &expected,
        ROUNDING,
        &config.to_string(),
    );
}

#[test]
fn vision_transformers_of_every_kind_give_burns_features() {
    for (changes, vision) in [
        (json!({}), json!({})),
        (json!({"quick_gelu": true}), json!({"no_ln_pre": true})),
        (json!({}), json!({"ls_init_value": 0.1, "pool_type": "avg"})),
        (
            json!({}),
            json!({"pool_type": "avg", "final_ln_after_pool": true, "mlp_ratio": 2.5}),
        ),
    ] {
        assert_burns_features(&small(changes, vision, json!({})));
    }
}

#[test]
fn text_transformers_of_every_kind_give_burns_features() {
    for (changes, text) in [
        (
            json!({"custom_text": true}),
            json!({"pool_type": "eos", "eos_id": 5}),
        ),
        (
            json!({}),
            json!({"pool_type": "first", "no_causal_mask": true, "proj_bias": true}),
        ),
        (
            json!({"init_logit_bias": -10.0}),
            json!({"pool_type": "last", "no_causal_mask": true, "act_kwargs": {"approximate": "tanh"}}),
        ),
        (
            json!({}),
            json!({"pool_type": "last", "proj_type": "none", "norm_kwargs": {"eps": 0.01}}),
        ),
    ] {
        assert_burns_features(&small(changes, json!({}), text));
    }
}

#[test]
fn residual_networks_give_burns_features() {
    let vision = json!({"image_size": 64, "layers": [1, 2, 1, 1], "width": 4, "head_width": 32});
    assert_burns_features(&small(json!({}), vision, json!({})));
}

/// timm's names stand for shapes of full size: these are the smallest.
#[test]
fn timms_towers_give_burns_features() {
    let siglip = json!({"image_size": 256, "timm_model_name": "vit_base_patch32_siglip_256",
        "timm_pool": "map", "timm_proj": "none"});
    assert_burns_features(&small(json!({"embed_dim": 768}), siglip, json!({})));
    for projection in ["linear", "mlp"] {
        let convnext = json!({"image_size": 72, "timm_model_name": "convnext_tiny", "timm_pool": "",
            "timm_proj": projection});
        assert_burns_features(&small(json!({}), convnext, json!({})));
    }
}

/// The smallest of both kinds; `tests/reference/onnx_parity.py` takes the others.
#[test]
fn mobile_clips_give_burns_features() {
    let fastvit = json!({"image_size": 72, "timm_model_name": "fastvit_mci0", "timm_pool": "avg",
        "timm_proj": null});
    assert_burns_features(&small(json!({}), fastvit, json!({"no_causal_mask": true})));
    let vit = json!({"image_size": 224, "timm_model_name": "vit_base_mci_224", "timm_pool": "token",
        "timm_proj": null});
    assert_burns_features(&small(json!({}), vit, json!({})));
}

/// The smallest; `tests/reference/onnx_parity.py` takes one without positions.
#[test]
fn vitamins_give_burns_features() {
    for projection in ["linear", "mlp"] {
        let vision = json!({"image_size": 224, "timm_model_name": "vitamin_small_224", "timm_pool": "",
            "timm_proj": projection});
        assert_burns_features(&small(json!({}), vision, json!({})));
    }
}

#[test]
fn a_batch_may_be_as_short_as_its_longest_caption() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(&small(json!({}), json!({}), json!({})), dir.path());
    export(&checkpoint, dir.path(), FloatType::F32).unwrap();
    let features = |ids: &[i32]| {
        let ids = Value::from_shape([1, ids.len()], ids.to_vec()).unwrap();
        run(
            &dir.path().join(TEXT_FILE),
            ["input_ids", "text_embeds"],
            ids,
        )
    };
    let short = features(&[18, 3, 19]);
    let padded = features(&[18, 3, 19, 0, 0, 0, 0]);
    for (short, padded) in short.iter().zip(padded) {
        assert!((short - padded).abs() < ROUNDING, "{short} {padded}");
    }
}

#[test]
fn what_is_too_large_for_a_message_has_its_weights_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(&small(json!({}), json!({}), json!({})), dir.path());
    let [inside, outside] = ["inside", "outside"].map(|name| dir.path().join(name));
    for (folder, limit) in [(&inside, LARGEST_MESSAGE), (&outside, 10_000)] {
        std::fs::create_dir(folder).unwrap();
        export_within(limit, &checkpoint, folder, FloatType::F32).unwrap();
        assert_eq!(
            std::fs::read_dir(folder).unwrap().count(),
            if limit == 10_000 { 4 } else { 2 }
        );
    }
    let inputs = Inputs::of(&checkpoint.config);
    assert_eq!(inputs.by_onnx(&outside), inputs.by_onnx(&inside));
}

#[test]
fn sixteen_bits_are_for_the_files_size() {
    let dir = tempfile::tempdir().unwrap();
    let config = small(json!({}), json!({"width": 256}), json!({"width": 256}));
    let checkpoint = checkpoint(&config, dir.path());
    let [wide, half] = [FloatType::F32, FloatType::F16].map(|dtype| {
        export(&checkpoint, dir.path(), dtype).unwrap();
        let bytes = std::fs::metadata(dir.path().join(IMAGE_FILE))
            .unwrap()
            .len();
        let inputs = Inputs::of(&checkpoint.config);
        (bytes, inputs.by_onnx(dir.path()))
    });
    assert!(half.0 * 19 < wide.0 * 10, "{} {}", half.0, wide.0);
    assert_close(&half.1, &wide.1, HALF, "f16");
    assert_ne!(half.1, wide.1);
}

/// `fastvit_mci0` adds the branches of a block up: what is written are the sums.
#[test]
fn a_kernel_that_sixteen_bits_cannot_hold_is_refused_and_a_variance_isnt_written() {
    let vision = json!({"image_size": 64, "timm_model_name": "fastvit_mci0", "timm_pool": "avg", "timm_proj": null});
    let config = small(json!({}), vision, json!({}));
    let exported = |mean: f32, variance: f32| {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = checkpoint_of(&config, dir.path(), |name, shape| {
            match name.strip_prefix("visual.trunk.stem.0.conv_kxk.0.bn.") {
                Some("running_mean") => vec![mean; shape[0]],
                Some("running_var") => vec![variance; shape[0]],
                _ => values(name, shape),
            }
        });
        export(&checkpoint, dir.path(), FloatType::F16)
    };
    exported(0.0, 90_000.0).unwrap();
    let error = exported(400.0, 1e-6).unwrap_err().to_string();
    assert!(
        error.contains("reparam_conv.bias") && error.contains("`f32` and `bf16` do"),
        "{error}"
    );
}

#[test]
fn a_file_says_what_its_features_mean() {
    let dir = tempfile::tempdir().unwrap();
    let config = small(json!({"init_logit_bias": -10.0}), json!({}), json!({}));
    let checkpoint = checkpoint(&config, dir.path());
    export(&checkpoint, dir.path(), FloatType::F32).unwrap();
    let model = Model::load_file(dir.path().join(IMAGE_FILE)).unwrap();
    let field = |name: &str| {
        let mut fields = model.metadata().fields();
        let (_, value) = fields.find(|(key, _)| *key == name).unwrap();
        value.to_owned()
    };
    let scalar = |name| values(name, &[])[0].to_string();
    assert_eq!(field("logit_scale"), scalar("logit_scale"));
    assert_eq!(field("logit_bias"), scalar("logit_bias"));
    let preprocess: serde_json::Value = serde_json::from_str(&field("preprocess_cfg")).unwrap();
    assert_eq!(preprocess["size"], 18);
    assert_eq!(preprocess["interpolation"], "bicubic");
}

#[test]
fn an_encoder_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let name = "vit_pe_core_tiny_patch16_384";
    let vision = json!({
        "image_size": 384, "timm_model_name": name, "timm_pool": "map", "timm_proj": null,
    });
    let checkpoint = checkpoint(&small(json!({}), vision, json!({})), dir.path());
    let out = dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let error = export(&checkpoint, &out, FloatType::F32).unwrap_err();
    assert!(error.to_string().contains(name), "{error}");
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0);

    let pooled = json!({
        "image_size": 8, "layers": 1, "width": 8, "head_width": 8, "patch_size": 4, "attentional_pool": true,
        "attn_pooler_heads": 1,
    });
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = self::checkpoint(&small(json!({}), pooled, json!({})), dir.path());
    let error = export(&checkpoint, &out, FloatType::F32).unwrap_err();
    assert!(error.to_string().contains("`CoCa`"), "{error}");
}
