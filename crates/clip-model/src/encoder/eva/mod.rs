//! timm's `Eva`: EVA, EVA-02 and the Perception Encoder.

mod attention;
mod block;
mod network;
mod rotary;
mod shape;

pub use attention::{EvaAttention, EvaProjections, FusedProjections, SeparateProjections};
pub use block::{EvaBlock, EvaMlp, SwiGlu};
pub use network::{Eva, EvaTrunk};
pub use shape::{EvaFamily, EvaShape};
