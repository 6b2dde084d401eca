use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::{HostWeights, load_weights};
use crate::{Clip, ClipConfig, Interpolation, ModelError, Preprocess, ResizeMode};

/// Architecture and preprocessing, in OpenCLIP's hub layout.
pub const CONFIG_FILE: &str = "open_clip_config.json";
/// Weights, in OpenCLIP's parameter names.
pub const WEIGHTS_FILE: &str = "open_clip_model.safetensors";
/// The tokenizer, in Hugging Face's format.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// A model directory: what OpenCLIP loads as `local-dir:DIR`, except for the tokenizer's files.
#[derive(Debug)]
pub struct ModelDir {
    /// The architecture.
    pub config: ClipConfig,
    /// How images are resized and normalised.
    pub preprocess: Preprocess,
    /// The folder.
    pub path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct HubConfig<P> {
    model_cfg: serde_json::Value,
    #[serde(default)]
    preprocess_cfg: P,
}

/// What a file says of [`Preprocess`], which may be little.
#[derive(Default, Deserialize)]
#[serde(default)]
struct PartOfPreprocess {
    mean: Option<[f32; 3]>,
    std: Option<[f32; 3]>,
    interpolation: Option<Interpolation>,
    resize_mode: Option<ResizeMode>,
}

impl PartOfPreprocess {
    fn or(self, other: Preprocess) -> Preprocess {
        Preprocess {
            mean: self.mean.unwrap_or(other.mean),
            std: self.std.unwrap_or(other.std),
            interpolation: self.interpolation.unwrap_or(other.interpolation),
            resize_mode: self.resize_mode.unwrap_or(other.resize_mode),
        }
    }
}

impl ModelDir {
    /// Reads the configuration of a model directory.
    ///
    /// # Errors
    /// [`ModelError::Io`] if there is none, or what [`ClipConfig::from_json`] refuses.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        Self::open_with(path, Preprocess::default())
    }

    /// Opens a directory with the preprocessing that is meant where its file is silent.
    pub(super) fn open_with(path: &Path, preprocess: Preprocess) -> Result<Self, ModelError> {
        let file = path.join(CONFIG_FILE);
        let origin = file.display().to_string();
        let json = std::fs::read_to_string(&file).map_err(clip_files::io("read", &file))?;
        let hub: HubConfig<PartOfPreprocess> =
            serde_json::from_str(&json).map_err(|source| ModelError::ConfigSyntax {
                origin: origin.clone(),
                source,
            })?;
        let config = ClipConfig::from_json(&hub.model_cfg.to_string(), &origin)?;
        Ok(Self {
            config,
            preprocess: hub.preprocess_cfg.or(preprocess),
            path: path.to_owned(),
        })
    }

    /// The model with its weights, on `device`.
    ///
    /// # Errors
    /// See [`load_weights`].
    pub fn load(&self, device: &Device) -> Result<Clip, ModelError> {
        load_weights(
            self.config.init_blank(device),
            &self.path.join(WEIGHTS_FILE),
        )
    }

    /// Writes configuration and weights, each file whole or not at all, and makes the folder if needed.
    ///
    /// # Errors
    /// [`ModelError::Io`].
    pub fn save(
        path: &Path,
        config: &ClipConfig,
        preprocess: Preprocess,
        model: &Clip,
    ) -> Result<(), ModelError> {
        std::fs::create_dir_all(path).map_err(clip_files::io("create", path))?;
        let config_file = path.join(CONFIG_FILE);
        let json = config_json(config, preprocess, &config_file)?;
        let weights = HostWeights::of(model);
        clip_files::replace_with(&path.join(WEIGHTS_FILE), |path| weights.write(path))?;
        Ok(clip_files::replace(&config_file, json.as_bytes())?)
    }
}

