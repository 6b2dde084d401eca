use burn::{
    module::Module,
    tensor::{Int, Tensor},
};

use super::ResidualAttentionBlock;

/// An encoder as a chain: a stem, blocks one after the other, a head.
///
/// What each block gets is enough to compute it again, so a backward pass can go through them one at a time with the
/// graph of one in memory.
pub trait Chain: Module {
    /// What is encoded.
    type Input;

    /// What the first block gets, `[batch, tokens, width]`.
    fn stem(&self, input: &Self::Input) -> Tensor<3>;

    /// First to last.
    fn blocks(&self) -> &[ResidualAttentionBlock];

    /// What attention of these tokens is masked with, as for [`MultiHeadAttention`](super::MultiHeadAttention).
    fn mask(&self, x: &Tensor<3>) -> Option<Tensor<4>>;

    /// The one token of each sequence that the head reads, `[batch, 1]`: the last block gives no other. None if it reads
    /// all of them.
    fn pool(&self, x: &Tensor<3>, input: &Self::Input) -> Option<Tensor<2, Int>>;

    /// Features `[batch, embed_dim]` of what the last block gives, not normalised.
    fn head(&self, x: Tensor<3>, input: &Self::Input) -> Tensor<2>;
}
