//! Captions to token ids: by CLIP's rules, which are text cleaning, the reference's word pattern and byte-level BPE, or by
//! those of a file in Hugging Face's format.

mod clean;
mod clip;
mod html;
mod hugging_face;
mod load;
mod mojibake;
mod nllb;
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
pub use train::LEAST_VOCABULARY;
