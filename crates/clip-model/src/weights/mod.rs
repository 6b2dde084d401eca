//! Weights in files: OpenCLIP's parameter names and its model directory.

mod directory;
mod names;
mod safetensors;

pub use self::{
    directory::{CONFIG_FILE, ModelDir, TOKENIZER_FILE, WEIGHTS_FILE},
    safetensors::{load_weights, weights_bytes, write_atomically},
};
