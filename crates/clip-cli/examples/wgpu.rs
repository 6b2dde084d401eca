//! A model on the GPU, through WebGPU: nothing but the device differs from a processor.
//! `cargo run --release -p clip-cli --features wgpu --example wgpu -- PRESET`.
//!
//! It stands here because the libraries name no backend: a program picks one of Burn's features and makes a `Device`.

use std::error::Error;

use burn::tensor::{Device, DeviceKind, Distribution, Int, Tensor};
use clip_model::{ClipConfig, l2_normalize};

fn main() -> Result<(), Box<dyn Error>> {
    let preset = std::env::args().nth(1);
    let config = ClipConfig::load(preset.as_deref().unwrap_or("ViT-Nano-6-36"))?;
    let device = Device::wgpu(DeviceKind::DefaultDevice);
    let model = config.init(0, &device);

    // Real pictures and captions come from clip-data, as in clip-zeroshot's example `embed`.
    let size = config.vision_cfg.image_size;
    let images = Tensor::random([2, 3, size, size], Distribution::Normal(0.0, 1.0), &device);
    let end = config.text_cfg.vocab_size as i32 - 1;
    let tokens = [end - 1, 10, end, end - 1, 11, end];
    let tokens = Tensor::<1, Int>::from_data(tokens, &device).reshape([2, 3]);

    let images = l2_normalize(model.encode_image(images)); // [2, embed_dim]
    let texts = l2_normalize(model.encode_text(tokens)); // [2, embed_dim]
    println!("{}", images.matmul(texts.transpose()));
    Ok(())
}
