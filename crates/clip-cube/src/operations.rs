//! The kernels as operations on tensors of any of CubeCL's backends, which Burn's fusion queues like its own.

use burn::{
    backend::{
        Backend, Dispatch, DispatchDevice, DispatchTensor, backend_extension,
        fusion::custom::TensorSpec,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType, Device, Int, Shape, Tensor, TensorData},
};
use burn_cubecl::CubeBackend;

use crate::{Activation, AdamWStep, memory::contiguous};

#[backend_extension(Cube, Fusion)]
trait Kernels: Backend {
    #[fusion(dtype = projected, shape = third(projected))]
    fn clip_attention(
        projected: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        masked: bool,
        heads: usize,
    ) -> FloatTensor<Self>;

    #[fusion(dtype = projected, shape = projected)]
    fn clip_attention_back(
        projected: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        masked: bool,
        by_mixed: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self>;

    #[fusion(meta = |x, _, _, _| (x.clone(), of_rows(x), of_rows(x)))]
    fn clip_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    #[fusion(dtype = x, shape = x)]
    fn clip_norm_back(
        x: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        by_y: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        added: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    #[fusion(meta = |y, _, _, _| (parts_of(y), parts_of(y)))]
    fn clip_norm_sums(
        y: FloatTensor<Self>,
        x: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        scale: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    #[fusion(meta = parts_of)]
    fn clip_sums(y: FloatTensor<Self>) -> FloatTensor<Self>;

    #[fusion(dtype = left, shape = rows_by(left, right, *transposed))]
    fn clip_product(
        left: FloatTensor<Self>,
        right: FloatTensor<Self>,
        transposed: bool,
        bias: FloatTensor<Self>,
        biased: bool,
    ) -> FloatTensor<Self>;

    #[fusion(meta = |left, right, bias, _| {
        let shape = rows_by(&left.shape, &right.shape, false);
        let product = TensorSpec::new(shape, bias.dtype);
        (product.clone(), product)
    })]
    fn clip_product_activated(
        left: FloatTensor<Self>,
        right: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    #[fusion(meta = |x, _, _| (x.clone(), x.clone()))]
    fn clip_activation_back(
        x: FloatTensor<Self>,
        by_y: FloatTensor<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    #[fusion(meta = |left, right, parts| {
        let shape = Shape::new([*parts, left.shape[1], right.shape[1]]);
        TensorSpec::new(shape, DType::F32)
    })]
    fn clip_product_sums(
        left: FloatTensor<Self>,
        right: FloatTensor<Self>,
        parts: usize,
    ) -> FloatTensor<Self>;

    #[fusion(dtype = rows, shape = of_tokens(rows, starts))]
    fn clip_embedding_gradient(
        rows: FloatTensor<Self>,
        order: IntTensor<Self>,
        starts: IntTensor<Self>,
    ) -> FloatTensor<Self>;

    #[fusion(meta = |parameter, _, _, _, _, _, _| (parameter.clone(), parameter.clone(), parameter.clone()))]
    fn clip_adamw(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        scaled: bool,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        step: AdamWStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

impl Kernels for CubeBackend {
    fn clip_attention(
        projected: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        masked: bool,
        heads: usize,
    ) -> FloatTensor<Self> {
        crate::attention::forward(contiguous(projected), contiguous(mask), masked, heads)
    }

    fn clip_attention_back(
        projected: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        masked: bool,
        by_mixed: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        crate::attention::back(
            contiguous(projected),
            contiguous(mask),
            masked,
            contiguous(by_mixed),
            heads,
        )
    }

    fn clip_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        crate::norm::forward(contiguous(x), contiguous(gamma), contiguous(beta), epsilon)
    }

    fn clip_norm_back(
        x: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        by_y: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        added: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        crate::norm::back(
            contiguous(x),
            [mean, scale].map(contiguous),
            contiguous(by_y),
            contiguous(gamma),
            contiguous(added),
        )
    }

    fn clip_norm_sums(
        y: FloatTensor<Self>,
        x: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        scale: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let statistics = [mean, scale].map(contiguous);
        crate::norm::sums(contiguous(y), Some((contiguous(x), statistics)))
    }

    fn clip_sums(y: FloatTensor<Self>) -> FloatTensor<Self> {
        crate::norm::sums(contiguous(y), None).0
    }

    fn clip_product(
        left: FloatTensor<Self>,
        right: FloatTensor<Self>,
        transposed: bool,
        bias: FloatTensor<Self>,
        biased: bool,
    ) -> FloatTensor<Self> {
        let [left, right, bias] = [left, right, bias].map(contiguous);
        crate::product::product(left, right, transposed, bias, biased, None).0
    }

    fn clip_product_activated(
        left: FloatTensor<Self>,
        right: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [left, right, bias] = [left, right, bias].map(contiguous);
        crate::product::product(left, right, false, bias, true, Some(activation))
    }

    fn clip_activation_back(
        x: FloatTensor<Self>,
        by_y: FloatTensor<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        crate::activation::back(contiguous(x), contiguous(by_y), activation)
    }

    fn clip_product_sums(
        left: FloatTensor<Self>,
        right: FloatTensor<Self>,
        parts: usize,
    ) -> FloatTensor<Self> {
        crate::product::sums(contiguous(left), contiguous(right), parts)
    }

    fn clip_embedding_gradient(
        rows: FloatTensor<Self>,
        order: IntTensor<Self>,
        starts: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        crate::embedding::gradient(contiguous(rows), contiguous(order), contiguous(starts))
    }

    fn clip_adamw(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        scaled: bool,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        step: AdamWStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let moments = [first, second].map(contiguous);
        let factor = (contiguous(factor), scaled);
        crate::adamw::step(
            contiguous(parameter),
            contiguous(gradient),
            factor,
            moments,
            step,
        )
    }
}

