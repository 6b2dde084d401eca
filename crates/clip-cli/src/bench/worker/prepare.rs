use anyhow::Result;
use burn::tensor::Device;
use clip_data::{
    Tokenizer,
    shapes::{ShapesConfig, generate},
};
use clip_model::{ClipConfig, ImageNorm, presets::CLIP_VOCAB_SIZE};
use clip_zeroshot::ClipEncoders;

use super::super::{protocol::Setup, work::Work};

/// Images of the shards, if the user names none.
const IMAGES: usize = 2_048;

/// Writes what both sides read: a model with random weights, and shards.
pub(super) fn write(setup: &Setup, device: &Device) -> Result<()> {
    if let Some(preset) = setup.work.preset() {
        let folder = setup.folder.join("models").join(preset);
        if !folder.exists() {
            let config = ClipConfig::load(preset)?;
            let tokenizer = match config.text_cfg.vocab_size {
                CLIP_VOCAB_SIZE => Tokenizer::clip(),
                size => {
                    let captions = std::fs::read_to_string(setup.folder.join("captions.txt"))?;
                    Tokenizer::train(captions.lines().map(str::to_owned), size)?
                }
            };
            let model = config.init(0, device);
            ClipEncoders::new(&config, &model, tokenizer, ImageNorm::default())?.save(&folder)?;
        }
    }
    let image_size = match &setup.work {
        Work::Loader { image_size, .. } => Some(*image_size),
        Work::Run { preset, .. } => Some(ClipConfig::load(preset)?.vision_cfg.image_size),
        _ => None,
    };
    if let Some(image_size) = image_size
        && setup.shards.is_empty()
    {
        let config = ShapesConfig {
            train: IMAGES,
            val: 1,
            zeroshot: 1,
            image_size,
            ..ShapesConfig::default()
        };
        generate(&config, &setup.folder.join("shards"))?;
    }
    Ok(())
}