/// What [`CONFIG_FILE`] holds.
pub(super) fn config_json(
    config: &ClipConfig,
    preprocess: Preprocess,
    origin: &Path,
) -> Result<String, ModelError> {
    let syntax = |source| ModelError::ConfigSyntax {
        origin: origin.display().to_string(),
        source,
    };
    let hub = HubConfig {
        model_cfg: serde_json::to_value(config).map_err(syntax)?,
        preprocess_cfg: preprocess,
    };
    let mut json = serde_json::to_string_pretty(&hub).map_err(syntax)?;
    json.push('\n');
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::weights_bytes;

    #[test]
    fn a_directory_gives_back_what_was_saved() {
        let json = r#"{"embed_dim": 16, "vision_cfg": {"image_size": 16, "layers": 1, "width": 32,
            "head_width": 16, "patch_size": 8}, "text_cfg": {"context_length": 12,
            "vocab_size": 50, "width": 8, "heads": 2, "layers": 1}, "quick_gelu": true}"#;
        let config = ClipConfig::from_json(json, "test").unwrap();
        let device = Device::flex();
        let model = config.init(5, &device);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/model");
        let preprocess = Preprocess {
            mean: [0.5; 3],
            resize_mode: ResizeMode::Squash,
            interpolation: Interpolation::Bilinear,
            ..Preprocess::default()
        };
        ModelDir::save(&path, &config, preprocess, &model).unwrap();
        let opened = ModelDir::open(&path).unwrap();
        assert_eq!(opened.config, config);
        assert_eq!(opened.preprocess, preprocess);
        assert_eq!(
            weights_bytes(&opened.load(&device).unwrap()),
            weights_bytes(&model)
        );
    }

    #[test]
    fn preprocessing_that_is_not_implemented_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let config = crate::presets::json("ViT-Nano-6-36").unwrap();
        let open = |preprocess: &str| {
            let json = format!(r#"{{"model_cfg": {config}, "preprocess_cfg": {preprocess}}}"#);
            std::fs::write(dir.path().join(CONFIG_FILE), json).unwrap();
            ModelDir::open(dir.path()).map(|dir| dir.preprocess)
        };
        // As little as OpenCLIP needs, keys of its own, and nothing under a key.
        let default = Preprocess::default();
        assert_eq!(open("{}").unwrap(), default);
        assert_eq!(open(r#"{"interpolation": null}"#).unwrap(), default);
        let random = r#"{"interpolation": "random", "fill_color": 0, "mode": "RGB"}"#;
        assert_eq!(open(random).unwrap(), default);
        let error = open(r#"{"resize_mode": "longest"}"#).unwrap_err();
        let error = clip_files::one_line(&error);
        assert!(
            error.contains(CONFIG_FILE) && error.contains("unknown variant `longest`"),
            "{error}"
        );
    }

    /// OpenCLIP's `merge_preprocess_dict`.
    #[test]
    fn what_a_file_leaves_out_is_its_tags() {
        let dir = tempfile::tempdir().unwrap();
        let config = crate::presets::json("ViT-Nano-6-36").unwrap();
        let json =
            format!(r#"{{"model_cfg": {config}, "preprocess_cfg": {{"mean": [0.5, 0.5, 0.5]}}}}"#);
        std::fs::write(dir.path().join(CONFIG_FILE), json).unwrap();
        let of_tag = Preprocess {
            mean: [0.1; 3],
            std: [0.2; 3],
            interpolation: Interpolation::Bilinear,
            resize_mode: ResizeMode::Squash,
        };
        let opened = ModelDir::open_with(dir.path(), of_tag).unwrap();
        let want = Preprocess {
            mean: [0.5; 3],
            ..of_tag
        };
        assert_eq!(opened.preprocess, want);
    }

    #[test]
    fn a_folder_without_a_model_says_which_file_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let error = ModelDir::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(CONFIG_FILE), "{error}");
    }

    #[test]
    fn a_directory_may_be_named_as_for_open_clip() {
        let dir = tempfile::tempdir().unwrap();
        let preset = crate::presets::json("ViT-Nano-6-36").unwrap();
        let json = format!(r#"{{"model_cfg": {preset}}}"#);
        std::fs::write(dir.path().join(CONFIG_FILE), json).unwrap();
        let name = format!("local-dir:{}", dir.path().display());
        let expected = ClipConfig::load("ViT-Nano-6-36").unwrap();
        assert_eq!(ClipConfig::load(&name).unwrap(), expected);
    }
}