/// As many rows as the left matrix has, and as many columns as the right one.
fn rows_by(left: &Shape, right: &Shape, transposed: bool) -> Shape {
    let columns = if transposed { right[0] } else { right[1] };
    Shape::new([left[0], columns])
}

/// A row for each token.
fn of_tokens(rows: &Shape, starts: &Shape) -> Shape {
    Shape::new([starts[0] - 1, rows[1]])
}

/// A number of each row, in f32.
fn of_rows(x: &TensorSpec) -> TensorSpec {
    let mut shape = x.shape.clone();
    let last = shape.num_dims() - 1;
    shape[last] = 1;
    TensorSpec::new(shape, DType::F32)
}

/// Sums of parts of the rows, in f32.
fn parts_of(y: &TensorSpec) -> TensorSpec {
    let width = y.shape[y.shape.num_dims() - 1];
    let rows = y.shape.num_elements() / width;
    TensorSpec::new(Shape::new([crate::norm::parts(rows), width]), DType::F32)
}

/// Of queries, keys and values side by side, as many as there are queries.
fn third(projected: &Shape) -> Shape {
    let [batch, tokens, all] = projected.dims();
    Shape::new([batch, tokens, all / 3])
}

/// Whether [`attention`] and [`attention_back`] compute on this device: it has matrix units for the precision, and memory
/// for all scores of a head in a group of threads.
///
/// - `dtype`: of what is multiplied
/// - `tokens`: of a sequence
/// - `head_width`: numbers of a query
pub fn attends(device: &Device, dtype: DType, tokens: usize, head_width: usize) -> bool {
    match device.as_dispatch() {
        DispatchDevice::Cube(device) => {
            crate::attention::fits(&device.client(), dtype, tokens, head_width)
        }
        _ => false,
    }
}

/// What each head of each token finds among a sequence's tokens, side by side.
///
/// # Shapes
/// - `projected`: `[batch, tokens, 3 * width]`, queries, keys and values of all heads, without a graph
/// - `mask`: `[tokens, tokens]`, added to the scores, in f32
/// - returns `[batch, tokens, width]`
///
/// # Panics
/// Where [`attends`] says no.
pub fn attention(projected: Tensor<3>, mask: Option<Tensor<2>>, heads: usize) -> Tensor<3> {
    let masked = mask.is_some();
    let mask = mask.map_or_else(|| projected.clone().into_dispatch(), Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::clip_attention(
        projected.into_dispatch(),
        mask,
        masked,
        heads,
    ))
}

/// The gradient by what [`attention`] got from that by what it gave.
///
/// # Shapes
/// - `by_mixed`: `[batch, tokens, width]`
/// - returns `[batch, tokens, 3 * width]`
///
/// # Panics
/// As [`attention`].
pub fn attention_back(
    projected: Tensor<3>,
    mask: Option<Tensor<2>>,
    by_mixed: Tensor<3>,
    heads: usize,
) -> Tensor<3> {
    let masked = mask.is_some();
    let mask = mask.map_or_else(|| projected.clone().into_dispatch(), Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::clip_attention_back(
        projected.into_dispatch(),
        mask,
        masked,
        by_mixed.into_dispatch(),
        heads,
    ))
}

