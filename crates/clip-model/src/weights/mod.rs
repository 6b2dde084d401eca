//! Weights in files: OpenCLIP's parameter names and its model directory.

mod directory;
mod names;
mod safetensors;

#[cfg(test)]
pub(crate) use self::names::named_params;

pub use self::{
    directory::{CONFIG_FILE, ModelDir, TOKENIZER_FILE, WEIGHTS_FILE},
    names::{is_buffer, parameter_shapes},
    safetensors::{load_weights, weights_bytes, write_atomically},
};
