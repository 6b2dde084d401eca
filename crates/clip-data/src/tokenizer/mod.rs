//! Captions to token ids, by CLIP's rules: text cleaning, the reference's word pattern, byte-level BPE.

mod clean;
mod html;
mod load;
mod mojibake;
mod openai;
mod save;
mod split;
mod tables;
mod text;
mod train;
mod vocabulary;

pub use clean::clean_caption;
pub use save::TOKENIZER_CONFIG_FILE;
pub use text::{Encoded, Tokenizer};
