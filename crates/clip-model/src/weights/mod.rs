//! Weights in files: OpenCLIP's parameter names and its model directory, and the layouts of others.

mod architecture;
mod directory;
mod file;
mod fit;
mod host_weights;
mod hugging_face;
mod imported;
mod load;
mod locate;
mod names;
mod reparameterise;
mod resize;
mod safetensors;
mod state_dict;
#[cfg(test)]
mod tests;

pub(crate) use self::names::is_count;
#[cfg(test)]
pub(crate) use self::names::{NamedParam, named_params};

pub use self::{
    directory::{CONFIG_FILE, ModelDir, TOKENIZER_FILE, WEIGHTS_FILE},
    file::{FileKind, WeightsFile},
    host_weights::{HostWeights, weights_bytes},
    hugging_face::TextTokens,
    imported::{Described, ImportedWeights, ReadOptions},
    load::load_weights,
    locate::{LAYOUTS, without_local_dir},
    names::{is_buffer, parameter_names, parameter_shapes},
    safetensors::write_safetensors,
    state_dict::FloatType,
};
