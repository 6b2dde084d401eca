//! The contrastive step: from a batch to the gradients of its loss.

mod captions;
mod encoder;
mod gradients;
mod patches;
mod recompute;
#[cfg(test)]
mod tests;

use std::{
    panic::resume_unwind,
    sync::{Arc, mpsc},
    thread,
};

use burn::{
    optim::{GradientsAccumulator, GradientsParams},
    tensor::Tensor,
};
use clip_model::{
    Clip, Precision,
    encoder::BatchStatistics,
    loss::{ContrastiveBatch, ContrastiveGradients, ContrastiveLoss, Groups},
};

pub use captions::Captions;
use encoder::{Chunk, Encoder, Features};
pub(crate) use gradients::{global_norm, scaled};
pub use patches::{KeptPatches, PatchDropout};

/// Gradients of the whole batch's contrastive loss, the batch encoded in chunks that fit in memory.
///
/// As many chunks as there are threads are encoded at the same time. If those are all, each keeps its graph until the
/// loss is known. Otherwise each chunk is encoded twice: first for its features alone, from which the loss and its
/// gradient by every feature follow, then again to carry that gradient back to the parameters. The result is that of
/// one chunk, beyond rounding. A tower that is locked is encoded once, and nothing is carried back to it.
///
/// Batch norms are the exception: each chunk is normalised by its own mean and variance, as in the reference, so
/// chunks and threads are part of what is computed. Running statistics take up the whole batch's, once a step.
///
/// # References
/// Gao et al. 2021, [Scaling Deep Contrastive Learning Batch Size under Memory Limited
/// Setup](https://arxiv.org/abs/2101.06983).
#[derive(Clone, Copy, Debug)]
pub struct ContrastiveStep {
    loss: ContrastiveLoss,
    chunk: usize,
    threads: usize,
    text_buckets: usize,
    precision: Precision,
    recompute: bool,
}

/// Images with a caption each, and what a step makes of them.
#[derive(Clone, Debug)]
pub struct PairBatch {
    /// `[batch, 3, size, size]`, on the model's device with autodiff.
    pub images: Tensor<4>,
    /// As many as images.
    pub captions: Captions,
    /// The patches of each image that are encoded; all by default.
    pub patches: Option<KeptPatches>,
    /// Which pairs match each other; none by default.
    pub groups: Option<Groups>,
}

impl PairBatch {
    /// Whole images, each of which matches its own caption alone.
    pub fn new(images: Tensor<4>, captions: Captions) -> Self {
        Self {
            images,
            captions,
            patches: None,
            groups: None,
        }
    }
}

