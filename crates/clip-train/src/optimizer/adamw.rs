use burn::{
    optim::{AdamW as BurnAdamW, AdamWConfig, AdamWState, LearningRate, Optimizer as Rule},
    tensor::{Device, Tensor},
};

use super::{
    OptimizerConfig,
    rule::{ScalingRule, times},
};

/// Burn's `AdamW`, with its state, in one pass over the numbers where the device has a kernel for that.
#[derive(Clone)]
pub(super) struct AdamW {
    composed: BurnAdamW,
    #[cfg_attr(not(any(feature = "cpu", feature = "gpu")), allow(dead_code))]
    fused: Fused,
}

/// What [`AdamW::composed`] keeps to itself.
#[derive(Clone, Copy)]
#[cfg_attr(not(any(feature = "cpu", feature = "gpu")), allow(dead_code))]
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
        self.step_scaled(lr, tensor, grad, None, state)
    }

    fn to_device<const D: usize>(state: Self::State<D>, device: &Device) -> Self::State<D> {
        BurnAdamW::to_device(state, device)
    }
}

impl ScalingRule for AdamW {
    fn step_scaled<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        factor: Option<Tensor<1>>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        #[cfg(feature = "cpu")]
        if clip_kernels::computes_on(&tensor) && clip_kernels::computes_on(&grad) {
            let (tensor, state) = self.fused.step(lr, tensor, grad, factor, state);
            return (tensor, Some(state));
        }
        #[cfg(feature = "gpu")]
        if clip_cube::steps(&tensor) && clip_cube::steps(&grad) {
            let (tensor, state) = self.fused.step_on_gpu(lr, tensor, grad, factor, state);
            return (tensor, Some(state));
        }
        self.composed.step(lr, tensor, times(grad, factor), state)
    }
}

#[cfg(any(feature = "cpu", feature = "gpu"))]
mod fused {
    use burn::optim::AdaptiveMomentumState;

    use super::{AdamWState, Fused, LearningRate, Tensor};

    /// Which step of a parameter comes next, and its moments.
    fn before<const D: usize>(state: Option<AdamWState<D>>) -> (usize, Option<[Tensor<D>; 2]>) {
        match state.map(|state| state.momentum) {
            Some(state) => (state.time + 1, Some([state.moment_1, state.moment_2])),
            None => (1, None),
        }
    }

    fn after<const D: usize>(time: usize, [first, second]: [Tensor<D>; 2]) -> AdamWState<D> {
        AdamWState::new(AdaptiveMomentumState::new(time, first, second))
    }

    /// A step by one of the crates of kernels, which know each other as little as their tensors do.
    macro_rules! step {
        ($name:ident, $kernels:ident) => {
            pub(super) fn $name<const D: usize>(
                self,
                lr: LearningRate,
                tensor: Tensor<D>,
                grad: Tensor<D>,
                factor: Option<Tensor<1>>,
                state: Option<AdamWState<D>>,
            ) -> (Tensor<D>, AdamWState<D>) {
                let (time, moments) = before(state);
                let step = $kernels::AdamWStep {
                    lr,
                    weight_decay: self.weight_decay,
                    beta_1: self.beta_1,
                    beta_2: self.beta_2,
                    epsilon: self.epsilon,
                    time,
                };
                let (tensor, moments) = $kernels::adamw(tensor, grad, factor, moments, step);
                (tensor, after(time, moments))
            }
        };
    }

    impl Fused {
        #[cfg(feature = "cpu")]
        step!(step, clip_kernels);
        #[cfg(feature = "gpu")]
        step!(step_on_gpu, clip_cube);
    }
}
