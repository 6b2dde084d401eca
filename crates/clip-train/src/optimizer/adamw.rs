use burn::{
    optim::{AdamW as BurnAdamW, AdamWConfig, AdamWState, LearningRate, Optimizer as Rule},
    tensor::{Device, Tensor},
};

use super::OptimizerConfig;

/// Burn's `AdamW`, with its state, in one pass over the numbers where its CPU backend has a kernel for that.
#[derive(Clone)]
pub(super) struct AdamW {
    composed: BurnAdamW,
    #[cfg_attr(not(feature = "cpu"), allow(dead_code))]
    fused: Fused,
}

/// What [`AdamW::composed`] keeps to itself.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "cpu"), allow(dead_code))]
struct Fused {
    beta_1: f32,
    beta_2: f32,
    epsilon: f32,
    weight_decay: f32,
}

impl AdamW {
    pub(super) fn new(config: &OptimizerConfig, weight_decay: f32) -> Self {
        let OptimizerConfig {
            beta_1,
            beta_2,
            epsilon,
            ..
        } = *config;
        let composed = AdamWConfig::new()
            .with_beta_1(beta_1)
            .with_beta_2(beta_2)
            .with_epsilon(epsilon)
            .with_weight_decay(weight_decay)
            .build();
        Self {
            composed,
            fused: Fused {
                beta_1,
                beta_2,
                epsilon,
                weight_decay,
            },
        }
    }
}

impl Rule for AdamW {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        #[cfg(feature = "cpu")]
        if clip_kernels::computes_on(&tensor) && clip_kernels::computes_on(&grad) {
            let (tensor, state) = self.fused.step(lr, tensor, grad, state);
            return (tensor, Some(state));
        }
        self.composed.step(lr, tensor, grad, state)
    }

    fn to_device<const D: usize>(state: Self::State<D>, device: &Device) -> Self::State<D> {
        BurnAdamW::to_device(state, device)
    }
}

#[cfg(feature = "cpu")]
impl Fused {
    fn step<const D: usize>(
        self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<AdamWState<D>>,
    ) -> (Tensor<D>, AdamWState<D>) {
        use burn::optim::AdaptiveMomentumState;

        let (before, moments) = match state.map(|state| state.momentum) {
            Some(state) => (state.time, Some([state.moment_1, state.moment_2])),
            None => (0, None),
        };
        let step = clip_kernels::AdamWStep {
            lr,
            weight_decay: self.weight_decay,
            beta_1: self.beta_1,
            beta_2: self.beta_2,
            epsilon: self.epsilon,
            time: before + 1,
        };
        let (tensor, [first, second]) = clip_kernels::adamw(tensor, grad, moments, step);
        let momentum = AdaptiveMomentumState::new(step.time, first, second);
        (tensor, AdamWState::new(momentum))
    }
}
