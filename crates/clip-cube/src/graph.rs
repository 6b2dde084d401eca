//! Products on an autodiff graph, whose gradients are products by the same kernels.

use burn::{
    backend::{
        Autodiff, Backend, Dispatch, TensorMetadata,
        autodiff::{
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
        backend_extension,
        tensor::FloatTensor,
    },
    tensor::{DType, Device, Shape, Tensor},
};
use burn_cubecl::CubeBackend;

use crate::{
    backend::{Kernels, products_of, rows_by},
    kernels, multiplies_any,
};

/// Whether [`project`] and [`multiply`] compute on this device, with a graph or without.
///
/// - `shape`: `[products, m, n, k]`, and so are those of the gradients' products, in another order
pub fn multiplies_on_graph(device: &Device, dtype: DType, shape: [usize; 4]) -> bool {
    multiplies_any(&device.clone().inner(), dtype, shape)
}

/// Rows by a matrix, each with a graph or without.
///
/// # Shapes
/// - `rows`: `[m, k]`; `matrix`: `[k, n]`
/// - returns `[m, n]`
///
/// # Panics
/// Where [`multiplies_on_graph`] says no.
pub fn project(rows: Tensor<2>, matrix: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::clip_project(
        rows.into_dispatch(),
        matrix.into_dispatch(),
    ))
}

/// Each of several matrices by another, each with a graph or without.
///
/// # Shapes
/// - `left`: `[products, m, k]`; `right`: `[products, k, n]`
/// - returns `[products, m, n]`
///
/// # Panics
/// As [`project`].
pub fn multiply(left: Tensor<3>, right: Tensor<3>) -> Tensor<3> {
    Tensor::from_dispatch(Dispatch::clip_multiply(
        left.into_dispatch(),
        right.into_dispatch(),
    ))
}

#[backend_extension(Cube, Fusion, Autodiff)]
pub(crate) trait GraphKernels: Backend {
    #[fusion(dtype = rows, shape = rows_by(rows, matrix, false))]
    fn clip_project(rows: FloatTensor<Self>, matrix: FloatTensor<Self>) -> FloatTensor<Self>;

    #[fusion(dtype = left, shape = products_of(left, right, false, false))]
    fn clip_multiply(left: FloatTensor<Self>, right: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl GraphKernels for CubeBackend {
    fn clip_project(rows: FloatTensor<Self>, matrix: FloatTensor<Self>) -> FloatTensor<Self> {
        let bias = matrix.clone();
        Self::clip_product(rows, matrix, false, bias, false)
    }

    fn clip_multiply(left: FloatTensor<Self>, right: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::clip_products(left, right, false, false)
    }
}

impl<B: Kernels + GraphKernels, C: CheckpointStrategy> GraphKernels for Autodiff<B, C> {
    fn clip_project(rows: FloatTensor<Self>, matrix: FloatTensor<Self>) -> FloatTensor<Self> {
        on_graph::<B, C, _>(Project, rows, matrix, B::clip_project)
    }

    fn clip_multiply(left: FloatTensor<Self>, right: FloatTensor<Self>) -> FloatTensor<Self> {
        on_graph::<B, C, _>(Multiply, left, right, B::clip_multiply)
    }
}

/// What gradients of a product are made of: both factors, each where the other is tracked.
type Factors<B> = [Option<FloatTensor<B>>; 2];

fn on_graph<B: Backend, C: CheckpointStrategy, P: Backward<B, 2, State = Factors<B>>>(
    product: P,
    left: FloatTensor<Autodiff<B, C>>,
    right: FloatTensor<Autodiff<B, C>>,
    forward: fn(FloatTensor<B>, FloatTensor<B>) -> FloatTensor<B>,
) -> FloatTensor<Autodiff<B, C>> {
    let tracked = [left.is_tracked(), right.is_tracked()];
    let ((left, left_node), (right, right_node)) = (left.into_parts(), right.into_parts());
    let prepared = product.prepare::<C>([left_node, right_node]);
    match prepared.compute_bound().stateful() {
        OpsKind::Tracked(prepared) => {
            let factors = [
                tracked[1].then(|| left.clone()),
                tracked[0].then(|| right.clone()),
            ];
            prepared.finish(factors, forward(left, right))
        }
        OpsKind::UnTracked(prepared) => prepared.finish(forward(left, right)),
    }
}

#[derive(Debug)]
struct Project;

impl<B: Kernels> Backward<B, 2> for Project {
    type State = Factors<B>;

    fn backward(self, ops: Ops<Factors<B>, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let by_y = grads.consume::<B>(&ops.node);
        let ([rows, matrix], [of_rows, of_matrix]) = (ops.state, ops.parents);
        if let (Some(node), Some(matrix)) = (of_rows, matrix) {
            let by_rows = B::clip_product(by_y.clone(), matrix.clone(), true, matrix, false);
            grads.register::<B>(node.id, by_rows);
        }
        if let (Some(node), Some(rows)) = (of_matrix, rows) {
            let ([k, m], [_, n]) = (rows.shape().dims(), by_y.shape().dims());
            let parts = kernels::product::parts_of_any([m, n, k]);
            let sums = B::clip_product_sums(rows, by_y, parts);
            let sum = if parts == 1 {
                sums
            } else {
                B::float_sum_dim(sums, 0)
            };
            grads.register::<B>(node.id, B::float_reshape(sum, Shape::new([m, n])));
        }
    }
}

#[derive(Debug)]
struct Multiply;

impl<B: Kernels> Backward<B, 2> for Multiply {
    type State = Factors<B>;

    fn backward(self, ops: Ops<Factors<B>, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let by_y = grads.consume::<B>(&ops.node);
        let ([left, right], [of_left, of_right]) = (ops.state, ops.parents);
        if let (Some(node), Some(right)) = (of_left, right) {
            let by_left = B::clip_products(by_y.clone(), right, false, true);
            grads.register::<B>(node.id, by_left);
        }
        if let (Some(node), Some(left)) = (of_right, left) {
            let by_right = B::clip_products(left, by_y, true, false);
            grads.register::<B>(node.id, by_right);
        }
    }
}
