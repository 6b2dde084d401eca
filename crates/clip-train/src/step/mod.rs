//! The contrastive step: from a batch to the gradients of its loss.

mod batch;
mod captioning;
mod captions;
mod draws;
mod encoder;
mod gradients;
mod tape;
mod teacher;
#[cfg(test)]
mod tests;
mod tokens;
mod workers;

use std::{ops::Range, sync::Arc};

use burn::{
    optim::GradientsParams,
    tensor::{Device, Tensor},
};
use clip_model::{
    Clip, Precision,
    encoder::BatchStatistics,
    loss::{ContrastiveBatch, ContrastiveGradients, ContrastiveLoss, TeacherFeatures},
};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::TrainError;

pub use batch::{Images, PairBatch};
pub use captioning::CocaWeights;
pub use captions::Captions;
pub use draws::{KeptPatches, KeptPaths, PatchDropout, StochasticDepth};
use encoder::{ChunkGradients, Encoder, Features, Options};
pub(crate) use gradients::{global_norm, norm_of};
pub use teacher::Teacher;
use tokens::EmbeddingGradient;
use workers::Workers;
pub(crate) use workers::{Stopped, named as on_a_device, reason};
pub use workers::{computes_on_device, innermost_cause};

/// Gradients of the whole batch's contrastive loss, the batch encoded in chunks that fit in memory.
///
/// As many chunks as there are threads are encoded at the same time, each thread on one of the devices in turn: features
/// and gradients by parameters come to the model's own device, where the loss is computed, gradients by features go
/// back, and each step begins with the model's parameters everywhere. If those are all chunks, each keeps its graph until the
/// loss is known. Otherwise each chunk is encoded twice: first for its features alone, from which the loss and its
/// gradient by every feature follow, then again to carry that gradient back to the parameters. The result is that of
/// one chunk, beyond rounding. A tower that is locked is encoded once, and nothing is carried back to it.
///
/// A CoCa model's decoder runs where a chunk's gradients are found: its loss is a mean over all tokens of the batch, whose
/// number is known before anything is encoded, so that each chunk's part of the sum has its gradient at once. The decoder reads
/// tokens of a locked tower too, which is encoded again for them.
///
/// Batch norms are the exception: each chunk is normalised by its own mean and variance, as in the reference, so
/// chunks and threads are part of what is computed. Running statistics take up the whole batch's when the step is
/// taken; its gradients alone change nothing.
///
/// # References
/// Gao et al. 2021, [Scaling Deep Contrastive Learning Batch Size under Memory Limited
/// Setup](https://arxiv.org/abs/2101.06983).
#[derive(Clone, Debug)]
pub struct ContrastiveStep {
    loss: ContrastiveLoss,
    /// Of the contrastive loss of a model with a decoder.
    contrastive_weight: f64,
    chunk: usize,
    threads: usize,
    /// A pool of one thread for each of several threads.
    pools: Arc<[ThreadPool]>,
    /// None: the model's.
    devices: Vec<Device>,
    options: Options,
    /// As it was given, and on each of the devices in the step's precision.
    teacher: Option<Teacher>,
    placed_teachers: Vec<Teacher>,
}

/// What one step found. Its numbers are on the model's device: to read them is to wait for it.
pub struct StepGradients {
    /// `[1]`: the batch's loss, in nats.
    pub loss: Tensor<1>,
    /// `[1]`: what the similarities lose that should be the teacher's, in nats. The gradients are those of both losses' sum.
    pub distill: Option<Tensor<1>>,
    /// `[1]`: what a CoCa model's decoder loses of each token, in nats. The gradients are those of both losses' weighted sum.
    pub caption: Option<Tensor<1>>,
    /// `[1]`: the factor between cosines and logits that the loss was computed with, `exp(logit_scale)`.
    pub temperature_factor: Tensor<1>,
    /// By every parameter that isn't locked, `logit_scale` included.
    pub grads: GradientsParams,
    /// What batch norms saw, for [`ImageEncoder::update_running_statistics`], which belongs to the optimizer's step.
    ///
    /// [`ImageEncoder::update_running_statistics`]: clip_model::encoder::ImageEncoder::update_running_statistics
    pub statistics: BatchStatistics,
}

impl ContrastiveStep {
    /// Encodes at most `chunk` pairs at once.
    ///
    /// # Panics
    /// If `chunk` is 0.
    pub fn new(loss: ContrastiveLoss, chunk: usize) -> Self {
        assert!(chunk > 0, "a chunk needs at least one pair");
        Self {
            loss,
            contrastive_weight: CocaWeights::default().contrastive,
            chunk,
            threads: 1,
            pools: Arc::default(),
            devices: Vec::new(),
            options: Options {
                text_buckets: 1,
                precision: Precision::F32,
                recompute: false,
                caption_weight: CocaWeights::default().caption,
            },
            teacher: None,
            placed_teachers: Vec::new(),
        }
    }

