//! The kernels' place in Burn: operations of any of CubeCL's backends, which its fusion queues like its own.

use burn::{
    backend::{
        Backend, DispatchDevice, backend_extension,
        fusion::custom::TensorSpec,
        tensor::{FloatTensor, IntTensor},
    },
    cubecl::client::Client,
    tensor::{DType, Device, Shape},
};
use burn_cubecl::CubeBackend;

use crate::{
    Activation, AdamWStep,
    kernels::{self, memory::contiguous},
};

/// Who runs kernels on a device, if CubeCL does.
pub(crate) fn client(device: &Device) -> Option<Client> {
    match device.as_dispatch() {
        DispatchDevice::Cube(device) => Some(device.client()),
        _ => None,
    }
}

#[backend_extension(Cube, Fusion)]
pub(crate) trait Kernels: Backend {
    #[fusion(meta = |projected, _, _, heads| (third(projected), of_heads(projected, *heads)))]
    fn clip_attention(
        projected: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        masked: bool,
        heads: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    #[fusion(dtype = projected, shape = projected)]
    fn clip_attention_back(
        projected: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        masked: bool,
        mixed: FloatTensor<Self>,
        logs: FloatTensor<Self>,
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

    #[fusion(meta = |y| TensorSpec::new(Shape::new([1, y.shape[1]]), DType::F32))]
    fn clip_sum(y: FloatTensor<Self>) -> FloatTensor<Self>;

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

    #[fusion(dtype = left, shape = products_of(left, right, *left_by_column, *right_by_column))]
    fn clip_products(
        left: FloatTensor<Self>,
        right: FloatTensor<Self>,
        left_by_column: bool,
        right_by_column: bool,
    ) -> FloatTensor<Self>;

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
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        kernels::attention::forward(contiguous(projected), contiguous(mask), masked, heads)
    }

    fn clip_attention_back(
        projected: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        masked: bool,
        mixed: FloatTensor<Self>,
        logs: FloatTensor<Self>,
        by_mixed: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        kernels::attention::back(
            contiguous(projected),
            (contiguous(mask), masked),
            (contiguous(mixed), contiguous(logs)),
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
        kernels::norm::forward(contiguous(x), contiguous(gamma), contiguous(beta), epsilon)
    }

    fn clip_norm_back(
        x: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        by_y: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        added: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        kernels::norm::back(
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
        kernels::norm::sums(contiguous(y), Some((contiguous(x), statistics)))
    }

    fn clip_sums(y: FloatTensor<Self>) -> FloatTensor<Self> {
        kernels::norm::sums(contiguous(y), None).0
    }

    fn clip_sum(y: FloatTensor<Self>) -> FloatTensor<Self> {
        kernels::norm::sum(contiguous(y))
    }

    fn clip_product(
        left: FloatTensor<Self>,
        right: FloatTensor<Self>,
        transposed: bool,
        bias: FloatTensor<Self>,
        biased: bool,
    ) -> FloatTensor<Self> {
        let [left, right, bias] = [left, right, bias].map(contiguous);
        kernels::product::product(left, right, transposed, bias, biased, None).0
    }

    fn clip_product_activated(
        left: FloatTensor<Self>,
        right: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [left, right, bias] = [left, right, bias].map(contiguous);
        kernels::product::product(left, right, false, bias, true, Some(activation))
    }

    fn clip_products(
        left: FloatTensor<Self>,
        right: FloatTensor<Self>,
        left_by_column: bool,
        right_by_column: bool,
    ) -> FloatTensor<Self> {
        let [left, right] = [left, right].map(contiguous);
        let by_column = (left_by_column, right_by_column);
        kernels::product::products(left, right, by_column, None, None).0
    }

    fn clip_activation_back(
        x: FloatTensor<Self>,
        by_y: FloatTensor<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        kernels::activation::back(contiguous(x), contiguous(by_y), activation)
    }

    fn clip_product_sums(
        left: FloatTensor<Self>,
        right: FloatTensor<Self>,
        parts: usize,
    ) -> FloatTensor<Self> {
        kernels::product::sums(contiguous(left), contiguous(right), parts)
    }

    fn clip_embedding_gradient(
        rows: FloatTensor<Self>,
        order: IntTensor<Self>,
        starts: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        kernels::embedding::gradient(contiguous(rows), contiguous(order), contiguous(starts))
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
        kernels::adamw::step(
            contiguous(parameter),
            contiguous(gradient),
            factor,
            moments,
            step,
        )
    }
}

/// As many rows as the left matrix has, and as many columns as the right one.
pub(crate) fn rows_by(left: &Shape, right: &Shape, transposed: bool) -> Shape {
    let columns = if transposed { right[0] } else { right[1] };
    Shape::new([left[0], columns])
}

/// Of each matrix by its own, in whichever order both lie.
pub(crate) fn products_of(
    left: &Shape,
    right: &Shape,
    left_by_column: bool,
    right_by_column: bool,
) -> Shape {
    let rows = if left_by_column { left[2] } else { left[1] };
    let columns = if right_by_column { right[1] } else { right[2] };
    Shape::new([left[0], rows, columns])
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
    TensorSpec::new(Shape::new([kernels::norm::parts(rows), width]), DType::F32)
}

/// Of queries, keys and values side by side, as many as there are queries.
fn third(projected: &TensorSpec) -> TensorSpec {
    let [batch, tokens, all] = projected.shape.dims();
    TensorSpec::new(Shape::new([batch, tokens, all / 3]), projected.dtype)
}

/// A number of each row of a head, in f32, and of rows up to a whole block.
fn of_heads(projected: &TensorSpec, heads: usize) -> TensorSpec {
    let [batch, tokens, _] = projected.shape.dims();
    let rows = kernels::attention::padded(tokens);
    TensorSpec::new(Shape::new([batch, heads, rows]), DType::F32)
}
