//! The gradient by an embedding, of which a batch looks up few rows, many of them often.

use burn::{
    backend::Flex,
    tensor::{Shape, Tensor},
};
use rayon::prelude::*;

use crate::{
    primitive::{contiguous, primitive, tensor},
    rows::{TASK, add_rows, vectorized},
};

/// For each id the sum of its rows, in their order: the same bits on any number of threads.
///
/// # Shapes
/// - `rows`: `[ids, width]`, the gradients by what was looked up
/// - returns `[vocab_size, width]`
///
/// # Panics
/// If [`computes_on`](crate::computes_on) denies `rows`, if there are not as many as ids, and if the vocabulary lacks one.
pub fn embedding_gradient(ids: &[i32], rows: Tensor<2>, vocab_size: usize) -> Tensor<2> {
    let [count, width] = rows.dims();
    assert_eq!(ids.len(), count, "ids and rows");
    let known = 0..vocab_size as i32;
    assert!(
        ids.iter().all(|id| known.contains(id)),
        "a token is none of the vocabulary's {vocab_size}"
    );
    // invariant: no id is negative.
    let mut places: Vec<(usize, usize)> = ids
        .iter()
        .enumerate()
        .map(|(place, id)| (id.unsigned_abs() as usize, place))
        .collect();
    places.sort_unstable();
    let rows = contiguous(primitive::<2, Flex>(rows));
    let rows = rows.storage::<f32>();
    let mut sums = vec![0.0; vocab_size * width];
    // Tokens of a task.
    let tokens = (TASK / width.max(1)).max(1);
    let tasks = sums.par_chunks_mut((tokens * width).max(1)).enumerate();
    tasks.for_each(|(task, sums)| {
        let first = task * tokens;
        let begin = places.partition_point(|(id, _)| *id < first);
        let of_task = places[begin..]
            .iter()
            .take_while(|(id, _)| *id < first + tokens);
        vectorized(
            #[inline(always)]
            || {
                for (id, place) in of_task {
                    let sum = &mut sums[(id - first) * width..][..width];
                    add_rows(sum, &rows[place * width..][..width]);
                }
            },
        );
    });
    let shape = Shape::from([vocab_size, width]);
    Tensor::from_primitive::<Flex>(tensor(sums, shape))
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, IndexingUpdateOp, Int, TensorData};

    use super::*;

    #[test]
    fn it_is_burns_to_the_bit() {
        let device = Device::flex();
        // More tokens than a task has, and fewer.
        for (vocab_size, width) in [(500, 70), (3, 7)] {
            let count = 600;
            let ids: Vec<i32> = (0..count).map(|at| (at * at + 3) % vocab_size).collect();
            let normal = Distribution::Normal(0.0, 1.0);
            let rows = Tensor::<2>::random([count as usize, width], normal, &device);
            let indices = TensorData::new(ids.clone(), [count as usize]);
            let indices = Tensor::<1, Int>::from_data(indices, &device);
            let zeros = Tensor::zeros([vocab_size as usize, width], &device);
            let want = zeros.select_assign(0, indices, rows.clone(), IndexingUpdateOp::Add);
            let found = embedding_gradient(&ids, rows, vocab_size as usize);
            found.into_data().assert_eq(&want.into_data(), true);
        }
    }

    #[test]
    #[should_panic(expected = "none of the vocabulary's 3")]
    fn a_token_that_is_not_there_is_refused() {
        let rows = Tensor::<2>::zeros([1, 2], &Device::flex());
        embedding_gradient(&[3], rows, 3);
    }
}
