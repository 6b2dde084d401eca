//! Gradients become steps.

mod adamw;
mod config;
mod groups;
mod lora;
mod rule;
mod state;
#[cfg(test)]
mod tests;

use burn::{
    module::{Module, ModuleVisitor, Param, ParamGroup},
    optim::{GradientsParams, LambConfig, LionConfig, ModuleOptimizer},
    tensor::Tensor,
};
use clip_model::{Clip, MAX_LOGIT_SCALE};
use sha2::{Digest, Sha256, digest::Output};

use adamw::AdamW;
pub(crate) use config::adam_constants;
pub use config::{OptimizerConfig, OptimizerKind};
use groups::Parameters;
use lora::Adapters;
pub use lora::{LoraConfig, Target};
use rule::{Factor, Grouped, ScalingRule};
pub(crate) use state::HostAdapters;
pub use state::OptimizerState;
use state::refused;

use crate::{TrainError, step::global_norm};

/// An optimizer as CLIP uses it: no decay of gains, biases and `logit_scale`, which stays within `[0, ln 100]`.
///
/// Clones take their steps one after the other: they share what gradients are multiplied by.
#[derive(Clone)]
pub struct Optimizer {
    inner: ModuleOptimizer,
    grad_clip_norm: Option<f64>,
    /// What clips the gradients of the step at hand.
    factor: Factor,
    /// A digest of the optimizer's kind and the parameters' order and shapes: saved state is theirs alone.
    of: Output<Sha256>,
    adapters: Option<Adapters>,
}

impl Optimizer {
    /// Fresh state for `model`.
    pub fn new(config: &OptimizerConfig, model: &Clip) -> Self {
        Self::build(config, model, None)
    }

    /// The same with fresh adapters, drawn from `seed`, of a model that they [left to be trained](LoraConfig::lock).
    /// They are stepped in place of their matrices, and what clipping takes for the gradients is theirs.
    pub fn with_lora(config: &OptimizerConfig, lora: &LoraConfig, seed: u64, model: &Clip) -> Self {
        Self::build(config, model, Some(Adapters::new(lora, seed, model)))
    }

    fn build(config: &OptimizerConfig, model: &Clip, adapters: Option<Adapters>) -> Self {
        let mut parameters = Parameters::default();
        model.visit(&mut parameters);
        for (matrix, factors) in adapters.iter().flat_map(Adapters::ids) {
            parameters.add_beside(matrix, factors);
        }
        let factor = Factor::default();
        let decay = |is_matrix| if is_matrix { config.weight_decay } else { 0.0 };
        let inner = match config.kind {
            OptimizerKind::AdamW => grouped(config, &parameters, &factor, |is_matrix| {
                AdamW::new(config, decay(is_matrix))
            }),
            OptimizerKind::Lamb => grouped(config, &parameters, &factor, |is_matrix| {
                LambConfig::new()
                    .with_beta_1(config.beta_1)
                    .with_beta_2(config.beta_2)
                    .with_epsilon(config.epsilon)
                    .with_weight_decay(decay(is_matrix))
                    .with_use_trust_ratio(is_matrix)
                    .build()
            }),
            OptimizerKind::Lion => grouped(config, &parameters, &factor, |is_matrix| {
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
        for part in adapters.iter().flat_map(Adapters::digest) {
            shapes.update(part);
        }
        Self {
            inner,
            grad_clip_norm: config.grad_clip_norm,
            factor,
            of: shapes.finalize(),
            adapters,
        }
    }

    /// Applies the gradients at learning rate `lr`; returns the model and the Euclidean norm, `[1]`, that all
    /// gradients had together before clipping. Doesn't wait for the device.
    pub fn step(&mut self, lr: f64, model: Clip, grads: GradientsParams) -> (Clip, Tensor<1>) {
        let (of_factors, grads) = match &self.adapters {
            Some(adapters) => adapters.gradients(grads, &model),
            None => (GradientsParams::new(), grads),
        };
        let norm = global_norm(&grads, &model);
        let norm = match &self.adapters {
            Some(adapters) => (norm.square() + adapters.norm(&of_factors, &model).square()).sqrt(),
            None => norm,
        };
        // The reference's `clip_grad_norm_`, with its 1e-6.
        let clips = |limit| {
            let share = (norm.clone() + 1e-6).recip().mul_scalar(limit);
            share.clamp_max(1.0)
        };
        self.factor.set(self.grad_clip_norm.map(clips));
        let mut model = self.inner.step(lr, model, grads);
        if let Some(adapters) = self.adapters.take() {
            let adapters = adapters.step(&mut self.inner, lr, of_factors);
            model = adapters.merge(model);
            self.adapters = Some(adapters);
        }
        self.factor.set(None);
        if model.logit_scale.is_require_grad() {
            model.logit_scale = model.logit_scale.map(|scale| {
                Tensor::from_inner(scale.inner().clamp(0.0, MAX_LOGIT_SCALE)).require_grad()
            });
        }
        (model, norm)
    }

    /// How many numbers are trained, and how many of them are those of adapters.
    pub fn num_trained(&self, model: &Clip) -> (usize, usize) {
        struct Count<'a> {
            adapters: Option<&'a Adapters>,
            trained: usize,
        }
        impl ModuleVisitor for Count<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let is_adapted = |adapters: &Adapters| adapters.ids().any(|(id, _)| id == param.id);
                if param.is_require_grad() && !self.adapters.is_some_and(is_adapted) {
                    self.trained += param.lazy_shape().num_elements();
                }
            }
        }
        let adapters = self.adapters.as_ref();
        let of_adapters = adapters.map_or(0, Adapters::num_params);
        let mut count = Count {
            adapters,
            trained: 0,
        };
        model.visit(&mut count);
        (count.trained + of_adapters, of_adapters)
    }

