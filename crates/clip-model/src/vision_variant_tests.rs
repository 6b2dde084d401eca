//! Vision transformers with the keys that the paper's has not, against OpenCLIP (`tests/reference/vision_variants.py`).

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::Value;

use crate::{
    ClipConfig,
    weights::{load_weights, parameter_shapes},
};

/// Sums in another order, and six digits in the file.
const ROUNDING: f32 = 2e-5;

/// What the script gives a tensor of this name.
fn values(name: &str, count: usize) -> Vec<f32> {
    let phase = name.bytes().map(u32::from).sum::<u32>() % 100;
    let value = |index| (0.37 * (index * index) as f64 + f64::from(phase)).sin();
    (0..count).map(|index| value(index) as f32).collect()
}

#[test]
fn vision_transformers_of_every_kind_give_open_clips_features() {
    let device = Device::default();
    let golden = include_str!("../tests/reference/vision_variants.json");
    let golden: Value = serde_json::from_str(golden).unwrap();
    for variant in golden["variants"].as_array().unwrap() {
        let json = serde_json::json!({
            "embed_dim": golden["embed_dim"],
            "vision_cfg": variant["vision_cfg"],
            "text_cfg": golden["text_cfg"],
        });
        let config = ClipConfig::from_json(&json.to_string(), "test").unwrap();
        let model = config.init(0, &device);

        let shapes = parameter_shapes(&model);
        let count = |shape: &[usize]| shape.iter().product::<usize>();
        let params: usize = shapes.iter().map(|(_, shape)| count(shape)).sum();
        assert_eq!(params, config.num_params(), "{json}");
        let tensors: Vec<_> = shapes
            .into_iter()
            .map(|(name, shape)| {
                let floats = values(&name, count(&shape)).into_iter();
                (
                    name,
                    shape,
                    floats.flat_map(f32::to_le_bytes).collect::<Vec<u8>>(),
                )
            })
            .collect();
        let views = tensors.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
            (name.as_str(), view)
        });
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights.safetensors");
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        let model = load_weights(model, &path).unwrap();

        let image = TensorData::new(values("image", 3 * 12 * 12), [1, 3, 12, 12]);
        let features = model.encode_image(Tensor::from_data(image, &device));
        let features: Vec<f32> = features.into_data().try_to_vec().unwrap();
        let expected = variant["features"].as_array().unwrap();
        assert_eq!(features.len(), expected.len());
        for (got, want) in features.iter().zip(expected) {
            let want = want.as_f64().unwrap() as f32;
            assert!((got - want).abs() < ROUNDING, "{json}: {got} {want}");
        }
    }
}
