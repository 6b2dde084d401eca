//! The two encoders and the transformer they share.

mod attention;
mod block;
mod chain;
mod text;
mod vision;

pub use attention::MultiHeadAttention;
pub use block::{Activation, Mlp, ResidualAttentionBlock, Transformer};
pub use chain::Chain;
pub use text::TextTransformer;
pub use vision::VisionTransformer;
