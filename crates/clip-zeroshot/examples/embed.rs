//! Two images and three texts in one space: how alike is each image to each text?
//! `cargo run --release -p clip-zeroshot --example embed -- MODEL_DIR IMAGE IMAGE TEXT TEXT TEXT`.

use std::{error::Error, path::Path};

use burn::tensor::Device;
use clip_data::read_image;
use clip_model::l2_normalize;
use clip_zeroshot::{ClipEncoders, EncodeTexts};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, first, second, texts @ ..] = args.as_slice() else {
        return Err("usage: embed MODEL_DIR IMAGE IMAGE TEXT...".into());
    };
    // Any device: the model computes where it is loaded.
    let encoders = ClipEncoders::load(model, &Device::flex())?;

    let mut resizer = encoders.resizer();
    let mut pixels = Vec::new();
    for path in [first, second] {
        pixels.extend(resizer.square(&read_image(Path::new(path))?));
    }
    let images = l2_normalize(encoders.encode_images(pixels)); // [2, embed_dim]
    let texts = l2_normalize(encoders.encode_texts(texts)?); // [texts, embed_dim]
    let cosines = images.matmul(texts.transpose());
    println!("{cosines}");
    Ok(())
}