/// Whether [`norm`], [`norm_back`], [`norm_sums`] and [`sums`] compute on this device rows of `width` numbers.
pub fn norms(device: &Device, dtype: DType, width: usize) -> bool {
    match device.as_dispatch() {
        DispatchDevice::Cube(device) => crate::norm::fits(&device.client(), dtype, width),
        _ => false,
    }
}

/// A layer norm of each token, in f32 whatever `x` is in.
///
/// # Shapes
/// - `x`: `[batch, tokens, width]`, without a graph
/// - `gamma`, `beta`: `[width]`, in f32
/// - returns the result, like `x`; and mean and one over the standard deviation of each token, `[batch, tokens, 1]`, in f32
///
/// # Panics
/// Where [`norms`] says no.
pub fn norm(
    x: Tensor<3>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
) -> (Tensor<3>, Tensor<3>, Tensor<3>) {
    let (normed, mean, scale) = Dispatch::clip_norm(
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        epsilon as f32,
    );
    (
        Tensor::from_dispatch(normed),
        Tensor::from_dispatch(mean),
        Tensor::from_dispatch(scale),
    )
}

/// The gradient by what [`norm`] got, and `added` to it.
///
/// # Shapes
/// - `x`, `mean`, `scale`, `gamma`: as [`norm`] got and gave them
/// - `by_y`: the gradient by the result, like `x`, and so is `added`
///
/// # Panics
/// As [`norm`].
pub fn norm_back(
    x: Tensor<3>,
    [mean, scale]: [Tensor<3>; 2],
    by_y: Tensor<3>,
    gamma: Tensor<1>,
    added: Tensor<3>,
) -> Tensor<3> {
    Tensor::from_dispatch(Dispatch::clip_norm_back(
        x.into_dispatch(),
        mean.into_dispatch(),
        scale.into_dispatch(),
        by_y.into_dispatch(),
        gamma.into_dispatch(),
        added.into_dispatch(),
    ))
}

/// The gradients by `gamma` and `beta` of [`norm`], in f32.
///
/// # Shapes
/// As [`norm_back`]; returns `[width]` each
///
/// # Panics
/// As [`norm`].
pub fn norm_sums(
    x: Tensor<3>,
    [mean, scale]: [Tensor<3>; 2],
    by_y: Tensor<3>,
) -> (Tensor<1>, Tensor<1>) {
    let (beta, gamma) = Dispatch::clip_norm_sums(
        by_y.into_dispatch(),
        x.into_dispatch(),
        mean.into_dispatch(),
        scale.into_dispatch(),
    );
    (whole(gamma), whole(beta))
}

/// The sum of all tokens, in f32.
///
/// # Shapes
/// - `y`: `[batch, tokens, width]`, without a graph
/// - returns `[width]`
///
/// # Panics
/// As [`norm`].
pub fn sums(y: Tensor<3>) -> Tensor<1> {
    whole(Dispatch::clip_sums(y.into_dispatch()))
}

/// The sum of parts.
fn whole(parts: DispatchTensor) -> Tensor<1> {
    let parts: Tensor<2> = Tensor::from_dispatch(parts);
    let [_, width] = parts.dims();
    parts.sum_dim(0).reshape([width])
}

/// Whether [`product`] and [`weight_gradient`] multiply `[m, k]` by `[k, n]` on this device: it has matrix units for the
/// precision, and the matrices are of whole blocks of them.
pub fn multiplies(device: &Device, dtype: DType, shape: [usize; 3]) -> bool {
    match device.as_dispatch() {
        DispatchDevice::Cube(device) => crate::product::fits(&device.client(), dtype, shape),
        _ => false,
    }
}

/// Rows by a matrix, and a bias.
///
/// # Shapes
/// - `rows`: `[m, k]`, without a graph
/// - `matrix`: `[k, n]`, or `[n, k]` if it is to be `transposed`
/// - `bias`: `[n]`
/// - returns `[m, n]`; all are in one precision, bf16 or f16, and sums in f32
///
/// # Panics
/// Where [`multiplies`] says no.
pub fn product(
    rows: Tensor<2>,
    matrix: Tensor<2>,
    transposed: bool,
    bias: Option<Tensor<1>>,
) -> Tensor<2> {
    let biased = bias.is_some();
    let bias = bias.map_or_else(|| matrix.clone().into_dispatch(), Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::clip_product(
        rows.into_dispatch(),
        matrix.into_dispatch(),
        transposed,
        bias,
        biased,
    ))
}

