//! The text encoders of Hugging Face's transformers that OpenCLIP's configurations name.
//!
//! Attention hides padding and the pooling leaves it out, so captions may be padded to any length. Their dropout, which
//! OpenCLIP has in training, isn't done.

mod layers;
mod m2m100;
mod roberta;
mod shape;
mod tower;

pub use layers::HfAttention;
pub use m2m100::{M2m100, M2m100Layer};
pub use roberta::{Roberta, RobertaEmbeddings, RobertaEncoder, RobertaLayer};
pub use shape::{HfFamily, HfTextShape, PADDING};
pub use tower::{HfProjection, HfTextEncoder, HfTransformer};
