use anyhow::{Result, ensure};
use clip_data::Tokenizer;
use clip_model::{Clip, ImageNorm, loss::ContrastiveLoss, weights::ModelDir};
use clip_train::{Captions, ContrastiveStep, Images, Optimizer, OptimizerConfig, PairBatch};

use super::{Place, Task, noise, tokenizer};
use crate::bench::flops::Shape;

/// So small that noise doesn't teach the model anything, nor spoils its numbers.
const LEARNING_RATE: f64 = 1e-6;

/// A training step as `clip pretrain` does it, from bytes on the host.
pub(super) struct Step {
    place: Place,
    chunks: ContrastiveStep,
    model: Option<Clip>,
    optimizer: Optimizer,
    norm: ImageNorm,
    pixels: Vec<u8>,
    image_size: usize,
    batch: usize,
    captions: Captions,
    flop: Option<f64>,
}

/// The model as it is trained, and its optimizer.
pub(super) fn load(place: &Place, preset: &str) -> Result<(Clip, ModelDir, Optimizer)> {
    let dir = ModelDir::open(&place.model(preset))?;
    let model = dir.load(&place.started.device.clone().autodiff())?;
    let optimizer = Optimizer::new(&OptimizerConfig::default(), &model);
    Ok((model, dir, optimizer))
}

/// The one place that knows how a step is configured.
pub(super) fn step(place: &Place, batch: usize) -> ContrastiveStep {
    ContrastiveStep::new(ContrastiveLoss::default(), batch)
        .with_precision(place.setup.precision)
        .with_threads(place.threads())
        .with_text_buckets(place.started.text_buckets())
}

impl Step {
    pub(super) fn new(place: Place, preset: &str, batch: usize) -> Result<Self> {
        let (model, dir, optimizer) = load(&place, preset)?;
        let tokenizer = tokenizer(&place.model(preset))?;
        let texts = place.captions(batch)?;
        let (captions, lengths) = tokenize(&tokenizer, &texts, dir.config.text_cfg.context_length);
        let flop = Shape::of(preset).map(|shape| {
            let flop: u64 = lengths.iter().map(|tokens| shape.training(*tokens)).sum();
            flop as f64 / batch as f64
        });
        let image_size = dir.config.vision_cfg.image_size;
        Ok(Self {
            chunks: step(&place, batch),
            place,
            model: Some(model),
            optimizer,
            norm: dir.preprocess.norm(),
            pixels: noise(batch * image_size * image_size * 3),
            image_size,
            batch,
            captions,
            flop,
        })
    }
}

/// As a loader does it: padded to the longest. And each caption's own length.
fn tokenize(
    tokenizer: &Tokenizer,
    texts: &[String],
    context_length: usize,
) -> (Captions, Vec<u64>) {
    let ids: Vec<Vec<u32>> = texts
        .iter()
        .map(|text| tokenizer.encode(text, context_length).ids)
        .collect();
    let (rows, longest) = tokenizer.pad(ids.iter().map(Vec::as_slice), context_length);
    let lengths = ids.iter().map(|ids| ids.len() as u64).collect();
    (Captions::new(rows, longest), lengths)
}

impl Task for Step {
    fn run(&mut self) -> Result<u64> {
        // invariant: it is put back below, and a step that fails is the last.
        let model = self.model.take().expect("invariant: put back");
        let images = Images::new(self.pixels.clone(), self.image_size, self.norm);
        let batch = PairBatch::new(images, self.captions.clone());
        let found = self.chunks.gradients(&model, &batch);
        let (model, norm) = self.optimizer.step(LEARNING_RATE, model, found.grads);
        self.model = Some(model);
        self.place.sync()?;
        let norm = norm.into_scalar::<f32>();
        ensure!(
            norm > 0.0 && norm.is_finite(),
            "the gradient's norm is {norm}: nothing was trained"
        );
        Ok(self.batch as u64)
    }

    fn flop(&self) -> Option<f64> {
        self.flop
    }
}
