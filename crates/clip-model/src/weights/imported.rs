use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use burn::tensor::Device;
use serde_json::Value;

use super::{
    CONFIG_FILE, FileKind, ModelDir, WEIGHTS_FILE, WeightsFile, architecture,
    directory::config_json,
    fit,
    hugging_face::{self, TextTokens},
    load,
    locate::{HF_CONFIG_FILE, HF_PREPROCESSOR_FILE, HF_WEIGHTS_FILE},
    parameter_shapes,
    safetensors::transpose,
    state_dict::{FloatType, HostTensor, StateDict, write_state},
};
use crate::{Clip, ClipConfig, ModelError, Preprocess};

/// Parameters beyond four times a file's numbers that a configuration may ask for. It may be wrong, but not so wrong
/// that the model fills the memory before the difference can be told.
const SLACK: usize = 100_000_000;

/// Weights from any of the layouts that are read, checked against their architecture.
#[derive(Debug)]
pub struct ImportedWeights {
    /// The architecture.
    pub config: ClipConfig,
    /// How images are resized and normalised.
    pub preprocess: Preprocess,
    /// The file that was read, or the index of those that were.
    pub path: PathBuf,
    /// The folder that has the weights' tokenizer, if any has it.
    pub folder: PathBuf,
    /// The architecture by the files beside the weights, or by [`ReadOptions::described`], if they tell.
    pub told: Option<ClipConfig>,
    /// What was recognised, assumed and changed, a sentence each, for whoever started the import.
    pub notes: Vec<String>,
    /// OpenCLIP's names and the model's shapes; floats of any width.
    pub(super) state: StateDict,
}

/// What is said of weights elsewhere than beside them, as by a training run of those in its checkpoints.
#[derive(Clone, Debug)]
pub struct Described {
    /// The architecture.
    pub config: ClipConfig,
    /// How images are resized and normalised.
    pub preprocess: Preprocess,
    /// The folder where that is said, which has the tokenizer too.
    pub folder: PathBuf,
}

/// What a file of weights doesn't say, or should be read as.
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    /// What is said of the weights, which then counts instead of all that is beside the file.
    pub described: Option<Described>,
    /// The architecture, instead of the one beside the file or inferred from its shapes.
    pub config: Option<ClipConfig>,
    /// How images are made ready, as far as nothing beside the file tells.
    pub preprocess: Option<Preprocess>,
    /// Side of the square input in pixels, if other than the weights'. Positional embeddings are resized.
    pub image_size: Option<usize>,
    /// Whether the weights may be another objective's: what SigLIP's has beside CLIP's, `logit_bias`, then begins as the
    /// configuration says where they lack it, and is left out where the model has none.
    pub any_objective: bool,
}

impl ImportedWeights {
    /// Reads a file of weights, or a folder with one, in any of these forms, told apart by their content: OpenCLIP's
    /// safetensors, `.bin` or `.pt` and training checkpoints, OpenAI's TorchScript archives, and Hugging Face's
    /// `CLIPModel`, in one file or several.
    ///
    /// `device` lends its modules, which know their parameters; no weights are put there.
    ///
    /// # Errors
    /// What [`WeightsFile::open`] refuses; [`ModelError::NoCheckpoint`], [`ModelError::UnknownArchitecture`], what is
    /// wrong with a configuration, or [`ModelError::WeightsMismatch`] with every difference.
    pub fn read(path: &Path, options: &ReadOptions, device: &Device) -> Result<Self, ModelError> {
        let file = WeightsFile::open(path)?;
        let path = file.path().to_owned();
        let mut notes = vec![format!("{} is {}", path.display(), file.kind())];
        let state = file.read(|name| !fit::is_ignored(name))?;
        let is_hugging_face = hugging_face::is_hugging_face(|name| file.has(name));
        let state = if is_hugging_face {
            notes.push("its names are those of transformers' CLIPModel".to_owned());
            hugging_face::from_names(state)
        } else {
            state
        };
        let is_openai = file.kind() == FileKind::TorchScript || file.has("input_resolution");
        let (told, preprocess, folder) = if let Some(it) = &options.described {
            notes.push(format!(
                "its architecture, preprocessing and tokenizer are those of {}",
                it.folder.display()
            ));
            (Some(it.config.clone()), it.preprocess, it.folder.clone())
        } else {
            let (told, preprocess) = beside(&path, is_hugging_face, options.preprocess)?;
            let folder = path.parent().unwrap_or(Path::new(""));
            (told, preprocess, folder.to_owned())
        };
        let is_told = told.as_ref().is_some_and(|told| {
            let config = options.config.as_ref();
            config.is_none_or(|config| config.quick_gelu == told.quick_gelu)
        });
        let mut config = match (&options.config, &told) {
            (Some(config), _) | (None, Some(config)) => config.clone(),
            (None, None) => {
                let shapes = state
                    .iter()
                    .map(|(name, tensor)| (name.as_str(), tensor.shape.as_slice()));
                // transformers' default is OpenAI's.
                let quick_gelu = is_openai || is_hugging_face;
                let (config, note) = architecture::infer(&path, shapes, quick_gelu)?;
                notes.push(format!("no configuration is beside it: {note}"));
                config
            }
        };
        if let Some(image_size) = options.image_size {
            config.vision_cfg.image_size = image_size;
            config.validate(&format!("image size {image_size}"))?;
        }
        notes.push(activation_note(config.quick_gelu, is_openai, is_told));
        refuse_absurd(&config, &state, &path)?;
        let expected = parameter_shapes(&config.init_blank(device));
        let state = if options.any_objective {
            fit::to_objective(state, config.init_logit_bias, &mut notes)
        } else {
            state
        };
        let state = fit::fit(state, &expected, &path, &mut notes)?;
        Ok(Self {
            config,
            preprocess,
            path,
            folder,
            told,
            notes,
            state,
        })
    }