/// Rows by a matrix and a bias, and what an activation makes of them.
///
/// # Shapes
/// - `rows`: `[m, k]`, without a graph; `matrix`: `[k, n]`; `bias`: `[n]`, in the precision of both
/// - returns `[m, n]` each
///
/// # Panics
/// Where [`multiplies`] says no.
pub fn product_activated(
    rows: Tensor<2>,
    matrix: Tensor<2>,
    bias: Tensor<1>,
    activation: Activation,
) -> (Tensor<2>, Tensor<2>) {
    let (product, value) = Dispatch::clip_product_activated(
        rows.into_dispatch(),
        matrix.into_dispatch(),
        bias.into_dispatch(),
        activation,
    );
    (Tensor::from_dispatch(product), Tensor::from_dispatch(value))
}

/// What an activation makes of `x`, and the gradient by `x` from that by the result.
///
/// # Shapes
/// All are like `x`.
///
/// # Panics
/// Where [`multiplies`] says no for what made `x`.
pub fn activation_back<const D: usize>(
    x: Tensor<D>,
    by_y: Tensor<D>,
    activation: Activation,
) -> (Tensor<D>, Tensor<D>) {
    let (value, by_x) =
        Dispatch::clip_activation_back(x.into_dispatch(), by_y.into_dispatch(), activation);
    (Tensor::from_dispatch(value), Tensor::from_dispatch(by_x))
}

/// The gradient by a matrix that multiplied rows, in f32.
///
/// # Shapes
/// - `rows`: `[k, m]`, what was multiplied; `by_product`: `[k, n]`, both in bf16 or in f16
/// - returns `[m, n]`
///
/// # Panics
/// Where [`multiplies`] says no for `[m, n, k]`.
pub fn weight_gradient(rows: Tensor<2>, by_product: Tensor<2>) -> Tensor<2> {
    let device = rows.device();
    let ([k, m], [_, n]) = (rows.dims(), by_product.dims());
    let parts = match device.as_dispatch() {
        DispatchDevice::Cube(device) => crate::product::parts(&device.client(), [m, n, k]),
        _ => 1,
    };
    let sums = Dispatch::clip_product_sums(rows.into_dispatch(), by_product.into_dispatch(), parts);
    let sums: Tensor<3> = Tensor::from_dispatch(sums);
    match parts {
        1 => sums.reshape([m, n]),
        _ => sums.sum_dim(0).reshape([m, n]),
    }
}

/// Whether [`embedding_gradient`] computes on rows like these: those in f32 on a GPU, without a graph.
pub fn gathers(rows: &Tensor<2>) -> bool {
    let [_, width] = rows.dims();
    match rows.device().as_dispatch() {
        DispatchDevice::Cube(device) => {
            crate::embedding::fits(&device.client(), rows.dtype(), width)
        }
        _ => false,
    }
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

/// Whether [`adamw`] computes on tensors like `x`: those in f32 on a GPU, without a graph.
pub fn steps<const D: usize>(x: &Tensor<D>) -> bool {
    match x.device().as_dispatch() {
        DispatchDevice::Cube(device) => crate::adamw::fits(&device.client(), x.dtype()),
        _ => false,
    }
}

/// The parameter and its moments after a step of `AdamW`.
///
/// # Shapes
/// - `factor`: `[1]`, what the gradient is multiplied by, if it is
/// - all others are of one shape; without `moments`, they are zero
///
/// # Panics
/// Where [`steps`] says no.
pub fn adamw<const D: usize>(
    parameter: Tensor<D>,
    gradient: Tensor<D>,
    factor: Option<Tensor<1>>,
    moments: Option<[Tensor<D>; 2]>,
    step: AdamWStep,
) -> (Tensor<D>, [Tensor<D>; 2]) {
    let [first, second] = moments.unwrap_or_else(|| [(); 2].map(|()| gradient.zeros_like()));
    let scaled = factor.is_some();
    let factor = factor.map_or_else(|| gradient.clone().into_dispatch(), Tensor::into_dispatch);
    let (parameter, first, second) = Dispatch::clip_adamw(
        parameter.into_dispatch(),
        gradient.into_dispatch(),
        factor,
        scaled,
        first.into_dispatch(),
        second.into_dispatch(),
        step,
    );
    let moments = [first, second].map(Tensor::from_dispatch);
    (Tensor::from_dispatch(parameter), moments)
}
