use std::{
    panic::resume_unwind,
    sync::{Arc, mpsc},
    thread,
};

use burn::{
    module::Module,
    optim::{GradientsAccumulator, GradientsParams},
    tensor::Tensor,
};
use clip_model::{
    Clip,
    encoder::BatchStatistics,
    loss::{ContrastiveGradients, InfoNce},
};

use crate::captions::{Buckets, Captions};

/// Gradients of the whole batch's contrastive loss, the batch encoded in chunks that fit in memory.
///
/// As many chunks as there are threads are encoded at the same time. If those are all, each keeps its graph until the
/// loss is known. Otherwise each chunk is encoded twice: first for its features alone, from which the loss and its
/// gradient by every feature follow, then again to carry that gradient back to the parameters. The result is that of
/// one chunk, beyond rounding.
///
/// Batch norms are the exception: each chunk is normalised by its own mean and variance, as in the reference, so
/// chunks and threads are part of what is computed. Running statistics take up the whole batch's, once a step.
///
/// # References
/// Gao et al. 2021, [Scaling Deep Contrastive Learning Batch Size under Memory Limited
/// Setup](https://arxiv.org/abs/2101.06983).
#[derive(Clone, Copy, Debug)]
pub struct ContrastiveStep {
    loss: InfoNce,
    chunk: usize,
    threads: usize,
    text_buckets: usize,
}

/// What one step found.
pub struct StepGradients {
    /// The batch's loss, in nats.
    pub loss: f32,
    /// The factor between cosines and logits that the loss was computed with, `exp(logit_scale)`.
    pub temperature_factor: f32,
    /// By every parameter, `logit_scale` included.
    pub grads: GradientsParams,
}

/// Some rows of a batch.
struct Chunk {
    start: usize,
    images: Tensor<4>,
    captions: Buckets,
}

/// `[rows, embed_dim]`, not normalised, off the graph.
struct Features {
    image: Tensor<2>,
    text: Tensor<2>,
    statistics: BatchStatistics,
}

