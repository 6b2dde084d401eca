//! Small models and batches, on which every way to take a step must agree.

mod coca;
mod depth;
mod gradients;
mod lora;
mod training;

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::Device,
};
use clip_data::Cursor;
use clip_model::{
    ClipConfig, HfPooler, HfProjType, ImageNorm, Init,
    encoder::{
        Chain, ImageEncoder, LayerScale, TextEncoder, TextEnd, TextTransformer, TrainingDraws,
        hugging_face::{HfFamily, HfTextEncoder, HfTextShape},
    },
    loss::{Groups, InfoNce, SigLip},
    weights::weights_bytes,
};

use super::*;
use crate::{Optimizer, OptimizerConfig, OptimizerState};

/// Rounding of sums in another order, relative to a gradient's own norm.
const ROUNDING: f32 = 1e-5;

/// What f16's 11 bits of fraction leave of a gradient that went through two blocks, relative to its norm. A product is
/// off by up to 2^-12, but before training the batch's features are alike, and the gradient lives on the twentieth part
/// in which they differ. 0.023 at most was found.
const F16_ROUNDING: f32 = 0.03;

/// The same for 8 bits; below 0.1 was found.
const BF16_ROUNDING: f32 = 0.15;

const BATCH: usize = 12;

fn config() -> ClipConfig {
    let json = r#"{"embed_dim": 16, "vision_cfg": {"image_size": 16, "layers": 2, "width": 32,
        "head_width": 16, "patch_size": 4, "patch_dropout": 0.5}, "text_cfg": {"context_length": 8,
        "vocab_size": 50, "width": 32, "heads": 2, "layers": 2}, "init_logit_bias": -1.0}"#;
    ClipConfig::from_json(json, "test").unwrap()
}

fn model(device: &Device) -> Clip {
    config().init(9, device)
}

fn own_text(model: &Clip) -> &TextTransformer {
    match &model.text {
        TextEncoder::Transformer(text) => text,
        _ => panic!("OpenCLIP's own"),
    }
}

fn batch(size: usize) -> PairBatch {
    batch_of_images(size, 16)
}

fn batch_of_images(size: usize, side: usize) -> PairBatch {
    let pixels = (0..size * 3 * side * side)
        .map(|i| ((i * 7919) % 1013 * 255 / 1012) as u8)
        .collect();
    // From -1 to 1.
    let norm = ImageNorm {
        mean: [0.5; 3],
        std: [0.5; 3],
    };
    let rows = (0..size).map(|row| {
        let words = [row * 13 % 47, row * 29 % 47].map(|word| word as i32 + 1);
        match row % 3 {
            0 => [48, words[0], 49, 0, 0],
            _ => [48, words[0], words[1], 49, 0],
        }
    });
    let captions = Captions::new(rows.flatten().collect(), 5);
    PairBatch::new(Images::new(pixels, side, norm), captions)
}

/// The same with half of the patches.
fn batch_of_patches(size: usize, drawn: u64) -> PairBatch {
    let dropout = PatchDropout::new(&config().vision_cfg, 3).unwrap();
    PairBatch {
        patches: Some(dropout.draw(
            Cursor {
                drawn,
                ..Cursor::default()
            },
            size,
        )),
        ..batch(size)
    }
}

fn step(chunk: usize) -> ContrastiveStep {
    ContrastiveStep::new(ContrastiveLoss::default(), chunk)
}

struct Flat<'a>(&'a GradientsParams, Vec<(String, Vec<f32>)>, Vec<String>);

impl ModuleVisitor for Flat<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.2.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.2.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.0.get::<D>(param.id) {
            let values = grad.into_data().try_to_vec().unwrap();
            self.1.push((self.2.join("."), values));
        }
    }
}

/// A model's parameters.
struct Weights(Vec<(String, Vec<f32>)>, Vec<String>);

impl ModuleVisitor for Weights {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.1.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.1.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let values = param.val().into_data().try_to_vec().unwrap();
        self.0.push((self.1.join("."), values));
    }
}

fn weights(model: &Clip) -> Named {
    let mut weights = Weights(Vec::new(), Vec::new());
    model.visit(&mut weights);
    weights.0
}

/// By the names of their parameters.
type Named = Vec<(String, Vec<f32>)>;

fn named(grads: &GradientsParams, model: &Clip) -> Named {
    let mut flat = Flat(grads, Vec::new(), Vec::new());
    model.visit(&mut flat);
    flat.1
}

fn found(step: ContrastiveStep, model: &Clip, batch: &PairBatch) -> (f32, Named) {
    let found = step.gradients(model, batch);
    (found.loss.into_scalar(), named(&found.grads, model))
}

fn gradients(chunk: usize, threads: usize, buckets: usize) -> (f32, Named) {
    let device = Device::flex().autodiff();
    let step = step(chunk)
        .with_threads(threads)
        .unwrap()
        .with_text_buckets(buckets);
    found(step, &model(&device), &batch(BATCH))
}

/// Compares losses and gradients, each relative to its own norm.
fn assert_same((loss, want): &(f32, Named), (other, got): &(f32, Named), tolerance: f32) {
    assert!((loss - other).abs() < tolerance * loss, "{loss} {other}");
    let names = |all: &Named| all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(want), names(got));
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>().sqrt();
    let wrong: Vec<String> = want
        .iter()
        .zip(got)
        .filter_map(|((name, a), (_, b))| {
            let off = norm(&mut a.iter().zip(b).map(|(x, y)| x - y));
            let norm = norm(&mut a.iter().copied());
            // Key biases shift every score of a query alike: their true gradient is zero.
            (off > tolerance * norm + 1e-7).then(|| format!("{name}: {off} of {norm}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
