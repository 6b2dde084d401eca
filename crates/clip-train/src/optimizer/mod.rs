//! Gradients become steps.

mod adamw;
mod config;
mod groups;
mod state;
#[cfg(test)]
mod tests;

use burn::{
    module::Module,
    module::ParamGroup,
    optim::{
        GradientsParams, LambConfig, LearningRate, LionConfig, ModuleOptimizer, Optimizer as Rule,
    },
    tensor::{Device, Tensor},
};
use clip_model::{Clip, MAX_LOGIT_SCALE};
use sha2::{Digest, Sha256, digest::Output};

use adamw::AdamW;
pub use config::{OptimizerConfig, OptimizerKind};
use groups::Parameters;
pub use state::OptimizerState;
use state::refused;

use crate::{
    TrainError,
    step::{global_norm, scaled},
};

/// An optimizer as CLIP uses it: no decay of gains, biases and `logit_scale`, which stays within `[0, ln 100]`.
#[derive(Clone)]
pub struct Optimizer {
    inner: ModuleOptimizer,
    grad_clip_norm: Option<f64>,
    /// A digest of the optimizer's kind and the parameters' order and shapes: saved state is theirs alone.
    of: Output<Sha256>,
}

impl Optimizer {
    /// Fresh state for `model`.
    pub fn new(config: &OptimizerConfig, model: &Clip) -> Self {
        let mut parameters = Parameters::default();
        model.visit(&mut parameters);
        let decay = |is_matrix| if is_matrix { config.weight_decay } else { 0.0 };
        let inner = match config.kind {
            OptimizerKind::AdamW => grouped(config, &parameters, |is_matrix| {
                AdamW::new(config, decay(is_matrix))
            }),
            OptimizerKind::Lamb => grouped(config, &parameters, |is_matrix| {
                LambConfig::new()
                    .with_beta_1(config.beta_1)
                    .with_beta_2(config.beta_2)
                    .with_epsilon(config.epsilon)
                    .with_weight_decay(decay(is_matrix))
                    .with_use_trust_ratio(is_matrix)
                    .build()
            }),
            OptimizerKind::Lion => grouped(config, &parameters, |is_matrix| {
                LionConfig::new()
                    .with_beta_1(config.beta_1)
                    .with_beta_2(config.beta_2)
                    .with_weight_decay(decay(is_matrix))
                    .build()
            }),
        };
        let mut shapes = parameters.shapes;
        // The usual kind goes without saying.
        if config.kind != OptimizerKind::AdamW {
            shapes.update(format!("{:?}", config.kind));
        }
        Self {
            inner,
            grad_clip_norm: config.grad_clip_norm,
            of: shapes.finalize(),
        }
    }

    /// Applies the gradients at learning rate `lr`; returns the model and the Euclidean norm, `[1]`, that all
    /// gradients had together before clipping. Doesn't wait for the device.
    pub fn step(&mut self, lr: f64, model: Clip, grads: GradientsParams) -> (Clip, Tensor<1>) {
        let norm = global_norm(&grads, &model);
        let grads = match self.grad_clip_norm {
            // The reference's `clip_grad_norm_`, with its 1e-6.
            Some(limit) => {
                let factor = (norm.clone() + 1e-6)
                    .recip()
                    .mul_scalar(limit)
                    .clamp_max(1.0);
                scaled(grads, &model, Some(factor))
            }
            None => grads,
        };
        let mut model = self.inner.step(lr, model, grads);
        model.logit_scale = model.logit_scale.map(|scale| {
            Tensor::from_inner(scale.inner().clamp(0.0, MAX_LOGIT_SCALE)).require_grad()
        });
        (model, norm)
    }

    /// A copy of the state on the host.
    pub fn state(&self) -> OptimizerState {
        OptimizerState {
            of: format!("{:x}", self.of),
            record: self.inner.to_record(),
        }
    }

    /// Takes up the state of an optimizer of the same kind for a model of the same parameters.
    ///
    /// # Errors
    /// [`TrainError::OptimizerState`] if it is another's, or not whole.
    pub fn with_state(self, state: OptimizerState) -> Result<Self, TrainError> {
        if state.of != format!("{:x}", self.of) {
            return Err(refused(
                "it belongs to another kind of optimizer, or a model with other parameters",
            ));
        }
        let saved = state.record.len();
        let inner = self.inner.load_record(state.record);
        // Burn leaves out what it can't read, which would restart those moments at zero.
        if inner.to_record().len() != saved {
            return Err(refused("some parameters' state can't be read"));
        }
        Ok(Self { inner, ..self })
    }
}

/// One rule for all parameters, each group with a learning rate of its own.
fn grouped<R: Rule>(
    config: &OptimizerConfig,
    parameters: &Parameters,
    rule: impl Fn(bool) -> R,
) -> ModuleOptimizer {
    let scaled = |is_matrix, lr_scale| Scaled {
        rule: rule(is_matrix),
        lr_scale,
    };
    let mut optimizer = ModuleOptimizer::from(scaled(true, 1.0));
    for group in parameters.groups(config.layer_decay) {
        let rule = scaled(group.is_matrix, group.lr_scale);
        optimizer = optimizer.with_group(ParamGroup::from_ids(group.ids), rule, None);
    }
    optimizer
}

/// A rule at a multiple of the learning rate.
#[derive(Clone)]
struct Scaled<R> {
    rule: R,
    lr_scale: f64,
}

impl<R: Rule> Rule for Scaled<R> {
    type State<const D: usize> = R::State<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        self.rule.step(lr * self.lr_scale, tensor, grad, state)
    }

    fn to_device<const D: usize>(state: Self::State<D>, device: &Device) -> Self::State<D> {
        R::to_device(state, device)
    }
}
