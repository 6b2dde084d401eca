use std::{collections::HashMap, hash::Hash};

use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor, TensorData};

/// Which pairs of a batch match each other although they stand in different rows.
///
/// Two rows are in one group if they have equal captions or equal images, directly or through other rows, and every
/// image of a group matches every caption of it: with equal captions it is plain that neither is a negative of the
/// other's image. Through others: if `A, "a dog"`, `B, "a dog"` and `B, "a puppy"` stand in a batch, then `A` and
/// `"a puppy"` match too. Were they a negative pair, `"a puppy"` would be pulled to `B` and pushed from `A`, which the
/// batch calls the same. This makes the relation an equivalence: labels, one a group, as Yang et al. 2022 have them.
///
/// # References
/// Yang et al. 2022, [Unified Contrastive Learning in Image-Text-Label Space](https://arxiv.org/abs/2204.03610),
/// section 3; Khosla et al. 2020, [Supervised Contrastive Learning](https://arxiv.org/abs/2004.11362).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    /// The first row of each row's group.
    first: Vec<usize>,
}

impl Groups {
    /// Every row on its own.
    pub fn alone(rows: usize) -> Self {
        Self {
            first: (0..rows).collect(),
        }
    }

    /// Joins the rows that have equal keys; one key a row, in order.
    ///
    /// # Panics
    /// If there are not as many keys as rows.
    pub fn join_equal<K: Hash + Eq>(mut self, keys: impl IntoIterator<Item = K>) -> Self {
        let mut seen = HashMap::with_capacity(self.first.len());
        let mut rows = 0;
        for (row, key) in keys.into_iter().enumerate() {
            rows += 1;
            let earlier = *seen.entry(key).or_insert(row);
            let [a, b] = [row, earlier].map(|row| self.root(row));
            self.first[a.max(b)] = a.min(b);
        }
        assert_eq!(rows, self.first.len(), "keys and rows");
        for row in 0..rows {
            // A root is an earlier row, whose own is known by now.
            self.first[row] = self.first[self.first[row]];
        }
        self
    }

    /// Whether no row matches another.
    pub fn are_alone(&self) -> bool {
        self.first
            .iter()
            .enumerate()
            .all(|(row, &first)| row == first)
    }

    fn root(&self, mut row: usize) -> usize {
        while self.first[row] != row {
            row = self.first[row];
        }
        row
    }

    /// Equal numbers for rows of one group.
    pub(super) fn numbers(&self) -> Vec<i32> {
        self.first.iter().map(|&first| first as i32).collect()
    }

    /// `[batch]`: [`numbers`](Self::numbers) on a device.
    pub(super) fn ids(&self, device: &Device) -> Tensor<1, Int> {
        Tensor::from_ints(self.numbers().as_slice(), device)
    }

    /// `[batch, 1]`: the size of each row's group.
    pub(super) fn sizes(&self, device: &Device) -> Tensor<2> {
        let mut sizes = vec![0.0_f32; self.first.len()];
        for &first in &self.first {
            sizes[first] += 1.0;
        }
        let sizes: Vec<f32> = self.first.iter().map(|&first| sizes[first]).collect();
        let shape = [sizes.len(), 1];
        Tensor::from_data(TensorData::new(sizes, shape), device)
    }

    /// `[batch, embed_dim]`: the mean of the features of each row's group.
    pub(super) fn mean(&self, features: &Tensor<2>) -> Tensor<2> {
        let device = features.device();
        let ids = self.ids(&device);
        let sums = features.zeros_like().select_assign(
            0,
            ids.clone(),
            features.clone(),
            IndexingUpdateOp::Add,
        );
        sums.select(0, ids) / self.sizes(&device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_join_through_either_side() {
        let captions = ["a dog", "a cat", "a dog", "a puppy", "a fish"];
        let images = [1, 2, 3, 3, 4];
        let by_caption = Groups::alone(5).join_equal(captions);
        assert_eq!(by_caption.first, [0, 1, 0, 3, 4]);
        let both = by_caption.join_equal(images);
        assert_eq!(both.first, [0, 1, 0, 0, 4]);
        // The other way round makes the same groups.
        let again = Groups::alone(5).join_equal(images).join_equal(captions);
        assert_eq!(again, both);
        assert!(!both.are_alone());
        assert!(Groups::alone(5).join_equal(0..5).are_alone());
    }

    #[test]
    fn a_mean_is_that_of_the_group() {
        let groups = Groups::alone(4).join_equal([7, 8, 7, 7]);
        let features = Tensor::from_floats(
            [[1.0, 0.0], [9.0, 9.0], [2.0, 3.0], [6.0, 0.0]],
            &Device::default(),
        );
        let means: Vec<f32> = groups.mean(&features).into_data().try_to_vec().unwrap();
        assert_eq!(means, [3.0, 1.0, 9.0, 9.0, 3.0, 1.0, 3.0, 1.0]);
    }
}
