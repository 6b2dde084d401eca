//! Loads weights from any file that `ImportedWeights` reads, and says what it found:
//! `cargo run --release -p clip-model --example load_weights -- FILE [PRESET]`.

use std::{error::Error, path::Path};

use burn::tensor::{Device, Distribution, Tensor};
use clip_model::{
    ClipConfig, l2_normalize,
    weights::{ImportedWeights, ReadOptions},
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let file = args.next().ok_or("usage: load_weights FILE [PRESET]")?;
    let options = ReadOptions {
        // Only where the architecture is neither beside the file nor told by its shapes.
        config: args
            .next()
            .map(|preset| ClipConfig::load(&preset))
            .transpose()?,
        ..ReadOptions::default()
    };
    let device = Device::flex();
    let checkpoint = ImportedWeights::read(Path::new(&file), &options, &device)?;
    for note in &checkpoint.notes {
        println!("{note}");
    }
    let model = checkpoint.model(&device);
    let size = checkpoint.config.vision_cfg.image_size;
    // Real pictures are resized and normalised by `checkpoint.preprocess`.
    let images = Tensor::random([1, 3, size, size], Distribution::Normal(0.0, 1.0), &device);
    let features = l2_normalize(model.encode_image(images));
    println!("an image becomes {:?}", features.dims());
    Ok(())
}