    /// The model with these weights, on `device`.
    pub fn model(&self, device: &Device) -> Clip {
        load::fill(self.config.init_blank(device), &self.state)
    }

    /// Shape of a tensor, by OpenCLIP's name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.state.get(name).map(|tensor| tensor.shape.as_slice())
    }

    /// A tensor's numbers by OpenCLIP's name, row-major and little-endian. Counts stay 64-bit integers.
    pub fn bytes(&self, name: &str, dtype: FloatType) -> Option<Cow<'_, [u8]>> {
        let tensor = self.state.get(name)?;
        Some(tensor.written_as(dtype.stored()))
    }

    /// The first tensor, of those that are `written`, of which a number would be infinite as `dtype`, by OpenCLIP's name,
    /// and that number.
    pub fn beyond(&self, dtype: FloatType, written: impl Fn(&str) -> bool) -> Option<(&str, f32)> {
        let narrower = |tensor: &&HostTensor| tensor.is_float() && tensor.dtype != dtype.stored();
        let written = self.state.iter().filter(|(name, _)| written(name));
        written.into_iter().find_map(|(name, tensor)| {
            let tensor = Some(tensor).filter(narrower)?;
            Some((name.as_str(), tensor.beyond(dtype.stored())?))
        })
    }

    /// The first tensor of which a number is none, or infinite, by OpenCLIP's name, and that number.
    pub fn not_finite(&self) -> Option<(&str, f32)> {
        self.state.iter().find_map(|(name, tensor)| {
            let numbers = tensor.to_f32()?;
            let wrong = numbers.into_iter().find(|number| !number.is_finite())?;
            Some((name.as_str(), wrong))
        })
    }

    /// A matrix's numbers by OpenCLIP's name, turned over: PyTorch's linear layers keep `[to, from]`, others'
    /// `[from, to]`. Nothing if the tensor is no matrix of floats.
    pub fn transposed_bytes(&self, name: &str, dtype: FloatType) -> Option<Vec<u8>> {
        let &[rows, columns] = self.shape(name)? else {
            return None;
        };
        let bytes = self.bytes(name, dtype)?;
        Some(match dtype {
            FloatType::F32 => transpose(bytes.as_chunks::<4>().0, rows, columns).into_flattened(),
            FloatType::F16 | FloatType::Bf16 => {
                transpose(bytes.as_chunks::<2>().0, rows, columns).into_flattened()
            }
        })
    }

    /// Writes [`CONFIG_FILE`] alone, which says what an architecture's weights mean and how images are made ready.
    ///
    /// # Errors
    /// [`ModelError::Io`].
    pub fn save_config(&self, folder: &Path) -> Result<(), ModelError> {
        let path = folder.join(CONFIG_FILE);
        let json = config_json(&self.config, self.preprocess, &path)?;
        Ok(std::fs::write(&path, json).map_err(clip_files::io("write", path))?)
    }

    /// Writes `preprocessor_config.json` alone, which transformers' `CLIPImageProcessor` loads.
    ///
    /// # Errors
    /// [`ModelError::Io`].
    pub fn save_preprocessor(&self, folder: &Path) -> Result<(), ModelError> {
        let preprocessor =
            hugging_face::to_preprocessor(self.preprocess, self.config.vision_cfg.image_size);
        write_json(&preprocessor, &folder.join(HF_PREPROCESSOR_FILE))
    }

    /// Writes [`CONFIG_FILE`] and [`WEIGHTS_FILE`] into a folder, which OpenCLIP loads as `local-dir:DIR`.
    ///
    /// # Errors
    /// [`ModelError::Io`].
    pub fn save_open_clip(&self, folder: &Path, dtype: FloatType) -> Result<(), ModelError> {
        self.save_config(folder)?;
        write_state(&self.state, dtype, &folder.join(WEIGHTS_FILE))
    }

    /// Writes `config.json`, `model.safetensors` and `preprocessor_config.json` into a folder, which transformers'
    /// `CLIPModel` and `CLIPImageProcessor` load.
    ///
    /// # Errors
    /// [`ModelError::NotHuggingFace`] if `CLIPModel` has no such parameters; [`ModelError::Io`].
    pub fn save_hugging_face(
        &self,
        folder: &Path,
        dtype: FloatType,
        tokens: TextTokens,
    ) -> Result<(), ModelError> {
        let config = hugging_face::to_config(&self.config, tokens, dtype)?;
        let state = hugging_face::to_names(self.state.clone()).map_err(|name| {
            let reason = format!("it has no place for {name}");
            ModelError::NotHuggingFace { reason }
        })?;
        write_json(&config, &folder.join(HF_CONFIG_FILE))?;
        self.save_preprocessor(folder)?;
        write_state(&state, dtype, &folder.join(HF_WEIGHTS_FILE))
    }
}