/// What one step found.
pub struct StepGradients {
    /// The batch's loss, in nats.
    pub loss: f32,
    /// The factor between cosines and logits that the loss was computed with, `exp(logit_scale)`.
    pub temperature_factor: f32,
    /// By every parameter that isn't locked, `logit_scale` included.
    pub grads: GradientsParams,
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
            chunk,
            threads: 1,
            text_buckets: 1,
            precision: Precision::F32,
            recompute: false,
        }
    }

    /// Encodes as many chunks at the same time. On a CPU, what an operation does on one core alone then keeps the
    /// others busy all the same; a GPU is filled by one.
    ///
    /// # Panics
    /// If `threads` is 0.
    pub fn with_threads(mut self, threads: usize) -> Self {
        assert!(threads > 0, "a step needs at least one thread");
        self.threads = threads;
        self
    }

    /// Encodes a chunk's captions in so many groups of similar length, each as long as its longest: less padding for
    /// more operations. The features are the same.
    ///
    /// # Panics
    /// If `buckets` is 0.
    pub fn with_text_buckets(mut self, buckets: usize) -> Self {
        assert!(buckets > 0, "captions need at least one bucket");
        self.text_buckets = buckets;
        self
    }

    /// Encodes in another precision; the model's weights, the loss and the gradients that are returned stay in f32.
    ///
    /// For f16, gradients on their way back are scaled by a power of two, which is chosen from the features' gradients,
    /// known before any of them is f16. Should one overflow nevertheless, the step is done again with a smaller one.
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Keeps the inputs of a transformer's blocks instead of their graphs, and computes each block again on the way
    /// back: gradient checkpointing. The result is the same beyond rounding.
    pub fn with_recomputed_blocks(mut self, recompute: bool) -> Self {
        self.recompute = recompute;
        self
    }

    /// The loss and its gradients. Waits for the device.
    ///
    /// # Panics
    /// If there are not as many captions as images.
    pub fn gradients(&self, model: &Clip, batch: &PairBatch) -> StepGradients {
        let mut room = 1.0;
        loop {
            let (found, statistics) = self.attempt(model, batch, room);
            // f16 ends at 65,504. A room of 2^-24 leaves nothing to gain: then it is the model that has diverged.
            let retry = self.precision == Precision::F16
                && found.loss.is_finite()
                && room > 2.0_f64.powi(-24)
                && !global_norm(&found.grads, model).is_finite();
            if !retry {
                model.visual.update_running_statistics(&statistics);
                return found;
            }
            room /= 256.0;
        }
    }

    fn attempt(
        &self,
        model: &Clip,
        batch: &PairBatch,
        room: f64,
    ) -> (StepGradients, BatchStatistics) {
        let chunks = self.chunks(batch);
        let encoder = Encoder::new(model, self.precision, self.recompute);
        let logit_scale = model.logit_scale.val().inner();
        let logit_bias = model.logit_bias.as_ref();
        let mut statistics = BatchStatistics::default();
        let loss = |features: Vec<Features>| {
            let (mut image, mut text, mut parts) = (Vec::new(), Vec::new(), Vec::new());
            for part in features {
                image.push(part.image);
                text.push(part.text);
                parts.push(part.statistics);
            }
            statistics = BatchStatistics::merge(parts);
            let batch = ContrastiveBatch::new(cat(image), cat(text), logit_scale.clone())
                .with_bias(logit_bias.map(|bias| bias.val().inner()))
                .with_groups(batch.groups.clone());
            let found = self.loss.with_gradients(batch);
            let scale = self.gradient_scale(&found, room);
            (found, scale)
        };
        let (found, parts) = if chunks.len() <= self.threads {
            in_one_pass(&encoder, chunks, loss)
        } else {
            self.in_two_passes(&encoder, &chunks, loss)
        };
        let mut total = GradientsAccumulator::new();
        for part in parts {
            total.accumulate(model, part);
        }
        let mut grads = total.grads();
        grads.register(model.logit_scale.id, found.logit_scale);
        if let (Some(bias), Some(grad)) = (logit_bias, found.logit_bias) {
            grads.register(bias.id, grad);
        }
        let found = StepGradients {
            loss: found.loss.into_scalar(),
            temperature_factor: logit_scale.exp().into_scalar(),
            grads,
        };
        (found, statistics)
    }

    fn chunks(&self, batch: &PairBatch) -> Vec<Chunk> {
        let [count, ..] = batch.images.dims();
        assert_eq!(count, batch.captions.count(), "images and captions");
        let device = batch.images.device();
        // Threads are of no use to each other unless they have equal work.
        let rows = self.chunk.min(count.div_ceil(self.threads));
        let chunk = |start: usize| {
            let range = start..(start + rows).min(count);
            Chunk {
                start,
                images: batch.images.clone().narrow(0, start, range.len()),
                patches: batch
                    .patches
                    .as_ref()
                    .map(|patches| patches.rows(range.clone(), &device)),
                captions: batch.captions.buckets(range, self.text_buckets, &device),
            }
        };
        (0..count).step_by(rows).map(chunk).collect()
    }

    /// What gradients are multiplied by on their way back: for f16 the power of two that brings the largest near `room`,
    /// so that the small ones don't vanish.
    fn gradient_scale(&self, found: &ContrastiveGradients, room: f64) -> f64 {
        if self.precision != Precision::F16 {
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

    fn in_two_passes(
        &self,
        encoder: &Encoder<'_>,
        chunks: &[Chunk],
        loss: impl FnOnce(Vec<Features>) -> (ContrastiveGradients, f64),
    ) -> (ContrastiveGradients, Vec<GradientsParams>) {
        let (found, scale) = loss(self.each(chunks, |chunk| encoder.features(chunk)));
        let parts = self.each(chunks, |chunk| {
            encoder.encode(chunk).back(&found, chunk.start, scale)
        });
        (found, parts)
    }

    /// Does the same to each chunk, on all threads; results are in the chunks' order.
    fn each<T: Send>(&self, chunks: &[Chunk], work: impl Fn(&Chunk) -> T + Sync) -> Vec<T> {
        if self.threads == 1 {
            return chunks.iter().map(work).collect();
        }
        let mut done = Vec::with_capacity(chunks.len());
        for wave in chunks.chunks(self.threads) {
            thread::scope(|scope| {
                let threads: Vec<_> = wave
                    .iter()
                    .map(|chunk| scope.spawn(|| work(chunk)))
                    .collect();
                done.extend(threads.into_iter().map(joined));
            });
        }
        done
    }
}

/// Encodes every chunk once, all at the same time; their graphs wait for the loss.
fn in_one_pass(
    encoder: &Encoder<'_>,
    chunks: Vec<Chunk>,
    loss: impl FnOnce(Vec<Features>) -> (ContrastiveGradients, f64),
) -> (ContrastiveGradients, Vec<GradientsParams>) {
    if let [whole] = &chunks[..] {
        let encoded = encoder.encode(whole);
        let (found, scale) = loss(vec![encoder.features_of(&encoded, whole)]);
        let grads = encoded.back(&found, 0, scale);
        return (found, vec![grads]);
    }
    thread::scope(|scope| {
        let threads: Vec<_> = chunks
            .into_iter()
            .map(|chunk| {
                let (send_features, features) = mpsc::channel();
                let (found, receive_found) = mpsc::channel::<Arc<(ContrastiveGradients, f64)>>();
                let thread = scope.spawn(move || {
                    let encoded = encoder.encode(&chunk);
                    // Either end closes only when the other thread panicked, which `joined` passes on.
                    let features = encoder.features_of(&encoded, &chunk);
                    let sent = send_features.send(features).ok();
                    let found = sent.and_then(|()| receive_found.recv().ok())?;
                    let (found, scale) = &*found;
                    Some(encoded.back(found, chunk.start, *scale))
                });
                (thread, features, found)
            })
            .collect();
        let features = threads
            .iter()
            .map_while(|(_, features, _)| features.recv().ok());
        let features: Vec<Features> = features.collect();
        let found = (features.len() == threads.len()).then(|| Arc::new(loss(features)));
        let mut grads = Vec::with_capacity(threads.len());
        for (_, _, send) in &threads {
            if let Some(found) = &found {
                // A closed end is a panicked thread, as above.
                let _ = send.send(Arc::clone(found));
            }
        }
        for (thread, _, send) in threads {
            drop(send);
            grads.extend(joined(thread));
        }
        // invariant: without it a thread has panicked, and `joined` has not come back.
        let found = found.expect("invariant: every thread sent its features");
        (Arc::unwrap_or_clone(found).0, grads)
    })
}

/// What a thread returned; its panic goes on in this one.
fn joined<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

fn cat(parts: Vec<Tensor<2>>) -> Tensor<2> {
    Tensor::cat(parts, 0)
}
