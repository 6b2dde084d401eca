//! Writes a model directory with random weights, for `tests/reference/openclip_parity.py`:
//! `cargo run --release --example random_model -- PRESET DIR`.

use std::{error::Error, path::Path};

use burn::tensor::Device;
use clip_data::Tokenizer;
use clip_model::{ClipConfig, ImageNorm, presets::CLIP_VOCAB_SIZE};
use clip_zeroshot::ClipEncoders;

/// Learned by the tokenizer of a preset that has no vocabulary of its own.
const CAPTIONS: [&str; 4] = [
    "a photo of a red circle on a white table",
    "two dogs run through the shallow water",
    "a drawing of the smallest house in town",
    "people are standing in front of a blue building",
];

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [preset, dir] = args.as_slice() else {
        return Err("usage: random_model PRESET DIR".into());
    };
    let config = ClipConfig::load(preset)?;
    let tokenizer = match config.text_cfg.vocab_size {
        CLIP_VOCAB_SIZE => Tokenizer::clip(),
        size => Tokenizer::train(CAPTIONS.into_iter().map(str::to_owned), size)?,
    };
    let model = config.init(0, &Device::flex());
    ClipEncoders::new(&config, &model, tokenizer, ImageNorm::default())?.save(Path::new(dir))?;
    Ok(())
}
