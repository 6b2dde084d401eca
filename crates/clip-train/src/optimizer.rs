use burn::{
    module::{Module, ModuleVisitor, Param, ParamGroup, ParamId},
    optim::{AdamWConfig, GradientsParams, ModuleOptimizer, OptimizerRecord},
    tensor::{Bytes, Tensor},
};
use clip_model::{Clip, MAX_LOGIT_SCALE};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    TrainError,
    step::{global_norm, scaled},
};

/// AdamW's constants.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// Decay of the first moment. 0.9: CLIP, table 18.
    pub beta_1: f32,
    /// Decay of the second moment. 0.98 for vision transformers: CLIP, table 18.
    pub beta_2: f32,
    /// Added to the root of the second moment. 1e-6 for vision transformers: CLIP, table 18.
    pub epsilon: f32,
    /// Decoupled weight decay of matrices. 0.2: CLIP, table 18.
    pub weight_decay: f32,
    /// Largest norm of all gradients together; none by default, as in the reference.
    pub grad_clip_norm: Option<f64>,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            beta_1: 0.9,
            beta_2: 0.98,
            epsilon: 1e-6,
            weight_decay: 0.2,
            grad_clip_norm: None,
        }
    }
}

/// AdamW as CLIP uses it: no decay of gains, biases and `logit_scale`, which stays within `[0, ln 100]`.
#[derive(Clone)]
pub struct Optimizer {
    inner: ModuleOptimizer,
    grad_clip_norm: Option<f64>,
    /// Of the parameters' order and shapes: saved state is theirs alone.
    shapes: [u8; 32],
}

impl Optimizer {
    /// Fresh state for `model`.
    pub fn new(config: &OptimizerConfig, model: &Clip) -> Self {
        let adamw = AdamWConfig::new()
            .with_beta_1(config.beta_1)
            .with_beta_2(config.beta_2)
            .with_epsilon(config.epsilon);
        let mut parameters = Parameters::default();
        model.visit(&mut parameters);
        let inner = adamw
            .clone()
            .with_weight_decay(config.weight_decay)
            .init()
            .with_group(
                ParamGroup::from_ids(parameters.vectors),
                adamw.with_weight_decay(0.0).build(),
                None,
            );
        Self {
            inner,
            grad_clip_norm: config.grad_clip_norm,
            shapes: parameters.shapes.finalize().into(),
        }
    }

    /// Applies the gradients at learning rate `lr`; returns the model and the Euclidean norm that all
    /// gradients had together before clipping. Waits for the device.
    pub fn step(&mut self, lr: f64, model: Clip, grads: GradientsParams) -> (Clip, f64) {
        let norm = global_norm(&grads, &model);
        let grads = match self.grad_clip_norm {
            // The reference's `clip_grad_norm_` adds the same 1e-6.
            Some(limit) if norm > limit => scaled(grads, &model, limit / (norm + 1e-6)),
            _ => grads,
        };
        let mut model = self.inner.step(lr, model, grads);
        model.logit_scale = model.logit_scale.map(|scale| {
            Tensor::from_inner(scale.inner().clamp(0.0, MAX_LOGIT_SCALE)).require_grad()
        });
        (model, norm)
    }

    /// The state as bytes: a digest of the parameters' shapes, then Burn's record.
    ///
    /// # Errors
    /// [`TrainError::OptimizerState`] if Burn can't write its record.
    pub fn to_bytes(&self) -> Result<Vec<u8>, TrainError> {
        let record = self
            .inner
            .into_bytes()
            .map_err(|error| state(error.to_string()))?;
        Ok([&self.shapes[..], &record[..]].concat())
    }

    /// Takes up a state that [`to_bytes`](Self::to_bytes) made for a model of the same parameters.
    ///
    /// # Errors
    /// [`TrainError::OptimizerState`] if the bytes are no such state, are cut off, or are another model's.
    pub fn load_bytes(self, bytes: &[u8]) -> Result<Self, TrainError> {
        let (shapes, record) = bytes
            .split_at_checked(self.shapes.len())
            .ok_or_else(|| state("it is too short".to_owned()))?;
        if shapes != self.shapes {
            return Err(state(
                "it belongs to a model with other parameters".to_owned(),
            ));
        }
        let record = OptimizerRecord::from_bytes(Bytes::from_bytes_vec(record.to_vec()))
            .map_err(|error| state(error.to_string()))?;
        let saved = record.len();
        let inner = self.inner.load_record(record);
        // Burn leaves out what it can't read, which would restart those moments at zero.
        if inner.to_record().len() != saved {
            return Err(state("some parameters' state can't be read".to_owned()));
        }
        Ok(Self { inner, ..self })
    }
}

fn state(reason: String) -> TrainError {
    TrainError::OptimizerState { reason }
}

/// The parameters that are no matrices (gains, biases, the class embedding, `logit_scale`), and a digest of all shapes.
#[derive(Default)]
struct Parameters {
    vectors: Vec<ParamId>,
    shapes: Sha256,
}

impl ModuleVisitor for Parameters {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if D < 2 {
            self.vectors.push(param.id);
        }
        self.shapes.update(param.id.val().to_le_bytes());
        self.shapes.update((D as u64).to_le_bytes());
        for length in param.lazy_shape().to_vec() {
            self.shapes.update((length as u64).to_le_bytes());
        }
    }
}
