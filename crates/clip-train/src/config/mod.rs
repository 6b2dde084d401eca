//! What a run is: one TOML file, written into the run's directory with every default resolved.

mod changes;
mod intervals;
mod layers;
mod memory;
mod objective;
mod preprocess;
mod validate;

use burn::tensor::Device;
use clip_data::{Augment, LoaderConfig, RandomResizedCrop};
use clip_model::{Clip, ClipConfig, Layers, Precision, Preprocess};
use serde::{Deserialize, Serialize};

pub use changes::Changes;
pub(crate) use changes::differences;
pub use intervals::{CheckpointConfig, EvalConfig};
pub use layers::ConfigLayers;
pub use memory::MemoryLimit;
pub use objective::{Duplicates, Loss};

use crate::{CocaWeights, Decay, LoraConfig, OptimizerConfig, Schedule, TrainError};

/// A training run. Every key may be left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// A preset's name, or the path of a JSON file with `OpenCLIP`'s keys. ViT-Mini-16-96: learns from thousands of
    /// photographs in half an hour on a laptop's CPU.
    pub preset: String,
    /// Weights to begin with instead of random ones: a model directory or a file of weights, which fit the preset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
    /// A model whose similarities are to be learned beside what captions say, as `OpenCLIP`'s `--distill-model`: a model
    /// directory or a file of weights, of the preset's image size and of its own vocabulary. Batches of any size, for
    /// chunks don't change it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distill: Option<String>,
    /// Decides initial weights, order, crops and captions. 0, as `OpenCLIP`'s.
    pub seed: u64,
    /// Pairs of a batch: each image is compared with so many captions. 256: the largest that trains small models on a
    /// CPU in 3 GiB.
    pub batch: usize,
    /// Pairs encoded at once by a thread; 0: as many as memory is predicted to hold. Smaller ones need less memory and
    /// encode each pair twice; they change the result by rounding only. The number that a run began with stays.
    pub chunk: usize,
    /// Bytes that a step may take where the chunk is chosen by memory, such as "8GiB"; without it, what a machine has
    /// free, and the whole batch on a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryLimit>,
    /// Parts of a batch that are encoded at the same time, each on a thread; 0: one a core on a CPU, one on a GPU, one
    /// for each of several devices. The number that a run began with stays, so that it can be resumed bit by bit
    /// elsewhere; more devices than it raise it.
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
    /// The loss. `siglip` also starts the temperature at ln 10 and gives the model a bias of -10, as `OpenCLIP`.
    pub loss: Loss,
    /// What the contrastive loss of a CoCa model is multiplied by. 1: `OpenCLIP`'s.
    pub coca_contrastive_loss_weight: f64,
    /// What the loss of a CoCa model's decoder, a mean over a batch's tokens, is multiplied by, beside the contrastive one.
    /// 2: `OpenCLIP`'s.
    pub coca_caption_loss_weight: f64,
    /// What equal captions and equal images of a batch are to each other. `negatives`, as in `OpenCLIP`.
    pub duplicates: Duplicates,
    /// Share of each image's patches that are left out in training, instead of the preset's. 0.5 halves the image
    /// tower's work (Li et al. 2022); a little training without it at the end makes up
    /// for part of what it costs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch_dropout: Option<f64>,
    /// What encoders compute in; weights, loss and optimizer are f32 whatever it is.
    pub precision: Precision,
    /// Keeps the inputs of transformer blocks instead of all that happens in them, and computes each block again in the
    /// backward pass: less memory for a third more work.
    pub grad_checkpointing: bool,
    /// Leaves the image encoder as it is, but for its last groups of layers.
    pub lock_image: bool,
    /// Groups of layers that `lock_image` leaves to training, from the end: the projection, the last block, ...
    pub lock_image_unlocked_groups: usize,
    /// Leaves the text encoder as it is, but for its last groups of layers.
    pub lock_text: bool,
    /// Groups of layers that `lock_text` leaves to training, from the end: the projection, the last block, ...
    pub lock_text_unlocked_layers: usize,
    /// A second set of weights, the average of those of all steps, evaluated and saved beside them: how much of the
    /// average a step keeps, such as 0.9999. None by default: the paper has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// How the learning rate goes on after the warm-up. `{ kind = "cosine" }`: CLIP, section 2.5.
    pub schedule: Decay,
    /// What turns gradients into steps.
    pub optimizer: OptimizerConfig,
    /// Trains low-rank adapters instead of the weights, for fine-tuning. None by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// How images are resized in evaluation, and normalised; as for `init`, or OpenAI's.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "preprocess::deserialize"
    )]
    pub preprocess: Option<Preprocess>,
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
    /// Whether two classes may have one name, as in ImageNet's published lists. No.
    pub allow_duplicates: bool,
    /// A file with prompt templates.
    pub templates: std::path::PathBuf,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            preset: "ViT-Mini-16-96".to_owned(),
            init: None,
            distill: None,
            seed: 0,
            batch: 256,
            chunk: 0,
            memory: None,
            threads: 0,
            text_buckets: 0,
            epochs: 32.0,
            steps: None,
            lr: 5e-4,
            warmup_steps: None,
            schedule: Decay::default(),
            loss: Loss::default(),
            coca_contrastive_loss_weight: CocaWeights::default().contrastive,
            coca_caption_loss_weight: CocaWeights::default().caption,
            duplicates: Duplicates::default(),
            patch_dropout: None,
            precision: Precision::default(),
            grad_checkpointing: false,
            lock_image: false,
            lock_image_unlocked_groups: 0,
            lock_text: false,
            lock_text_unlocked_layers: 0,
            optimizer: OptimizerConfig::default(),
            lora: None,
            preprocess: None,
            ema: None,
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
            with_replacement: loader.with_replacement,
            stall_seconds: loader.stall_seconds,
            augment: loader.augment,
        }
    }
}