fn write_json(json: &Value, path: &Path) -> Result<(), ModelError> {
    Ok(std::fs::write(path, format!("{json:#}\n")).map_err(clip_files::io("write", path))?)
}

/// Architecture and preprocessing from the files beside the weights, of the layout that their names have, and `otherwise`
/// where they are silent.
fn beside(
    path: &Path,
    is_hugging_face: bool,
    otherwise: Option<Preprocess>,
) -> Result<(Option<ClipConfig>, Preprocess), ModelError> {
    let otherwise = otherwise.unwrap_or_default();
    let read = |name: &str| -> Result<_, ModelError> {
        let file = path.with_file_name(name);
        if !file.is_file() {
            return Ok(None);
        }
        let json = std::fs::read_to_string(&file).map_err(clip_files::io("read", &file))?;
        Ok(Some((json, file.display().to_string())))
    };
    if !is_hugging_face {
        let config = path.with_file_name(CONFIG_FILE);
        return match config.parent().filter(|_| config.is_file()) {
            Some(folder) => {
                let dir = ModelDir::open_with(folder, otherwise)?;
                Ok((Some(dir.config), dir.preprocess))
            }
            None => Ok((None, otherwise)),
        };
    }
    let config = read(HF_CONFIG_FILE)?;
    let config = config.map(|(json, origin)| hugging_face::from_config(&json, &origin));
    let preprocess = read(HF_PREPROCESSOR_FILE)?;
    let preprocess =
        preprocess.map(|(json, origin)| hugging_face::from_preprocessor(&json, &origin));
    Ok((
        config.transpose()?,
        preprocess.transpose()?.unwrap_or(otherwise),
    ))
}

/// `is_told`: by a configuration beside the weights.
fn activation_note(quick_gelu: bool, is_openai: bool, is_told: bool) -> String {
    match (quick_gelu, is_openai) {
        (true, true) => "its activation is QuickGELU, as in all of OpenAI's models",
        (true, false) => "its activation is QuickGELU",
        (false, false) if is_told => "its activation is GELU",
        (false, true) => {
            "its activation is GELU by the configuration, but OpenAI's weights need QuickGELU: features will be off"
        }
        (false, false) => {
            "its activation is GELU; if it was trained with QuickGELU, name the preset that says so \
            (such as ViT-B-32-quickgelu)"
        }
    }
    .to_owned()
}

fn refuse_absurd(config: &ClipConfig, state: &StateDict, path: &Path) -> Result<(), ModelError> {
    let held = state
        .values()
        .map(|tensor| tensor.shape.iter().product::<usize>())
        .sum::<usize>();
    let wanted = config.num_params();
    if wanted > held.saturating_mul(4).saturating_add(SLACK) {
        return Err(ModelError::InvalidConfig {
            origin: path.display().to_string(),
            reason: format!(
                "its configuration describes {wanted} parameters, but the file holds {held} numbers"
            ),
        });
    }
    Ok(())
}
