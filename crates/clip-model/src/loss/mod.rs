//! Contrastive losses over a whole batch, with their gradients.

mod infonce;

pub use infonce::{ContrastiveGradients, InfoNce};