impl RunConfig {
    /// The architecture: the preset's, with what this run changes in it.
    ///
    /// # Errors
    /// Those of [`ClipConfig::load`], and [`TrainError::Config`] where a setting doesn't fit the preset.
    pub fn model(&self) -> Result<ClipConfig, TrainError> {
        self.model_of(ClipConfig::load(&self.preset)?)
    }

    /// As [`model`](Self::model), of a preset that was loaded already.
    ///
    /// # Errors
    /// [`TrainError::Config`] where a setting doesn't fit the preset.
    pub fn model_of(&self, mut model: ClipConfig) -> Result<ClipConfig, TrainError> {
        if let Some(share) = self.patch_dropout {
            model.vision_cfg.patch_dropout = share;
        }
        self.loss.prepare(&mut model);
        model.validate("the model with the run's settings")?;
        let refuse = |reason: &str| TrainError::Config {
            origin: "the configuration".to_owned(),
            reason: reason.to_owned(),
        };
        if model.multimodal_cfg.is_some() {
            if self.loss != Loss::InfoNce {
                return Err(refuse(
                    "`loss` must be \"infonce\" for a CoCa model, beside whose decoder OpenCLIP takes no other",
                ));
            }
            if self.distill.is_some() {
                return Err(refuse(
                    "`distill` is for models without a decoder: OpenCLIP gives a CoCa model no teacher either",
                ));
            }
        }
        if self.lock_image
            && self.lock_image_unlocked_groups > 0
            && matches!(model.vision_cfg.layers, Layers::Stages(_))
        {
            return Err(refuse(
                "`lock_image_unlocked_groups` must be 0: a residual network is locked whole",
            ));
        }
        Ok(model)
    }

    /// The model with the layers locked that this run doesn't train.
    ///
    /// # Errors
    /// Those of [`LoraConfig::lock`].
    pub fn lock(&self, mut model: Clip) -> Result<Clip, TrainError> {
        if self.lock_image {
            model.visual = model.visual.lock(self.lock_image_unlocked_groups);
        }
        if self.lock_text {
            model.text = model.text.lock(self.lock_text_unlocked_layers);
        }
        match &self.lora {
            Some(lora) => lora.lock(model, [self.lock_image, self.lock_text]),
            None => Ok(model),
        }
    }

    /// Checks that `model` has what `lora` adapts, by a model of zeros on `device`, which is without autodiff.
    ///
    /// # Errors
    /// Those of [`LoraConfig::lock`].
    pub fn validate_adapters(&self, model: &ClipConfig, device: &Device) -> Result<(), TrainError> {
        if self.lora.is_some() {
            let device = device.clone().autodiff();
            self.lock(model.init_blank(&device))?;
        }
        Ok(())
    }

    /// How the losses of a CoCa model are added up.
    pub fn coca_weights(&self) -> CocaWeights {
        CocaWeights {
            contrastive: self.coca_contrastive_loss_weight,
            caption: self.coca_caption_loss_weight,
        }
    }

    /// Optimizer steps of the whole run over `samples` samples an epoch.
    pub fn total_steps(&self, samples: u64) -> u64 {
        let by_epochs = (self.epochs * samples as f64 / self.batch as f64).floor();
        self.steps.unwrap_or(by_epochs as u64).max(1)
    }

    /// The learning rate over a run of `total_steps`.
    pub fn schedule(&self, total_steps: u64) -> Schedule {
        Schedule {
            lr: self.lr,
            warmup_steps: self.warmup_steps.unwrap_or((total_steps / 10).min(2_000)),
            total_steps,
            decay: self.schedule,
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
        assert_eq!(config.eval_every(6_000), 47);
        let steps = RunConfig {
            steps: Some(7),
            ..config
        };
        assert_eq!(steps.total_steps(6_000), 7);
        let long = RunConfig {
            steps: Some(100_000),
            ..steps
        };
        assert_eq!(long.checkpoint_every(6_000), 1_000);
    }

    #[test]
    fn a_run_changes_its_presets_architecture() {
        let mut config = RunConfig::default();
        let preset = ClipConfig::load(&config.preset).unwrap();
        assert_eq!(config.model().unwrap(), preset);
        config.loss = Loss::SigLip;
        config.patch_dropout = Some(0.5);
        let model = config.model().unwrap();
        assert_eq!(model.init_logit_bias, Some(-10.0));
        assert_eq!(model.init_logit_scale, Some(10_f64.ln()));
        assert!((model.vision_cfg.patch_dropout - 0.5).abs() < 1e-12);
        assert_eq!(model.num_params(), preset.num_params() + 1);
    }
}
