use burn::{
    optim::{GradientsAccumulator, GradientsParams},
    tensor::{Int, Tensor},
};
use clip_model::{
    Clip,
    loss::{ContrastiveGradients, InfoNce},
};

/// Gradients of the whole batch's contrastive loss, the batch encoded in chunks that fit in memory.
///
/// With several chunks each is encoded twice: first for its features alone, from which the loss and
/// its gradient by every feature follow, then again to carry that gradient back to the parameters.
/// The result is that of one chunk, beyond rounding.
///
/// # References
/// Gao et al. 2021, [Scaling Deep Contrastive Learning Batch Size under Memory Limited
/// Setup](https://arxiv.org/abs/2101.06983).
#[derive(Clone, Copy, Debug)]
pub struct ContrastiveStep {
    loss: InfoNce,
    chunk: usize,
}

/// What one step found.
pub struct StepGradients {
    /// The batch's loss, in nats.
    pub loss: f32,
    /// By every parameter, `logit_scale` included.
    pub grads: GradientsParams,
}

impl ContrastiveStep {
    /// Encodes at most `chunk` pairs at once.
    ///
    /// # Panics
    /// If `chunk` is 0.
    pub fn new(loss: InfoNce, chunk: usize) -> Self {
        assert!(chunk > 0, "a chunk needs at least one pair");
        Self { loss, chunk }
    }

    /// The loss and its gradients. Waits for the device.
    ///
    /// # Shapes
    /// - `images`: `[batch, 3, size, size]`, on the model's device with autodiff
    /// - `tokens`: `[batch, tokens]`
    pub fn gradients(
        &self,
        model: &Clip,
        images: Tensor<4>,
        tokens: Tensor<2, Int>,
    ) -> StepGradients {
        let [batch, ..] = images.dims();
        let chunks: Vec<(usize, usize)> = (0..batch)
            .step_by(self.chunk)
            .map(|start| (start, self.chunk.min(batch - start)))
            .collect();
        let part = |(start, rows): (usize, usize)| {
            (
                images.clone().narrow(0, start, rows),
                tokens.clone().narrow(0, start, rows),
            )
        };
        let logit_scale = model.logit_scale.val().inner();

        let mut total = GradientsAccumulator::new();
        let found = if let [whole] = chunks[..] {
            let (images, tokens) = part(whole);
            let (image, text) = (model.encode_image(images), model.encode_text(tokens));
            let found =
                self.loss
                    .with_gradients(image.clone().inner(), text.clone().inner(), logit_scale);
            total.accumulate(model, back(model, image, text, &found, whole));
            found
        } else {
            let inference = burn::module::Module::valid(model);
            let (image, text): (Vec<_>, Vec<_>) = chunks
                .iter()
                .map(|chunk| {
                    let (images, tokens) = part(*chunk);
                    (
                        inference.encode_image(images.inner()),
                        inference.encode_text(tokens.inner()),
                    )
                })
                .unzip();
            let found =
                self.loss
                    .with_gradients(Tensor::cat(image, 0), Tensor::cat(text, 0), logit_scale);
            for chunk in &chunks {
                let (images, tokens) = part(*chunk);
                let (image, text) = (model.encode_image(images), model.encode_text(tokens));
                total.accumulate(model, back(model, image, text, &found, *chunk));
            }
            found
        };
        let mut grads = total.grads();
        grads.register(model.logit_scale.id, found.logit_scale);
        StepGradients {
            loss: found.loss.into_scalar(),
            grads,
        }
    }
}

/// Gradients by the parameters of `sum(features * their gradient)` over one chunk.
fn back(
    model: &Clip,
    image: Tensor<2>,
    text: Tensor<2>,
    found: &ContrastiveGradients,
    (start, rows): (usize, usize),
) -> GradientsParams {
    let by = |features: &Tensor<2>, grad: &Tensor<2>| {
        let grad = grad.clone().narrow(0, start, rows);
        (features.clone() * Tensor::from_inner(grad)).sum()
    };
    let sum = by(&image, &found.image) + by(&text, &found.text);
    GradientsParams::from_grads(sum.backward(), model)
}

#[cfg(test)]
mod tests {
    use burn::{
        module::{Module, ModuleVisitor, Param},
        tensor::{Device, TensorData},
    };
    use clip_model::{ClipConfig, weights::weights_bytes};

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

    fn batch(size: usize, device: &Device) -> (Tensor<4>, Tensor<2, Int>) {
        let pixels: Vec<f32> = (0..size * 3 * 256)
            .map(|i| ((i * 7919) % 1013) as f32 / 506.0 - 1.0)
            .collect();
        let tokens: Vec<i32> = (0..size)
            .flat_map(|row| {
                [
                    48,
                    (row * 13 % 47) as i32 + 1,
                    (row * 29 % 47) as i32 + 1,
                    49,
                    0,
                ]
            })
            .collect();
        (
            Tensor::from_data(TensorData::new(pixels, [size, 3, 16, 16]), device),
            Tensor::from_data(TensorData::new(tokens, [size, 5]), device),
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

    fn gradients(chunk: usize) -> (f32, Vec<Vec<f32>>) {
        let device = Device::flex().autodiff();
        let model = model(&device);
        let (images, tokens) = batch(12, &device);
        let step =
            ContrastiveStep::new(InfoNce::default(), chunk).gradients(&model, images, tokens);
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
    fn chunks_change_nothing() {
        let (loss, whole) = gradients(12);
        for chunk in [1, 4, 5] {
            let (chunked_loss, chunked) = gradients(chunk);
            assert!((loss - chunked_loss).abs() < ROUNDING * loss);
            assert_same(&whole, &chunked, ROUNDING);
        }
    }

    #[test]
    fn the_gradients_are_those_of_the_plain_loss() {
        let device = Device::flex().autodiff();
        let model = model(&device);
        let (images, tokens) = batch(12, &device);
        let loss = InfoNce::default().forward(
            model.encode_image(images),
            model.encode_text(tokens),
            model.logit_scale.val(),
        );
        let value: f32 = loss.clone().into_scalar();
        let plain = GradientsParams::from_grads(loss.backward(), &model);
        let mut flat = Flat(&plain, Vec::new());
        model.visit(&mut flat);
        let (ours, grads) = gradients(12);
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
                let (images, tokens) = batch(12, &device);
                let found = step.gradients(&model, images, tokens);
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
    fn a_state_that_is_not_this_models_is_refused() {
        let device = Device::flex().autodiff();
        let model = model(&device);
        let optimizer = Optimizer::new(&OptimizerConfig::default(), &model);
        let (images, tokens) = batch(4, &device);
        let found = ContrastiveStep::new(InfoNce::default(), 4).gradients(&model, images, tokens);
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
