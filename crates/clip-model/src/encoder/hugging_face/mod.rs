//! The text encoders of Hugging Face's transformers that OpenCLIP's configurations name.
//!
//! Attention hides padding and the pooling leaves it out, so captions may be padded to any length. Their dropout, which
//! OpenCLIP has in training, isn't done.

mod layers;
mod roberta;
mod shape;
mod tower;

pub use layers::HfAttention;
pub use roberta::{Roberta, RobertaEmbeddings, RobertaEncoder, RobertaLayer};
pub use shape::{HfTextShape, PADDING};
pub use tower::{HfProjection, HfTextEncoder, HfTransformer};
