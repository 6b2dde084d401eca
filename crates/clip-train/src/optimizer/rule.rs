use std::sync::{Arc, Mutex, PoisonError};

use burn::{
    optim::{Lamb, LearningRate, Lion, Optimizer as Rule},
    tensor::{Device, Tensor},
};

/// What all gradients of a step are multiplied by, `[1]`: none, or one number on the device. Clones share it.
///
/// Burn's optimizer gives a rule one gradient after the other and nothing beside it; to multiply them before is to take all
/// of them through memory once more.
#[derive(Clone, Default)]
pub(super) struct Factor(Arc<Mutex<Option<Tensor<1>>>>);

impl Factor {
    pub(super) fn set(&self, factor: Option<Tensor<1>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = factor;
    }

    fn get(&self) -> Option<Tensor<1>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// A rule that may multiply a gradient as it reads it.
pub(super) trait ScalingRule: Rule {
    /// A [`step`](Rule::step) along `grad * factor`.
    fn step_scaled<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        factor: Option<Tensor<1>>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        self.step(lr, tensor, times(grad, factor), state)
    }
}

/// `grad * factor`.
pub(super) fn times<const D: usize>(grad: Tensor<D>, factor: Option<Tensor<1>>) -> Tensor<D> {
    match factor {
        Some(factor) => grad * factor.reshape([1; D]),
        None => grad,
    }
}

impl ScalingRule for Lamb {}
impl ScalingRule for Lion {}

/// The rule of a group of parameters: at a multiple of the learning rate, along clipped gradients.
#[derive(Clone)]
pub(super) struct Grouped<R> {
    rule: R,
    lr_scale: f64,
    factor: Factor,
}

impl<R> Grouped<R> {
    pub(super) fn new(rule: R, lr_scale: f64, factor: Factor) -> Self {
        Self {
            rule,
            lr_scale,
            factor,
        }
    }
}

impl<R: ScalingRule> Rule for Grouped<R> {
    type State<const D: usize> = R::State<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        let lr = lr * self.lr_scale;
        self.rule
            .step_scaled(lr, tensor, grad, self.factor.get(), state)
    }

    fn to_device<const D: usize>(state: Self::State<D>, device: &Device) -> Self::State<D> {
        R::to_device(state, device)
    }
}
