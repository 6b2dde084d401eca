//! A step of `AdamW` in one pass over a parameter, its gradient and its moments.
//!
//! Of Burn's operations it is a dozen passes, each on one thread, over numbers that are in no cache: for a model of 151
//! million parameters a third of a training step's time.

use burn::{backend::Flex, tensor::Tensor};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::{
    primitive::{contiguous, primitive, tensor},
    rows::{ALONE, TASK, vectorized},
};

/// What a step of `AdamW` multiplies with.
///
/// # References
/// Loshchilov and Hutter 2019, [Decoupled Weight Decay Regularization](https://arxiv.org/abs/1711.05101), algorithm 2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// The learning rate.
    pub lr: f64,
    /// The share of a parameter that goes in a step of learning rate 1.
    pub weight_decay: f32,
    /// How much of the first moment stays.
    pub beta_1: f32,
    /// How much of the second moment stays.
    pub beta_2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Which step of this parameter it is, counted from 1.
    pub time: usize,
}

/// The parameter and its moments after a step, in their own memory where nobody shares it. The bits are those of Burn's
/// `AdamW`.
///
/// # Shapes
/// - `factor`: `[1]`, what the gradient is multiplied by, if it is
/// - all others are of one shape; without `moments`, they are zero
///
/// # Panics
/// If [`computes_on`](crate::computes_on) denies one of them, and if shapes differ.
pub fn adamw<const D: usize>(
    parameter: Tensor<D>,
    gradient: Tensor<D>,
    factor: Option<Tensor<1>>,
    moments: Option<[Tensor<D>; 2]>,
    step: AdamWStep,
) -> (Tensor<D>, [Tensor<D>; 2]) {
    let factor = factor.map_or(1.0, Tensor::into_scalar::<f32>);
    let shape = parameter.shape();
    let numbers = |x: Tensor<D>| {
        assert_eq!(
            x.shape(),
            shape,
            "a parameter, its gradient and its moments"
        );
        contiguous(primitive::<D, Flex>(x))
    };
    let zeros = || tensor(vec![0.0; shape.num_elements()], shape.clone());
    let gradient = numbers(gradient);
    let mut moments = match moments {
        Some(moments) => moments.map(numbers),
        None => [zeros(), zeros()],
    };
    let mut parameter = numbers(parameter);
    {
        let [first, second] = moments.each_mut().map(FlexTensor::storage_mut::<f32>);
        let parameter = parameter.storage_mut::<f32>();
        let gradient = gradient.storage::<f32>();
        if parameter.len() <= ALONE {
            step.update(parameter, (gradient, factor), first, second);
        } else {
            let moments = first.par_chunks_mut(TASK).zip(second.par_chunks_mut(TASK));
            let parameters = parameter.par_chunks_mut(TASK);
            let parts = parameters.zip(gradient.par_chunks(TASK)).zip(moments);
            parts.for_each(|((parameter, gradient), (first, second))| {
                step.update(parameter, (gradient, factor), first, second);
            });
        }
    }
    let done = Tensor::from_primitive::<Flex>;
    (done(parameter), moments.map(done))
}

impl AdamWStep {
    fn update(
        &self,
        parameter: &mut [f32],
        (gradient, factor): (&[f32], f32),
        first: &mut [f32],
        second: &mut [f32],
    ) {
        let Self {
            beta_1,
            beta_2,
            epsilon,
            ..
        } = *self;
        let lr = self.lr as f32;
        let kept = (1.0 - self.lr * f64::from(self.weight_decay)) as f32;
        let time = self.time as i32;
        let [unbias_1, unbias_2] = [beta_1, beta_2].map(|beta| 1.0 - beta.powi(time));
        let numbers = parameter
            .iter_mut()
            .zip(gradient)
            .zip(first.iter_mut().zip(second));
        vectorized(
            #[inline(always)]
            || {
                for ((parameter, gradient), (first, second)) in numbers {
                    let gradient = gradient * factor;
                    *first = *first * beta_1 + gradient * (1.0 - beta_1);
                    *second = *second * beta_2 + gradient * gradient * (1.0 - beta_2);
                    let delta = (*first / unbias_1) / ((*second / unbias_2).sqrt() + epsilon);
                    *parameter = *parameter * kept - delta * lr;
                }
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use burn::{
        optim::{AdamWConfig, Optimizer as _},
        tensor::{Device, Distribution},
    };

    use super::*;

    #[test]
    fn steps_are_those_of_burns_adamw_to_the_bit() {
        let device = Device::flex();
        // On one thread, and on all.
        for (rows, weight_decay, factor) in [
            (30, 0.0, None),
            (30, 0.2, Some(0.3_f32)),
            (3_000, 0.2, Some(0.3)),
        ] {
            let normal = Distribution::Normal(0.0, 0.1);
            let draw = || Tensor::<2>::random([rows, 70], normal, &device);
            let config = AdamWConfig::new().with_beta_2(0.98).with_epsilon(1e-6);
            let rule = config.with_weight_decay(weight_decay).build();
            let start = draw();
            let (mut theirs, mut state) = (start.clone(), None);
            let (mut ours, mut moments) = (start.clone(), None);
            for time in 1..4 {
                let (lr, gradient) = (1e-3 / time as f64, draw());
                let scaled = gradient.clone().mul_scalar(factor.unwrap_or(1.0));
                (theirs, state) = rule.step(lr, theirs, scaled, state);
                let step = AdamWStep {
                    lr,
                    weight_decay,
                    beta_1: 0.9,
                    beta_2: 0.98,
                    epsilon: 1e-6,
                    time,
                };
                let found;
                let factor = factor.map(|factor| Tensor::from_floats([factor], &device));
                (ours, found) = adamw(ours, gradient, factor, moments, step);
                moments = Some(found);
                ours.to_data().assert_eq(&theirs.to_data(), true);
            }
            let (state, moments) = (state.unwrap().momentum, moments.unwrap());
            moments[0]
                .to_data()
                .assert_eq(&state.moment_1.to_data(), true);
            moments[1]
                .to_data()
                .assert_eq(&state.moment_2.to_data(), true);
            // What somebody else holds stays as it was.
            assert!(start.to_data() != ours.to_data());
        }
    }
}
