use burn::{
    module::{Module, Param},
    nn::Linear,
    tensor::{Tensor, assert_shape},
};

use super::attention::mix;
use crate::Init;

/// Attention of an image's average over its places: one query, as many keys as places and one more.
///
/// # References
/// CLIP section 2.4, "a transformer-style multi-head QKV attention conditioned on the global average-pooled
/// representation".
#[derive(Module, Debug)]
pub struct AttentionPool2d {
    /// `[1 + places, width]`: the average's first, then places row by row.
    pub positional_embedding: Param<Tensor<2>>,
    /// `[width, width]`.
    pub k_proj: Linear,
    /// `[width, width]`.
    pub q_proj: Linear,
    /// `[width, width]`.
    pub v_proj: Linear,
    /// `[width, embed_dim]`.
    pub c_proj: Linear,
    heads: usize,
}

impl AttentionPool2d {
    /// Normal matrices of deviation `width^-0.5` (OpenAI, `clip/model.py`, `initialize_parameters`), PyTorch's biases.
    pub(crate) fn init(
        grid: usize,
        width: usize,
        heads: usize,
        embed_dim: usize,
        init: &mut Init,
    ) -> Self {
        let std = (width as f64).powf(-0.5);
        Self {
            positional_embedding: init.normal([grid * grid + 1, width], std),
            k_proj: init.linear_normal(width, width, std),
            q_proj: init.linear_normal(width, width, std),
            v_proj: init.linear_normal(width, width, std),
            c_proj: init.linear_normal(width, embed_dim, std),
            heads,
        }
    }

    /// # Shapes
    /// - `x`: `[batch, width, grid, grid]`
    /// - returns `[batch, embed_dim]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let positions = self.positional_embedding.val();
        let [_, width] = positions.dims();
        assert_shape!(x, [_, width, ..]);
        let [batch, _, rows, columns] = x.dims();
        let places = x.reshape([batch, width, rows * columns]).swap_dims(1, 2);
        let average = places.clone().mean_dim(1);
        let x = Tensor::cat(vec![average, places], 1) + positions.unsqueeze(); // [batch, tokens, width]

        let split = |layer: &Linear, x: Tensor<3>| {
            let [_, tokens, _] = x.dims();
            let rows = layer.forward(x.reshape([batch * tokens, width])); // one product, not one an image
            rows.reshape([batch, tokens, self.heads, width / self.heads])
                .swap_dims(1, 2)
        };
        let query = split(&self.q_proj, x.clone().narrow(1, 0, 1));
        let key = split(&self.k_proj, x.clone());
        let value = split(&self.v_proj, x);
        let pooled = mix(query, key, value, None); // [batch, heads, 1, width / heads]
        self.c_proj.forward(pooled.reshape([batch, width]))
    }

    /// Number of parameters.
    pub(crate) fn num_params(grid: usize, width: usize, embed_dim: usize) -> usize {
        (grid * grid + 1) * width + 3 * (width + 1) * width + (width + 1) * embed_dim
    }
}
