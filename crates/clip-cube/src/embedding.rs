//! The gradient by an embedding.

use burn::{
    backend::Dispatch,
    tensor::{DType, Int, Tensor, TensorData},
};

use crate::{
    backend::{Kernels, client},
    kernels,
};

/// Whether [`embedding_gradient`] computes on rows like these: those in f32 on a GPU, without a graph.
pub fn gathers(rows: &Tensor<2>, vocab_size: usize) -> bool {
    let shape = rows.dims();
    client(&rows.device())
        .is_some_and(|client| kernels::embedding::fits(&client, rows.dtype(), shape, vocab_size))
}

/// For each token of a vocabulary the sum of the rows that stand for it.
///
/// # Shapes
/// - `ids`: the token of each row
/// - `rows`: `[ids, width]`, the gradients by what was looked up
/// - returns `[vocab_size, width]`
///
/// # Panics
/// Where [`gathers`] says no, if there are not as many rows as ids, and if the vocabulary lacks one.
pub fn embedding_gradient(ids: &[i32], rows: Tensor<2>, vocab_size: usize) -> Tensor<2> {
    let [count, _] = rows.dims();
    assert_eq!(ids.len(), count, "ids and rows");
    let known = 0..vocab_size as i32;
    assert!(
        ids.iter().all(|id| known.contains(id)),
        "a token is none of the vocabulary's {vocab_size}"
    );
    let mut order: Vec<i32> = (0..count as i32).collect();
    // invariant: places are ids' own.
    order.sort_by_key(|place| ids[*place as usize]);
    let mut starts = vec![0; vocab_size + 1];
    for id in ids {
        starts[*id as usize + 1] += 1;
    }
    for at in 0..vocab_size {
        starts[at + 1] += starts[at];
    }
    let device = rows.device();
    let there = |numbers: Vec<i32>| {
        let length = [numbers.len()];
        let data = TensorData::new(numbers, length);
        Tensor::<1, Int>::from_data(data, (&device, DType::I32)).into_dispatch()
    };
    let (order, starts) = (there(order), there(starts));
    Tensor::from_dispatch(Dispatch::clip_embedding_gradient(
        rows.into_dispatch(),
        order,
        starts,
    ))
}
