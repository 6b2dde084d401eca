//! CoCa's parts: what pools an image's tokens, the text encoder with a class token, and the decoder that reads both.

mod decoder;
mod pooler;
mod text;

pub use decoder::{CrossAttentionBlock, MultimodalTransformer};
pub use pooler::{AttentionalPooler, PoolerAttention, PoolerProjections};
pub use text::{COCA_PADDING, CocaTextTransformer};
