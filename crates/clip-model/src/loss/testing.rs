//! What the tests of both losses share.

use burn::tensor::{Device, Tensor, TensorData, Tolerance};
use safetensors::SafeTensors;

use super::{ContrastiveBatch, ContrastiveGradients, ContrastiveLoss, Groups, TeacherFeatures};

/// Sums of a few dozen f32 terms of order one, in another order.
const ROUNDING: f32 = 2e-6;

/// Step of a central difference in f32: its own error and that of rounding are both near 1e-4 of a derivative here.
const STEP: f32 = 1e-2;

const EMBED_DIM: usize = 8;
const LOGIT_SCALE: f32 = 1.5;

/// The features of a batch on the host, and its groups.
#[derive(Clone)]
pub(super) struct Operands {
    image: Vec<f32>,
    text: Vec<f32>,
    groups: Option<Groups>,
    /// Image and text features of a teacher.
    teacher: Option<[Vec<f32>; 2]>,
}

impl Operands {
    fn new(rows: usize) -> Self {
        // A plain congruential sequence: the same values everywhere.
        let values = |mut state: u64| {
            let draw = move || {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 40) as f32 / (1 << 23) as f32 - 1.0
            };
            std::iter::repeat_with(draw)
                .take(rows * EMBED_DIM)
                .collect()
        };
        Self {
            image: values(1),
            text: values(2),
            groups: None,
            teacher: None,
        }
    }

    /// As [`with_and_without_groups`](Self::with_and_without_groups), with a teacher who finds other things.
    pub(super) fn with_teacher() -> Vec<Self> {
        let taught = |of: Self| Self {
            teacher: Some([
                of.text.clone(),
                of.image.iter().map(|x| x * x - 0.2).collect(),
            ]),
            ..of
        };
        let all = Self::with_and_without_groups();
        all.into_iter().map(taught).collect()
    }

    pub(super) fn with_and_without_groups() -> Vec<Self> {
        let grouped = |rows: usize| Self {
            groups: Some(Groups::alone(rows).join_equal((0..rows).map(|row| row % 4))),
            ..Self::new(rows)
        };
        vec![Self::new(1), Self::new(7), grouped(7), grouped(11)]
    }

    pub(super) fn batch(
        &self,
        logit_scale: f32,
        bias: Option<f32>,
        device: &Device,
    ) -> ContrastiveBatch {
        let features = |values: &[f32]| {
            let data = TensorData::new(values.to_vec(), [values.len() / EMBED_DIM, EMBED_DIM]);
            Tensor::from_data(data, device)
        };
        let teacher = self.teacher.as_ref().map(|[image, text]| TeacherFeatures {
            image: features(image),
            text: features(text),
            logit_scale: Tensor::from_floats([2.0], device),
        });
        let logit_scale = Tensor::from_floats([logit_scale], device);
        ContrastiveBatch::new(features(&self.image), features(&self.text), logit_scale)
            .with_bias(bias.map(|bias| Tensor::from_floats([bias], device)))
            .with_groups(self.groups.clone())
            .with_teacher(teacher)
    }

    fn found(&self, loss: ContrastiveLoss, bias: Option<f32>) -> ContrastiveGradients {
        loss.with_gradients(self.batch(LOGIT_SCALE, bias, &Device::default()))
    }
}

/// The tensors of a golden file, by name.
pub(super) fn golden(file: &[u8]) -> impl Fn(&str) -> TensorData + '_ {
    let file = SafeTensors::deserialize(file).unwrap();
    move |name| {
        let view = file.tensor(name).unwrap();
        let values: Vec<f32> = view
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        TensorData::new(values, view.shape().to_vec())
    }
}

pub(super) fn assert_close(got: TensorData, want: TensorData) {
    got.assert_approx_eq::<f32>(&want, Tolerance::absolute(ROUNDING));
}

/// What the gradients are of.
fn whole(found: &ContrastiveGradients) -> Tensor<1> {
    match &found.distill {
        Some(distill) => found.loss.clone() + distill.clone(),
        None => found.loss.clone(),
    }
}

/// Compares the tiled form, for several tiles, with what Burn differentiates.
pub(super) fn assert_tiles_are_plain(
    tiled: impl Fn(usize) -> ContrastiveLoss,
    plain: impl Fn(ContrastiveBatch) -> Tensor<1>,
    operands: &Operands,
    bias: Option<f32>,
) {
    let mut batch = operands.batch(LOGIT_SCALE, bias, &Device::default().autodiff());
    batch.image = batch.image.require_grad();
    batch.text = batch.text.require_grad();
    batch.logit_scale = batch.logit_scale.require_grad();
    batch.logit_bias = batch.logit_bias.map(Tensor::require_grad);
    let loss = plain(batch.clone());
    let grads = loss.backward();
    for rows in [1, 4, 5, 64] {
        let found = operands.found(tiled(rows), bias);
        assert_close(whole(&found).into_data(), loss.clone().into_data());
        for (got, of) in [(found.image, &batch.image), (found.text, &batch.text)] {
            assert_close(got.into_data(), of.grad(&grads).unwrap().into_data());
        }
        let by_scale = batch.logit_scale.grad(&grads).unwrap();
        assert_close(found.logit_scale.into_data(), by_scale.into_data());
        assert_eq!(found.logit_bias.is_some(), batch.logit_bias.is_some());
        if let (Some(got), Some(bias)) = (found.logit_bias, &batch.logit_bias) {
            assert_close(got.into_data(), bias.grad(&grads).unwrap().into_data());
        }
    }
}

/// Compares every gradient with the slope of the loss itself.
pub(super) fn assert_is_derivative(loss: ContrastiveLoss, operands: &Operands, bias: Option<f32>) {
    let device = Device::default();
    let value = |operands: &Operands, logit_scale: f32, bias: Option<f32>| -> f32 {
        let batch = operands.batch(logit_scale, bias, &device);
        whole(&loss.with_gradients(batch)).into_scalar()
    };
    let check = |what: &str, got: f32, low: f32, high: f32| {
        let slope = (high - low) / (2.0 * STEP);
        assert!((got - slope).abs() < 1e-3, "{what}: {got}, slope {slope}");
    };
    let found = operands.found(loss, bias);
    let by_image: Vec<f32> = found.image.into_data().try_to_vec().unwrap();
    let by_text: Vec<f32> = found.text.into_data().try_to_vec().unwrap();
    for at in 0..by_image.len() {
        let moved = |step: f32| {
            let (mut image, mut text) = (operands.clone(), operands.clone());
            image.image[at] += step;
            text.text[at] += step;
            [image, text].map(|operands| value(&operands, LOGIT_SCALE, bias))
        };
        let ([low_image, low_text], [high_image, high_text]) = (moved(-STEP), moved(STEP));
        check("image", by_image[at], low_image, high_image);
        check("text", by_text[at], low_text, high_text);
    }
    let scaled = |step: f32| value(operands, LOGIT_SCALE + step, bias);
    let by_scale = found.logit_scale.into_scalar();
    check("logit_scale", by_scale, scaled(-STEP), scaled(STEP));
    if let (Some(got), Some(bias)) = (found.logit_bias, bias) {
        let moved = |step: f32| value(operands, LOGIT_SCALE, Some(bias + step));
        check("logit_bias", got.into_scalar(), moved(-STEP), moved(STEP));
    }
}