    /// Encodes on these devices, thread by thread in turn, instead of the model's alone. Which they are changes nothing
    /// beyond what they round differently: chunks and threads alone decide what is computed.
    ///
    /// The parameters of a device that isn't the model's are copied to it at each step.
    pub fn with_devices(mut self, devices: Vec<Device>) -> Self {
        self.devices = devices;
        self.place_teacher()
    }

    /// Whether there is a teacher.
    pub fn has_teacher(&self) -> bool {
        self.teacher.is_some()
    }

    /// Has the similarities of a batch become a teacher's too, beside what the captions say. The teacher encodes each chunk
    /// once, after the model; again where f16 has a step done again.
    ///
    /// # References
    /// `OpenCLIP`'s `--distill-model`, which takes whole batches only.
    pub fn with_teacher(mut self, teacher: Option<Teacher>) -> Self {
        self.teacher = teacher;
        self.place_teacher()
    }

    /// Copies the teacher to where it is to encode: it doesn't change from step to step.
    fn place_teacher(mut self) -> Self {
        let precision = self.options.precision;
        let teachers = self.teacher.iter().flat_map(|teacher| {
            let there = self.devices.iter().map(Some);
            let here = self.devices.is_empty().then_some(None);
            let place = |device: Option<&Device>| teacher.placed(device, precision);
            there.chain(here).map(place)
        });
        self.placed_teachers = teachers.collect();
        self
    }

    /// Encodes as many chunks at the same time, each on one core of a CPU: so no core waits for another within an
    /// operation. A GPU is filled by one.
    ///
    /// # Errors
    /// [`TrainError::Threads`] if the system doesn't give so many.
    ///
    /// # Panics
    /// If `threads` is 0.
    pub fn with_threads(mut self, threads: usize) -> Result<Self, TrainError> {
        assert!(threads > 0, "a step needs at least one thread");
        self.threads = threads;
        let several = if threads > 1 { threads } else { 0 };
        let pools = (0..several).map(|_| ThreadPoolBuilder::new().num_threads(1).build());
        let pools = pools.collect::<Result<_, _>>();
        self.pools = pools.map_err(|source| TrainError::Threads { threads, source })?;
        Ok(self)
    }

    /// Encodes a chunk's captions in so many groups of similar length, each as long as its longest: less padding for
    /// more operations. The features are the same.
    ///
    /// # Panics
    /// If `buckets` is 0.
    pub fn with_text_buckets(mut self, buckets: usize) -> Self {
        assert!(buckets > 0, "captions need at least one bucket");
        self.options.text_buckets = buckets;
        self
    }

