//! What a run is: one TOML file, written into the run's directory with every default resolved.

mod changes;
mod layers;

use clip_data::{Augment, LoaderConfig, RandomResizedCrop};
use clip_model::ClipConfig;
use serde::{Deserialize, Serialize};

pub use changes::Changes;
pub use layers::ConfigLayers;

use crate::{CosineSchedule, OptimizerConfig, TrainError};

/// A training run. Every key may be left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// A preset's name, or the path of a JSON file with `OpenCLIP`'s keys. ViT-Mini-16-96: learns from thousands of
    /// photographs in half an hour on a laptop's CPU.
    pub preset: String,
    /// Decides initial weights, order, crops and captions. 0, as `OpenCLIP`'s.
    pub seed: u64,
    /// Pairs of a batch: each image is compared with so many captions. 256: the largest that trains small models on a
    /// CPU in 3 GiB.
    pub batch: usize,
    /// Pairs encoded at once; 0: the whole batch. Smaller ones need less memory and encode each pair twice; they
    /// change the result by rounding only.
    pub chunk: usize,
    /// Parts of a batch that are encoded at the same time, each on a thread; 0: one a core on a CPU, one on a GPU. The
    /// number that a run began with stays, so that it can be resumed bit by bit elsewhere.
    pub threads: usize,
    /// Groups of captions of similar length that a part's captions are encoded in; 0: 4 on a CPU, where padding costs
    /// more than operations, 1 on a GPU.
    pub text_buckets: usize,
    /// Passes over the training data. 32: CLIP, table 18.
    pub epochs: f64,
    /// Optimizer steps, instead of `epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// The highest learning rate. 5e-4: CLIP, table 20, for its smaller models.
    pub lr: f64,
    /// Steps of linear warm-up; without it, a tenth of the run and at most 2,000 (CLIP, table 18).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
    /// AdamW.
    pub optimizer: OptimizerConfig,
    /// Where pairs come from.
    pub data: DataConfig,
    /// When the model is tried on the validation data.
    pub eval: EvalConfig,
    /// When the run's state is saved.
    pub checkpoint: CheckpointConfig,
}

/// Where pairs come from, and how they are read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Shards to train on. Empty: a self-made dataset of coloured shapes.
    pub train: String,
    /// Shards to evaluate retrieval on. Empty: no evaluation.
    pub val: String,
    /// Labelled shards to classify by name, each under the name that its results get.
    pub zeroshot: Vec<LabelledSet>,
    /// Samples among which the next is drawn. 2,000: two shards of the usual size mix, in some 100 MB of photographs.
    pub shuffle_buffer: usize,
    /// Encoded bytes that the shuffle buffer may hold. The order doesn't depend on it.
    pub shuffle_bytes: usize,
    /// Threads that decode. 0: one a core.
    pub workers: usize,
    /// Batches ready before they are asked for.
    pub prefetch: usize,
    /// Share of bad samples above which the run stops. 0.1: web crawls lose a few per cent, broken shards more.
    pub max_bad_share: f64,
    /// Share of an image's area that training sees. 0.9 to 1, as in `OpenCLIP`.
    pub crop_scale: (f32, f32),
    /// Draws as many shards an epoch with replacement, by their weights. No: each is seen as often.
    pub with_replacement: bool,
    /// Seconds after which a source that gives nothing ends the run.
    pub stall_seconds: u64,
    /// Colour jitter, grey and mirrored images. None: the paper's only augmentation is the crop.
    pub augment: Augment,
}

/// Labelled shards, and the names of their classes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LabelledSet {
    /// What its results are called: `seen` gives `top1_seen`.
    pub name: String,
    /// The shards.
    pub shards: String,
    /// A file with the name of each class.
    pub classes: std::path::PathBuf,
    /// A file with prompt templates.
    pub templates: std::path::PathBuf,
}

/// When the model is tried on the validation data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// Steps from one evaluation to the next. 0: a tenth of the run. The last step is always evaluated.
    pub steps: u64,
    /// Images or texts encoded at once. 256.
    pub batch: usize,
}

/// When the run's state is saved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Steps from one checkpoint to the next. 0: a tenth of the run and at most 1,000. The last step is always saved.
    pub steps: u64,
    /// Newest checkpoints kept. 2: the second is there when the newest turns out damaged.
    pub keep: usize,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            preset: "ViT-Mini-16-96".to_owned(),
            seed: 0,
            batch: 256,
            chunk: 0,
            threads: 0,
            text_buckets: 0,
            epochs: 32.0,
            steps: None,
            lr: 5e-4,
            warmup_steps: None,
            optimizer: OptimizerConfig::default(),
            data: DataConfig::default(),
            eval: EvalConfig::default(),
            checkpoint: CheckpointConfig::default(),
        }
    }
}

impl Default for DataConfig {
    fn default() -> Self {
        let loader = LoaderConfig::default();
        Self {
            train: String::new(),
            val: String::new(),
            zeroshot: Vec::new(),
            shuffle_buffer: loader.shuffle_buffer,
            shuffle_bytes: loader.shuffle_bytes,
            workers: loader.workers,
            prefetch: loader.prefetch,
            max_bad_share: loader.max_bad_share,
            crop_scale: RandomResizedCrop::default().scale,
        }
    }
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self {
            steps: 0,
            batch: 256,
        }
    }
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { steps: 0, keep: 2 }
    }
}

