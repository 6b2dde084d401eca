use burn::{
    module::Param,
    tensor::{Device, Tensor},
};
use clip_data::Cursor;
use clip_model::{ClipConfig, encoder::ImageEncoder};

use super::{ROUNDING, assert_same, batch_of_images, found, step};
use crate::{PairBatch, StochasticDepth};

/// Of a step's images.
const IMAGES: usize = 6;

#[test]
fn a_convnexts_skipped_blocks_are_the_same_in_any_chunks() {
    let json = r#"{"embed_dim": 16, "vision_cfg": {"image_size": 32, "timm_model_name": "convnext_tiny",
        "timm_pool": "", "timm_proj": "linear", "timm_drop_path": 0.6}, "text_cfg": {"context_length": 8,
        "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}}"#;
    let config = ClipConfig::from_json(json, "test").unwrap();
    let mut model = config.init(9, &Device::flex().autodiff());
    let ImageEncoder::ConvNeXt(encoder) = &mut model.visual else {
        panic!("a ConvNeXt");
    };
    // At first a block adds a millionth.
    for block in encoder
        .trunk
        .stages
        .iter_mut()
        .flat_map(|stage| &mut stage.blocks)
    {
        let scale = block.scale.val();
        block.scale = Param::from_tensor(Tensor::full(scale.dims(), 0.3, &scale.device()));
    }
    let depth = StochasticDepth::new(&config.vision_cfg, 3).unwrap();
    let batch = PairBatch {
        paths: Some(depth.draw(Cursor::default(), IMAGES)),
        ..batch_of_images(IMAGES, 32)
    };
    let whole = found(step(IMAGES), &model, &batch);
    for (chunk, threads) in [(2, 1), (4, 1), (3, 2)] {
        let step = step(chunk).with_threads(threads).unwrap();
        assert_same(&whole, &found(step, &model, &batch), ROUNDING);
    }
    let other = PairBatch {
        paths: None,
        ..batch
    };
    let plain = found(step(IMAGES), &model, &other);
    assert!((plain.0 - whole.0).abs() > 1e-4, "{} {}", plain.0, whole.0);
}