impl ContrastiveStep {
    /// Encodes at most `chunk` pairs at once.
    ///
    /// # Panics
    /// If `chunk` is 0.
    pub fn new(loss: InfoNce, chunk: usize) -> Self {
        assert!(chunk > 0, "a chunk needs at least one pair");
        Self {
            loss,
            chunk,
            threads: 1,
            text_buckets: 1,
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

    /// The loss and its gradients. Waits for the device.
    ///
    /// # Shapes
    /// - `images`: `[batch, 3, size, size]`, on the model's device with autodiff
    ///
    /// # Panics
    /// If there are not as many captions as images.
    pub fn gradients(&self, model: &Clip, images: Tensor<4>, captions: &Captions) -> StepGradients {
        let [batch, ..] = images.dims();
        assert_eq!(batch, captions.count(), "images and captions");
        let device = images.device();
        // Threads are of no use to each other unless they have equal work.
        let rows = self.chunk.min(batch.div_ceil(self.threads));
        let chunks: Vec<Chunk> = (0..batch)
            .step_by(rows)
            .map(|start| {
                let rows = rows.min(batch - start);
                Chunk {
                    start,
                    images: images.clone().narrow(0, start, rows),
                    captions: captions.buckets(start..start + rows, self.text_buckets, &device),
                }
            })
            .collect();
        let logit_scale = model.logit_scale.val().inner();
        let loss = |features: Vec<Features>| {
            let (mut image, mut text, mut statistics) = (vec![], vec![], vec![]);
            for part in features {
                image.push(part.image);
                text.push(part.text);
                statistics.push(part.statistics);
            }
            let statistics = BatchStatistics::merge(statistics);
            model.visual.update_running_statistics(&statistics);
            self.loss
                .with_gradients(cat(image), cat(text), logit_scale.clone())
        };
        let (found, parts) = if chunks.len() <= self.threads {
            in_one_pass(model, chunks, loss)
        } else {
            self.in_two_passes(model, chunks, loss)
        };
        let mut total = GradientsAccumulator::new();
        for part in parts {
            total.accumulate(model, part);
        }
        let mut grads = total.grads();
        grads.register(model.logit_scale.id, found.logit_scale);
        StepGradients {
            loss: found.loss.into_scalar(),
            temperature_factor: logit_scale.exp().into_scalar(),
            grads,
        }
    }

    fn in_two_passes(
        &self,
        model: &Clip,
        chunks: Vec<Chunk>,
        loss: impl FnOnce(Vec<Features>) -> ContrastiveGradients,
    ) -> (ContrastiveGradients, Vec<GradientsParams>) {
        let inference = model.valid();
        let features = self.each(&chunks, |chunk| {
            let (image, statistics) =
                inference.encode_image_in_training(chunk.images.clone().inner());
            Features {
                image,
                text: chunk.captions.inner().encode(&inference),
                statistics,
            }
        });
        let found = loss(features);
        let parts = self.each(&chunks, |chunk| {
            let replica = replica(model);
            let (image, _) = replica.encode_image_in_training(chunk.images.clone());
            let text = chunk.captions.encode(&replica);
            back(&replica, image, text, &found, chunk.start)
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
    model: &Clip,
    chunks: Vec<Chunk>,
    loss: impl FnOnce(Vec<Features>) -> ContrastiveGradients,
) -> (ContrastiveGradients, Vec<GradientsParams>) {
    let encode = |model: &Clip, chunk: &Chunk| {
        let (image, statistics) = model.encode_image_in_training(chunk.images.clone());
        let text = chunk.captions.encode(model);
        let features = Features {
            image: image.clone().inner(),
            text: text.clone().inner(),
            statistics,
        };
        (image, text, features)
    };
    if let [whole] = &chunks[..] {
        let (image, text, features) = encode(model, whole);
        let found = loss(vec![features]);
        let grads = back(model, image, text, &found, 0);
        return (found, vec![grads]);
    }
    thread::scope(|scope| {
        let threads: Vec<_> = chunks
            .into_iter()
            .map(|chunk| {
                let (send_features, features) = mpsc::channel();
                let (found, receive_found) = mpsc::channel::<Arc<ContrastiveGradients>>();
                let thread = scope.spawn(move || {
                    let replica = replica(model);
                    let (image, text, features) = encode(&replica, &chunk);
                    // Either end closes only when the other thread panicked, which `joined` passes on.
                    let sent = send_features.send(features).ok();
                    let found = sent.and_then(|()| receive_found.recv().ok())?;
                    Some(back(&replica, image, text, &found, chunk.start))
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
        (Arc::unwrap_or_clone(found), grads)
    })
}

/// What a thread returned; its panic goes on in this one.
fn joined<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// The same parameters in a graph of their own: threads that share a graph wait for each other.
fn replica(model: &Clip) -> Clip {
    model.clone().fork(&model.device())
}

fn cat(parts: Vec<Tensor<2>>) -> Tensor<2> {
    Tensor::cat(parts, 0)
}

/// Gradients by the parameters of `sum(features * their gradient)` over one chunk.
fn back(
    model: &Clip,
    image: Tensor<2>,
    text: Tensor<2>,
    found: &ContrastiveGradients,
    start: usize,
) -> GradientsParams {
    let by = |features: &Tensor<2>, grad: &Tensor<2>| {
        let grad = grad.clone().narrow(0, start, features.dims()[0]);
        (features.clone() * Tensor::from_inner(grad)).sum()
    };
    let sum = by(&image, &found.image) + by(&text, &found.text);
    GradientsParams::from_grads(sum.backward(), model)
}

#[cfg(test)]
mod tests {
    use burn::{
        module::{ModuleVisitor, Param},
        tensor::{Device, TensorData},
    };
    use clip_model::{ClipConfig, encoder::ImageEncoder, weights::weights_bytes};

    use super::*;
    use crate::{Optimizer, OptimizerConfig};

    /// Rounding of sums in another order, relative to a gradient's own norm.
    const ROUNDING: f32 = 1e-5;

    fn model(device: &Device) -> Clip {
        let json = r#"{"embed_dim": 16, "vision_cfg": {"image_size": 16, "layers": 2, "width": 32,
            "head_width": 16, "patch_size": 8}, "text_cfg": {"context_length": 8,
            "vocab_size": 50, "width": 32, "heads": 2, "layers": 2}}"#;
        ClipConfig::from_json(json, "test").unwrap().init(9, device)
    }

    fn batch(size: usize, device: &Device) -> (Tensor<4>, Captions) {
        let pixels: Vec<f32> = (0..size * 3 * 256)
            .map(|i| ((i * 7919) % 1013) as f32 / 506.0 - 1.0)
            .collect();
        let rows = (0..size).map(|row| {
            let words = [row * 13 % 47, row * 29 % 47].map(|word| word as i32 + 1);
            match row % 3 {
                0 => [48, words[0], 49, 0, 0],
                _ => [48, words[0], words[1], 49, 0],
            }
        });
        let captions = Captions::new(rows.flatten().collect(), 5);
        (
            Tensor::from_data(TensorData::new(pixels, [size, 3, 16, 16]), device),
            captions,
        )
    }

    struct Flat<'a>(&'a GradientsParams, Vec<Vec<f32>>);

    impl ModuleVisitor for Flat<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let grad = self
                .0
                .get::<D>(param.id)
                .expect("every parameter has a gradient");
            self.1.push(grad.into_data().try_to_vec().unwrap());
        }
    }

    fn gradients(chunk: usize, threads: usize, buckets: usize) -> (f32, Vec<Vec<f32>>) {
        let device = Device::flex().autodiff();
        let model = model(&device);
        let (images, captions) = batch(12, &device);
        let step = ContrastiveStep::new(InfoNce::default(), chunk)
            .with_threads(threads)
            .with_text_buckets(buckets)
            .gradients(&model, images, &captions);
        let mut flat = Flat(&step.grads, Vec::new());
        model.visit(&mut flat);
        (step.loss, flat.1)
    }

    fn assert_same(want: &[Vec<f32>], got: &[Vec<f32>], tolerance: f32) {
        for (a, b) in want.iter().zip(got) {
            let norm = a.iter().map(|x| x * x).sum::<f32>().sqrt();
            let off = a
                .iter()
                .zip(b)
                .map(|(x, y)| (x - y).powi(2))
                .sum::<f32>()
                .sqrt();
            // Key biases shift every score of a query alike: their true gradient is zero.
            assert!(off <= tolerance * norm + 1e-7, "{off} of {norm}");
        }
    }

    #[test]
    fn chunks_threads_and_buckets_change_nothing() {
        let (loss, whole) = gradients(12, 1, 1);
        let cases = [
            (1, 1, 1),
            (4, 1, 1),
            (5, 1, 2),
            (12, 1, 3),
            (12, 2, 1),
            (12, 5, 4),
            (4, 3, 1),
            (2, 3, 2),
        ];
        for (chunk, threads, buckets) in cases {
            let (chunked_loss, chunked) = gradients(chunk, threads, buckets);
            assert!((loss - chunked_loss).abs() < ROUNDING * loss);
            assert_same(&whole, &chunked, ROUNDING);
        }
    }

    #[test]
    fn threads_give_the_same_bits_every_time() {
        let first = gradients(12, 3, 2);
        assert!((0..5).all(|_| gradients(12, 3, 2) == first));
    }

    #[test]
    fn the_gradients_are_those_of_the_plain_loss() {
        let device = Device::flex().autodiff();
        let model = model(&device);
        let (images, captions) = batch(12, &device);
        let loss = InfoNce::default().forward(
            model.encode_image(images),
            captions.buckets(0..12, 1, &device).encode(&model),
            model.logit_scale.val(),
        );
        let value: f32 = loss.clone().into_scalar();
        let plain = GradientsParams::from_grads(loss.backward(), &model);
        let mut flat = Flat(&plain, Vec::new());
        model.visit(&mut flat);
        let (ours, grads) = gradients(12, 1, 1);
        assert!((ours - value).abs() < ROUNDING * value);
        // Burn's own softmax sums in yet another order.
        assert_same(&flat.1, &grads, 10.0 * ROUNDING);
    }

    #[test]
    fn training_learns_a_batch_and_resumes_bit_by_bit() {
        let device = Device::flex().autodiff();
        let step = ContrastiveStep::new(InfoNce::default(), 6);
        let run = |mut model: Clip, mut optimizer: Optimizer, steps: usize| {
            let mut loss = 0.0;
            for _ in 0..steps {
                let (images, captions) = batch(12, &device);
                let found = step.gradients(&model, images, &captions);
                loss = found.loss;
                model = optimizer.step(1e-3, model, found.grads).0;
            }
            (model, optimizer, loss)
        };
        let config = OptimizerConfig {
            grad_clip_norm: Some(1.0),
            ..OptimizerConfig::default()
        };
        let fresh = |model: &Clip| Optimizer::new(&config, model);
        let start = model(&device);
        let (straight, _, loss) = run(start.clone(), fresh(&start), 30);
        assert!(loss < 0.7 * 12_f32.ln(), "{loss}");

        let (halfway, optimizer, _) = run(start.clone(), fresh(&start), 15);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights.safetensors");
        std::fs::write(&path, weights_bytes(&halfway)).unwrap();
        let state = optimizer.to_bytes().unwrap();
        let loaded = clip_model::weights::load_weights(model(&device), &path).unwrap();
        let optimizer = fresh(&loaded).load_bytes(&state).unwrap();
        let (resumed, _, _) = run(loaded, optimizer, 15);
        assert!(
            weights_bytes(&resumed) == weights_bytes(&straight),
            "resumed weights differ"
        );
    }

    #[test]
    fn a_resnet_resumes_bit_by_bit_and_its_running_statistics_move_once_a_step() {
        let device = Device::flex().autodiff();
        let json = r#"{"embed_dim": 8, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1],
            "width": 2, "head_width": 16}, "text_cfg": {"context_length": 8, "vocab_size": 50,
            "width": 8, "heads": 2, "layers": 1}}"#;
        let config = ClipConfig::from_json(json, "test").unwrap();
        let batch = || {
            let (images, captions) = batch(8, &device);
            (images.repeat_dim(2, 2).repeat_dim(3, 2), captions)
        };
        let fresh = |model: &Clip| Optimizer::new(&OptimizerConfig::default(), model);
        // One chunk; two at a time; one after the other, encoded twice.
        for (chunk, threads) in [(8, 1), (8, 2), (4, 1)] {
            let step = ContrastiveStep::new(InfoNce::default(), chunk).with_threads(threads);
            let run = |mut model: Clip, mut optimizer: Optimizer, steps: usize| {
                for _ in 0..steps {
                    let (images, captions) = batch();
                    let found = step.gradients(&model, images, &captions);
                    model = optimizer.step(1e-3, model, found.grads).0;
                }
                (weights_bytes(&model), optimizer, model)
            };
            let model = config.init(0, &device);
            let (half, optimizer, model) = run(model.clone(), fresh(&model), 2);
            let state = optimizer.to_bytes().unwrap();
            let (straight, _, model) = run(model, optimizer, 2);
            let ImageEncoder::ModifiedResNet(visual) = &model.visual else {
                panic!("a residual network");
            };
            let tracked = visual.bn1.num_batches_tracked.value();
            assert_eq!(tracked.into_scalar::<f32>().to_bits(), 4.0_f32.to_bits());

            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("weights.safetensors");
            std::fs::write(&path, half).unwrap();
            let loaded = clip_model::weights::load_weights(config.init(1, &device), &path).unwrap();
            let optimizer = fresh(&loaded).load_bytes(&state).unwrap();
            let (resumed, ..) = run(loaded, optimizer, 2);
            assert!(resumed == straight, "chunk {chunk}, threads {threads}");
        }
    }

    #[test]
    fn a_state_that_is_not_this_models_is_refused() {
        let device = Device::flex().autodiff();
        let model = model(&device);
        let optimizer = Optimizer::new(&OptimizerConfig::default(), &model);
        let (images, captions) = batch(4, &device);
        let found =
            ContrastiveStep::new(InfoNce::default(), 4).gradients(&model, images, &captions);
        let mut stepped = optimizer.clone();
        stepped.step(1e-3, model, found.grads);
        let state = stepped.to_bytes().unwrap();
        assert!(optimizer.clone().load_bytes(&state).is_ok());
        for cut in [0, 10, 40, state.len() / 2] {
            assert!(
                optimizer.clone().load_bytes(&state[..cut]).is_err(),
                "cut at {cut}"
            );
        }
        let wider = r#"{"embed_dim": 24, "vision_cfg": {"image_size": 16, "layers": 2, "width": 32,
            "head_width": 16, "patch_size": 8}, "text_cfg": {"context_length": 8,
            "vocab_size": 50, "width": 32, "heads": 2, "layers": 2}}"#;
        let wider = ClipConfig::from_json(wider, "test")
            .unwrap()
            .init(0, &device);
        let other = Optimizer::new(&OptimizerConfig::default(), &wider);
        let error = other
            .load_bytes(&state)
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(error.contains("other parameters"), "{error}");
    }
}
