//! A training step of one's own: encode, compare, go back, update.
//! `cargo run --release -p clip-model --example training_step`.

use std::error::Error;

use burn::{
    module::Module,
    optim::{AdamWConfig, GradientsParams},
    tensor::{Device, Distribution, Int, Tensor},
};
use clip_model::{
    ClipConfig, MAX_LOGIT_SCALE,
    loss::{ContrastiveBatch, InfoNce},
};

/// Pairs that are compared with each other.
const BATCH: usize = 8;

fn main() -> Result<(), Box<dyn Error>> {
    let config = ClipConfig::load("ViT-Nano-6-36")?;
    let device = Device::flex().autodiff();
    let mut model = config.init(0, &device);
    let mut optimizer = AdamWConfig::new().with_beta_2(0.98).init();

    // Pictures as `ImageNorm::to_tensor` makes them, and captions as a tokenizer does: the end of text is the highest id.
    let size = config.vision_cfg.image_size;
    let images = Tensor::random(
        [BATCH, 3, size, size],
        Distribution::Normal(0.0, 1.0),
        &device,
    );
    let end = config.text_cfg.vocab_size as i32 - 1;
    let captions = (0..BATCH as i32).flat_map(|word| [end - 1, 10 + word, end]);
    let captions: Vec<i32> = captions.collect();
    let tokens = Tensor::<1, Int>::from_data(&captions[..], &device).reshape([BATCH, 3]);

    for step in 1..=10 {
        let image = model.encode_image(images.clone());
        let text = model.encode_text(tokens.clone());
        let batch = ContrastiveBatch::new(image, text, model.logit_scale.val());
        let loss = InfoNce::default().forward(batch);
        println!("step {step}: loss {:.4}", loss.clone().into_scalar::<f32>());
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(1e-3, model, gradients);
        // The paper keeps the temperature from running away.
        model.logit_scale = model.logit_scale.map(|scale| {
            Tensor::from_inner(scale.inner().clamp(0.0, MAX_LOGIT_SCALE)).require_grad()
        });
    }
    let trained = model.valid(); // without autodiff, to be used or saved
    println!("trained on {:?}", trained.device());
    Ok(())
}
