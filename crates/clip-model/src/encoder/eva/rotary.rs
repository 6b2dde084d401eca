use std::iter;

use burn::tensor::{DType, Device, Tensor, TensorData};

/// Angles grow at this number's powers from 0 to nearly -1, in radians a place. Su et al. 2021, section 3.2.2.
const TEMPERATURE: f32 = 10_000.0;

/// The places of a square grid, for rotary position embeddings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RotaryGrid {
    /// Places along a side.
    pub(super) side: usize,
    /// What a side counts as, in places.
    pub(super) reference: usize,
    /// The number of the first row and column.
    pub(super) first: usize,
    /// Whether the first half of a head's features is turned by the column, and not by the row.
    pub(super) columns_first: bool,
    /// Whether a token without a place comes first.
    pub(super) class_token: bool,
    /// Features of an attention head.
    pub(super) head_width: usize,
}

/// Rotary position embeddings: each pair of a head's features is turned by an angle that grows with a token's row or
/// column, so that products of queries and keys depend on how far apart they are.
///
/// # References
/// Su et al. 2021, [RoFormer](https://arxiv.org/abs/2104.09864), section 3.2; in two dimensions, one half of the features
/// for each, as in EVA-02 (Fang et al. 2023).
#[derive(Debug)]
pub(super) struct Rotation {
    /// `[1, 1, tokens, head_width]`: each pair's cosine, twice.
    cos: Tensor<4>,
    /// `[1, 1, tokens, head_width]`: each pair's sine, negated and as it is.
    sin: Tensor<4>,
}

impl RotaryGrid {
    pub(super) fn rotation(&self, device: &Device) -> Rotation {
        let bands = self.head_width / 4;
        let speeds: Vec<f32> = (0..bands)
            .map(|band| 1.0 / TEMPERATURE.powf(band as f32 / bands as f32))
            .collect();
        let at =
            |place: usize| (place + self.first) as f32 / self.side as f32 * self.reference as f32;
        let of_places = (0..self.side * self.side).flat_map(|place| {
            let (row, column) = (at(place / self.side), at(place % self.side));
            let axes = if self.columns_first {
                [column, row]
            } else {
                [row, column]
            };
            let speeds = &speeds;
            axes.into_iter()
                .flat_map(move |at| speeds.iter().map(move |speed| at * speed))
        });
        // The class token stays as it is.
        let of_class = iter::repeat_n(0.0, 2 * bands * usize::from(self.class_token));
        let angles: Vec<f32> = of_class.chain(of_places).collect();
        let table = |pair: fn(f32) -> [f32; 2]| {
            let values: Vec<f32> = angles.iter().flat_map(|angle| pair(*angle)).collect();
            let tokens = values.len() / self.head_width;
            Tensor::from_data(
                TensorData::new(values, [1, 1, tokens, self.head_width]),
                device,
            )
        };
        Rotation {
            cos: table(|angle| [angle.cos(); 2]),
            sin: table(|angle| [-angle.sin(), angle.sin()]),
        }
    }
}

impl Rotation {
    /// Queries or keys, turned in f32, whatever the model computes in.
    ///
    /// # Shapes
    /// - `x`: `[batch, heads, asked, head_width]`, of the first tokens, and so is the result
    pub(super) fn turn(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, heads, asked, head_width] = x.dims();
        let dtype = x.dtype();
        let x = x.cast(DType::F32);
        let pairs = x.clone().reshape([batch, heads, asked, head_width / 2, 2]);
        let swapped = pairs.flip([4]).reshape([batch, heads, asked, head_width]);
        let [cos, sin] = [&self.cos, &self.sin].map(|table| table.clone().narrow(2, 0, asked));
        (x * cos + swapped * sin).cast(dtype)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, Tolerance};

    use super::*;

    /// What rotary embeddings are for.
    #[test]
    fn products_depend_on_how_far_apart_tokens_are() {
        let device = Device::flex();
        let grid = RotaryGrid {
            side: 3,
            reference: 5,
            first: 1,
            columns_first: true,
            class_token: true,
            head_width: 16,
        };
        let normal = Distribution::Normal(0.0, 1.0);
        let [query, key] = [0; 2].map(|_| Tensor::<4>::random([1, 1, 1, 16], normal, &device));
        let rotation = grid.rotation(&device);
        let turned = |x: Tensor<4>| rotation.turn(x.expand([1, 1, 10, 16]));
        let scores = turned(query.clone()).matmul(turned(key.clone()).transpose());
        let scores: Vec<f32> = scores.into_data().try_to_vec().unwrap();
        let score = |from: usize, to: usize| scores[(1 + from) * 10 + 1 + to];
        let close = |a: f32, b: f32| (a - b).abs() < 1e-4;
        // A row down and a column to the left, from three places.
        assert!(close(score(1, 3), score(2, 4)) && close(score(1, 3), score(5, 7)));
        assert!(!close(score(1, 3), score(3, 1)) && !close(score(1, 3), score(0, 4)));

        let class = turned(query.clone()).narrow(2, 0, 1).into_data();
        class.assert_approx_eq::<f32>(&query.into_data(), Tolerance::default());
    }
}