    /// Encodes in another precision; the model's weights, the loss and the gradients that are returned stay in f32.
    ///
    /// For f16, gradients on their way back are scaled by a power of two, which is chosen from the features' gradients,
    /// known before any of them is f16. Should one overflow nevertheless, the step is done again with a smaller one.
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.options.precision = precision;
        self.place_teacher()
    }

    /// Adds the losses of a CoCa model up with these weights; other models have one loss, as it is.
    pub fn with_coca_weights(mut self, weights: CocaWeights) -> Self {
        self.contrastive_weight = weights.contrastive;
        self.options.caption_weight = weights.caption;
        self
    }

    /// Keeps the inputs of a transformer's blocks instead of their graphs, and computes each block again on the way
    /// back: gradient checkpointing. The result is the same beyond rounding.
    pub fn with_recomputed_blocks(mut self, recompute: bool) -> Self {
        self.options.recompute = recompute;
        self
    }

    /// Whether it encodes a batch of so many pairs as one chunk. Its images may then be brought to the device
    /// [ahead of it](Images::on_device).
    pub fn is_one_chunk(&self, pairs: usize) -> bool {
        self.threads == 1 && pairs <= self.chunk
    }

    /// The loss and its gradients. Waits for the devices in f16 only, and where several have to bring theirs together.
    ///
    /// # Panics
    /// If there are not as many captions as images, and when a device stops computing.
    pub fn gradients(&self, model: &Clip, batch: &PairBatch) -> StepGradients {
        let workers = self.workers(model, batch);
        let mut room = 1.0;
        loop {
            let found = self.attempt(model, batch, &workers, room);
            // f16 ends at 65,504. A room of 2^-24 leaves nothing to gain: then it is the model that has diverged.
            let is_finite = |number: Tensor<1>| number.into_scalar::<f32>().is_finite();
            let retry = self.options.precision == Precision::F16
                && is_finite(found.loss.clone())
                && room > 2.0_f64.powi(-24)
                && !is_finite(global_norm(&found.grads, model));
            if !retry {
                return found;
            }
            room /= 256.0;
        }
    }

    /// Copies the model to every device.
    fn workers<'a>(&'a self, model: &Clip, batch: &'a PairBatch) -> Workers<'a> {
        let encoder = |place: usize, device| {
            let teacher = self.placed_teachers.get(place);
            Encoder::new(model, device, teacher, batch, self.options)
        };
        let mut encoders = Vec::with_capacity(self.devices.len().max(1));
        for (place, device) in self.devices.iter().enumerate().take(self.threads) {
            encoders.push(workers::named(place, || encoder(place, Some(device))));
        }
        if encoders.is_empty() {
            encoders.push(encoder(0, None));
        }
        Workers {
            encoders,
            threads: self.threads,
            pools: &self.pools,
        }
    }

    fn attempt(
        &self,
        model: &Clip,
        batch: &PairBatch,
        workers: &Workers<'_>,
        room: f64,
    ) -> StepGradients {
        let chunks = self.chunks(batch);
        let logit_scale = model.logit_scale.val().inner();
        let logit_bias = model.logit_bias.as_ref();
        let mut statistics = BatchStatistics::default();
        let loss = |features: Vec<Features>| {
            let (mut image, mut text, mut parts) = (Vec::new(), Vec::new(), Vec::new());
            let mut taught = [Vec::new(), Vec::new()];
            for part in features {
                image.push(part.image);
                text.push(part.text);
                parts.push(part.statistics);
                for (all, own) in taught.iter_mut().zip(part.teacher.into_iter().flatten()) {
                    all.push(own);
                }
            }
            let teacher = self.teacher.as_ref().map(|teacher| {
                let [image, text] = taught.map(cat);
                TeacherFeatures {
                    image,
                    text,
                    logit_scale: teacher.logit_scale(),
                }
            });
            statistics = BatchStatistics::merge(parts);
            let batch = ContrastiveBatch::new(cat(image), cat(text), logit_scale.clone())
                .with_bias(logit_bias.map(|bias| bias.val().inner()))
                .with_groups(batch.groups.clone())
                .with_teacher(teacher);
            let mut found = self.loss.with_gradients(batch);
            if model.text_decoder.is_some() {
                found = weighted(found, self.contrastive_weight);
            }
            let scale = self.gradient_scale(&found, room);
            (found, scale)
        };
        let token_embedding = &model.text.token_embedding().weight;
        let [vocab_size, _] = token_embedding.val().dims();
        let mut by_embedding = EmbeddingGradient::new(vocab_size);
        let mut grads = GradientsParams::new();
        let mut caption: Option<Tensor<1>> = None;
        let add = |part: ChunkGradients| {
            let lost = caption.take().into_iter().chain(part.caption);
            caption = lost.reduce(|a, b| a + b);
            gradients::add(&mut grads, part.parameters, model);
            by_embedding.add(part.tokens);
        };
        let found = if chunks.len() <= self.threads {
            workers.in_one_pass(&chunks, loss, add)
        } else {
            workers.in_two_passes(&chunks, loss, add)
        };
        if let Some(grad) = by_embedding.finish() {
            grads.register(token_embedding.id, grad);
        }
        grads.register(model.logit_scale.id, found.logit_scale);
        if let (Some(bias), Some(grad)) = (logit_bias, found.logit_bias) {
            grads.register(bias.id, grad);
        }
        StepGradients {
            loss: found.loss,
            distill: found.distill,
            caption,
            temperature_factor: logit_scale.exp(),
            grads,
            statistics,
        }
    }

    /// The rows of each.
    fn chunks(&self, batch: &PairBatch) -> Vec<Range<usize>> {
        let count = batch.images.count();
        assert_eq!(count, batch.captions.count(), "images and captions");
        // Threads are of no use to each other unless they have equal work.
        let rows = self.chunk.min(count.div_ceil(self.threads)).max(1);
        let chunk = |start: usize| start..(start + rows).min(count);
        (0..count).step_by(rows).map(chunk).collect()
    }

    /// What gradients are multiplied by on their way back: for f16 the power of two that brings the largest near `room`,
    /// so that the small ones don't vanish.
    fn gradient_scale(&self, found: &ContrastiveGradients, room: f64) -> f64 {
        if self.options.precision != Precision::F16 {
            return 1.0;
        }
        let largest = |grad: &Tensor<2>| grad.clone().abs().max().into_scalar::<f32>();
        let largest = f64::from(largest(&found.image).max(largest(&found.text)));
        if largest.is_normal() {
            room * (-largest.log2().ceil()).exp2()
        } else {
            1.0
        }
    }
}

/// The same loss, and gradients of it times a factor.
fn weighted(found: ContrastiveGradients, factor: f64) -> ContrastiveGradients {
    ContrastiveGradients {
        image: found.image.mul_scalar(factor),
        text: found.text.mul_scalar(factor),
        logit_scale: found.logit_scale.mul_scalar(factor),
        logit_bias: found.logit_bias.map(|bias| bias.mul_scalar(factor)),
        ..found
    }
}

fn cat(parts: Vec<Tensor<2>>) -> Tensor<2> {
    Tensor::cat(parts, 0)
}