    /// A copy of the state on the host.
    pub fn state(&self) -> OptimizerState {
        OptimizerState {
            of: format!("{:x}", self.of),
            record: self.inner.to_record(),
            adapters: self.adapters.as_ref().map(Adapters::state),
        }
    }

    /// Takes up the state of an optimizer of the same kind for a model of the same parameters.
    ///
    /// # Errors
    /// [`TrainError::OptimizerState`] if it is another's, or not whole.
    pub fn with_state(self, state: OptimizerState) -> Result<Self, TrainError> {
        if state.of != format!("{:x}", self.of) {
            return Err(refused(
                "it belongs to another kind of optimizer, a model with other parameters, or adapters of other matrices \
                 (`lora`, `lock_image`, `lock_text`)",
            ));
        }
        let adapters = match (self.adapters, state.adapters) {
            (Some(adapters), Some(saved)) => Some(adapters.with_state(saved)?),
            (None, None) => None,
            _ => return Err(refused("its adapters are missing")),
        };
        let saved = state.record.len();
        let inner = self.inner.load_record(state.record);
        // Burn leaves out what it can't read, which would restart those moments at zero.
        if inner.to_record().len() != saved {
            return Err(refused("some parameters' state can't be read"));
        }
        Ok(Self {
            inner,
            adapters,
            grad_clip_norm: self.grad_clip_norm,
            factor: self.factor,
            of: self.of,
        })
    }
}

/// One rule for all parameters, each group with a learning rate of its own.
fn grouped<R: ScalingRule>(
    config: &OptimizerConfig,
    parameters: &Parameters,
    factor: &Factor,
    rule: impl Fn(bool) -> R,
) -> ModuleOptimizer {
    let grouped = |is_matrix, lr_scale| Grouped::new(rule(is_matrix), lr_scale, factor.clone());
    let mut optimizer = ModuleOptimizer::from(grouped(true, 1.0));
    for group in parameters.groups(config.layer_decay) {
        let rule = grouped(group.is_matrix, group.lr_scale);
        optimizer = optimizer.with_group(ParamGroup::from_ids(group.ids), rule, None);
    }
    optimizer
}