impl RunConfig {
    /// Checks that every number is in range.
    ///
    /// # Errors
    /// [`TrainError::Config`] with the first key that isn't.
    pub fn validate(&self) -> Result<(), TrainError> {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let share = |value: f32| (0.0..1.0).contains(&value);
        let optimizer = &self.optimizer;
        let checks = [
            ("batch", self.batch > 1, "needs at least 2 pairs to compare"),
            ("epochs", positive(self.epochs), "must be above 0"),
            ("steps", self.steps != Some(0), "must be above 0"),
            ("lr", positive(self.lr), "must be above 0"),
            ("eval.batch", self.eval.batch > 0, "must be at least 1"),
            (
                "checkpoint.keep",
                self.checkpoint.keep > 0,
                "must be at least 1",
            ),
            (
                "optimizer.beta_1",
                share(optimizer.beta_1),
                "must be in [0, 1)",
            ),
            (
                "optimizer.beta_2",
                share(optimizer.beta_2),
                "must be in [0, 1)",
            ),
            (
                "optimizer.epsilon",
                positive(f64::from(optimizer.epsilon)),
                "must be above 0",
            ),
            (
                "optimizer.weight_decay",
                optimizer.weight_decay.is_finite() && optimizer.weight_decay >= 0.0,
                "must not be negative",
            ),
            (
                "optimizer.grad_clip_norm",
                optimizer.grad_clip_norm.is_none_or(positive),
                "must be above 0",
            ),
        ];
        match checks.into_iter().find(|(_, good, _)| !good) {
            Some((key, _, reason)) => Err(TrainError::Config {
                origin: "the configuration".to_owned(),
                reason: format!("`{key}` {reason}"),
            }),
            None => Ok(()),
        }
    }

    /// Optimizer steps of the whole run over `samples` samples an epoch.
    pub fn total_steps(&self, samples: u64) -> u64 {
        let by_epochs = (self.epochs * samples as f64 / self.batch as f64).floor();
        self.steps.unwrap_or(by_epochs as u64).max(1)
    }

    /// The learning rate over a run of `total_steps`.
    pub fn schedule(&self, total_steps: u64) -> CosineSchedule {
        CosineSchedule {
            lr: self.lr,
            warmup_steps: self.warmup_steps.unwrap_or((total_steps / 10).min(2_000)),
            total_steps,
        }
    }

    /// Steps from one evaluation to the next.
    pub fn eval_every(&self, total_steps: u64) -> u64 {
        match self.eval.steps {
            0 => total_steps.div_ceil(10),
            steps => steps,
        }
    }

    /// Steps from one checkpoint to the next.
    pub fn checkpoint_every(&self, total_steps: u64) -> u64 {
        match self.checkpoint.steps {
            0 => total_steps.div_ceil(10).min(1_000),
            steps => steps,
        }
    }

    /// How the training shards become batches for `model`.
    pub fn loader(&self, model: &ClipConfig) -> LoaderConfig {
        LoaderConfig {
            batch: self.batch,
            image_size: model.vision_cfg.image_size,
            context_length: model.text_cfg.context_length,
            seed: self.seed,
            shuffle_buffer: self.data.shuffle_buffer,
            shuffle_bytes: self.data.shuffle_bytes,
            workers: self.data.workers,
            prefetch: self.data.prefetch,
            max_bad_share: self.data.max_bad_share,
            crop_scale: self.data.crop_scale,
            with_replacement: self.data.with_replacement,
            stall_seconds: self.data.stall_seconds,
            augment: self.data.augment,
            ..LoaderConfig::default()
        }
    }

    /// How evaluation shards become batches for `model`.
    pub fn eval_loader(&self, model: &ClipConfig) -> LoaderConfig {
        LoaderConfig {
            batch: self.eval.batch,
            ..self.loader(model)
        }
    }

    /// The file that [`ConfigLayers::file`] reads back.
    ///
    /// # Errors
    /// [`TrainError::Config`] if a value has no TOML form, such as a number that isn't finite.
    pub fn to_toml(&self) -> Result<String, TrainError> {
        toml::to_string_pretty(self).map_err(|error| TrainError::Config {
            origin: "the configuration".to_owned(),
            reason: error.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_as_long_as_its_epochs() {
        let config = RunConfig {
            epochs: 20.0,
            ..RunConfig::default()
        };
        assert_eq!(config.total_steps(6_000), 468);
        assert_eq!(config.schedule(468).warmup_steps, 46);
        assert_eq!(config.eval_every(468), 47);
        let steps = RunConfig {
            steps: Some(7),
            ..config
        };
        assert_eq!(steps.total_steps(6_000), 7);
        assert_eq!(steps.checkpoint_every(100_000), 1_000);
    }

    #[test]
    fn a_number_out_of_range_is_named() {
        RunConfig::default().validate().unwrap();
        let mut config = RunConfig::default();
        config.optimizer.beta_2 = 1.0;
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains("`optimizer.beta_2`"), "{error}");
    }
}
