use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::{load_weights, weights_bytes, write_atomically};
use crate::{Clip, ClipConfig, ImageNorm, ModelError};

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
    /// How pixels are normalised.
    pub norm: ImageNorm,
    /// The folder.
    pub path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct HubConfig {
    model_cfg: serde_json::Value,
    #[serde(default)]
    preprocess_cfg: PreprocessConfig,
}

#[derive(Serialize, Deserialize)]
#[serde(default)]
struct PreprocessConfig {
    #[serde(flatten)]
    norm: ImageNorm,
    interpolation: String,
    resize_mode: String,
}

impl Default for PreprocessConfig {
    fn default() -> Self {
        Self {
            norm: ImageNorm::default(),
            interpolation: "bicubic".to_owned(),
            resize_mode: "shortest".to_owned(),
        }
    }
}

impl ModelDir {
    /// Reads the configuration of a model directory.
    ///
    /// # Errors
    /// [`ModelError::Io`] if there is none, or what [`ClipConfig::from_json`] refuses.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let file = path.join(CONFIG_FILE);
        let origin = file.display().to_string();
        let json = std::fs::read_to_string(&file).map_err(ModelError::io("read", &file))?;
        let hub: HubConfig =
            serde_json::from_str(&json).map_err(|source| ModelError::ConfigSyntax {
                origin: origin.clone(),
                source,
            })?;
        let config = ClipConfig::from_json(&hub.model_cfg.to_string(), &origin)?;
        Ok(Self {
            config,
            norm: hub.preprocess_cfg.norm,
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
        norm: ImageNorm,
        model: &Clip,
    ) -> Result<(), ModelError> {
        std::fs::create_dir_all(path).map_err(ModelError::io("create", path))?;
        let config_file = path.join(CONFIG_FILE);
        let json = config_json(config, norm, &config_file)?;
        write_atomically(&path.join(WEIGHTS_FILE), &weights_bytes(model))?;
        write_atomically(&config_file, json.as_bytes())
    }
}

/// What [`CONFIG_FILE`] holds.
pub(super) fn config_json(
    config: &ClipConfig,
    norm: ImageNorm,
    origin: &Path,
) -> Result<String, ModelError> {
    let syntax = |source| ModelError::ConfigSyntax {
        origin: origin.display().to_string(),
        source,
    };
    let hub = HubConfig {
        model_cfg: serde_json::to_value(config).map_err(syntax)?,
        preprocess_cfg: PreprocessConfig {
            norm,
            ..PreprocessConfig::default()
        },
    };
    let mut json = serde_json::to_string_pretty(&hub).map_err(syntax)?;
    json.push('\n');
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        ModelDir::save(&path, &config, ImageNorm::default(), &model).unwrap();
        let opened = ModelDir::open(&path).unwrap();
        assert_eq!(opened.config, config);
        assert_eq!(opened.norm, ImageNorm::default());
        assert_eq!(
            weights_bytes(&opened.load(&device).unwrap()),
            weights_bytes(&model)
        );
    }

    #[test]
    fn a_folder_without_a_model_says_which_file_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let error = ModelDir::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(CONFIG_FILE), "{error}");
    }
}
