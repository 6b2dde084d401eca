use std::{path::Path, sync::Arc};

use burn::tensor::Device;
use clip_data::Tokenizer;
use clip_model::{
    ClipConfig, ModelError, Preprocess,
    presets::{self, CLIP_VOCAB_SIZE},
    published,
    weights::{CONFIG_FILE, ModelDir, TOKENIZER_FILE, WEIGHTS_FILE, without_local_dir},
};

use crate::{ClipEncoders, ZeroShotError};

/// Seed of a preset's random weights.
const PRESET_SEED: u64 = 0;

/// The model directory within a run's.
const RUN_MODEL: &str = "model";

impl ClipEncoders {
    /// Loads a model by name: a model directory in OpenCLIP's layout (with `local-dir:` before it or without), or a preset
    /// or a configuration file, which then gets random weights and CLIP's own vocabulary.
    ///
    /// A directory without `tokenizer.json` is one of CLIP's own vocabulary, as for OpenCLIP, if its
    /// `vocab_size` allows it.
    ///
    /// # Errors
    /// [`ZeroShotError::UnknownModel`], [`ZeroShotError::OnHub`], [`ZeroShotError::IncompleteModel`] naming the missing file, or what is
    /// wrong with one of the files.
    pub fn load(name: &str, device: &Device) -> Result<Self, ZeroShotError> {
        let name = without_local_dir(name);
        let path = Path::new(name);
        if path.is_dir() {
            Self::load_dir(path, device)
        } else {
            Self::init_random(name, device)
        }
    }

    fn load_dir(path: &Path, device: &Device) -> Result<Self, ZeroShotError> {
        let missing = |file, remedy| ZeroShotError::IncompleteModel {
            path: path.to_owned(),
            file,
            remedy,
        };
        let own = path.join(RUN_MODEL);
        let has = |file: &str| path.join(file).is_file();
        if !has(CONFIG_FILE) {
            let remedy = if own.join(CONFIG_FILE).is_file() {
                format!(
                    "it is a run's, whose model is {}; earlier ones are its checkpoints, {}",
                    own.display(),
                    path.join("checkpoints/step-N").display()
                )
            } else {
                "give the `model` of a run of `clip pretrain`, one of its `checkpoints/step-N`, or a directory in OpenCLIP's \
                 layout"
                    .to_owned()
            };
            return Err(missing(CONFIG_FILE, remedy));
        }
        if !has(WEIGHTS_FILE) {
            let remedy = "copy the weights there, in OpenCLIP's parameter names";
            return Err(missing(WEIGHTS_FILE, remedy.to_owned()));
        }
        let dir = ModelDir::open(path)?;
        let text = &dir.config.text_cfg;
        let kwargs = text.tokenizer_kwargs.as_ref();
        let found = Tokenizer::of_weights(path, kwargs, text.may_be_clips_vocabulary())?;
        let tokenizer = found.ok_or_else(|| {
            let remedy = "copy there the tokenizer that the model was trained with";
            missing(TOKENIZER_FILE, remedy.to_owned())
        })?;
        let model = dir.load(&device.clone().without_autodiff())?;
        let origin = path.display().to_string();
        Self::named(
            &origin,
            dir.config,
            &model,
            Arc::new(tokenizer),
            dir.preprocess,
        )
    }

    fn init_random(name: &str, device: &Device) -> Result<Self, ZeroShotError> {
        let config = ClipConfig::load(name).map_err(|error| match error {
            ModelError::UnknownPreset { name, nearest } => match published::hub_name(&name) {
                Some(import) => ZeroShotError::OnHub { name, import },
                None => ZeroShotError::UnknownModel { name, nearest },
            },
            error => error.into(),
        })?;
        if let Some(encoder) = &config.text_cfg.hf_model_name {
            return Err(ZeroShotError::OwnTokenizer {
                name: name.to_owned(),
                encoder: encoder.clone(),
            });
        }
        if config.text_cfg.vocab_size != CLIP_VOCAB_SIZE {
            return Err(ZeroShotError::NoVocabulary {
                name: name.to_owned(),
                vocab_size: config.text_cfg.vocab_size,
            });
        }
        let what = if presets::json(name).is_some() {
            "preset"
        } else {
            "configuration"
        };
        log::warn!("{what} {name}: the weights are random, so results are chance");
        let model = config.init(PRESET_SEED, &device.clone().without_autodiff());
        let (tokenizer, preprocess) = (Arc::new(Tokenizer::clip()), Preprocess::default());
        Self::named(name, config, &model, tokenizer, preprocess)
    }

    /// Writes a model directory that [`load`](Self::load) and OpenCLIP read, each file whole or not at all.
    ///
    /// # Errors
    /// [`ZeroShotError::Model`] or [`ZeroShotError::Data`] when the folder can't be written.
    pub fn save(&self, path: &Path) -> Result<(), ZeroShotError> {
        let mut config = self.config.clone();
        let mut keys = self.tokenizer.open_clip_text_cfg();
        let name = keys.get("hf_tokenizer_name").and_then(|name| name.as_str());
        config.text_cfg.hf_tokenizer_name = name.map(str::to_owned);
        config.text_cfg.tokenizer_kwargs = keys.remove("tokenizer_kwargs");
        ModelDir::save(path, &config, self.preprocess, &self.model)?;
        Ok(self.tokenizer.save_dir(path)?)
    }
}
