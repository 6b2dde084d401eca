//! A block's non-linearity in f32, and its derivative.

use burn::{
    backend::cubecl::dtype_to_storage_type,
    cubecl::{self, calculate_cube_count_elemwise, prelude::*},
};
use burn_cubecl::tensor::CubeTensor;

use super::memory::empty;
use crate::Activation;

/// Numbers that a thread reads and writes at once: 16 bytes of half precision.
const VECTOR: usize = 8;

/// OpenAI, `clip/model.py`, `QuickGELU`.
const QUICK: f32 = 1.702;
/// Hendrycks and Gimpel, "Gaussian Error Linear Units", section 2.
const CUBIC: f32 = 0.044_715;
/// The logarithm of a normal distribution's tail as a polynomial, the constant first: of `tests/reference/normal_tail.py`.
const LOG_TAIL: [f32; 8] = [
    -0.693_143_25,
    -0.797_998_96,
    -0.317_745_45,
    -0.037_444_286,
    0.005_919_103_5,
    -0.000_650_773_64,
    0.000_043_447_435,
    -0.000_001_309_789_1,
];
/// The root of 2 over pi.
const ROOT_2_OVER_PI: f32 = core::f32::consts::FRAC_2_SQRT_PI * core::f32::consts::FRAC_1_SQRT_2;

/// The function at `x`, and its derivative.
#[cube]
pub(crate) fn value_and_slope(x: f32, #[comptime] activation: Activation) -> (f32, f32) {
    match activation {
        Activation::Gelu => {
            let tail = normal_tail(x.abs());
            let phi = select(x < 0.0, tail, 1.0 - tail);
            let density = (x * x * -0.5f32).exp() * comptime!(ROOT_2_OVER_PI * 0.5);
            (x * phi, phi + x * density)
        }
        Activation::GeluTanh => {
            let squared = x * x;
            let tanh = (x * (squared * CUBIC + 1.0) * ROOT_2_OVER_PI).tanh();
            let slope = (squared * comptime!(3.0 * CUBIC) + 1.0) * ROOT_2_OVER_PI;
            let half = (tanh + 1.0) * 0.5;
            (x * half, half + x * (1.0 - tanh * tanh) * slope * 0.5)
        }
        Activation::QuickGelu => {
            let gate = 1.0 / ((x * -QUICK).exp() + 1.0);
            (x * gate, gate * (x * (1.0 - gate) * QUICK + 1.0))
        }
    }
}

/// The share of a normal distribution beyond `x` deviations, off by 5e-6 of itself at most up to 6, and falling from less than a
/// billionth to nothing from there. Its logarithm is nearly a parabola: no division, as the error function takes, and no
/// branches.
#[cube]
fn normal_tail(x: f32) -> f32 {
    let mut log = f32::new(0.0);
    #[unroll]
    for i in 0..comptime!(LOG_TAIL.len()) {
        log = log * x + comptime!(LOG_TAIL[LOG_TAIL.len() - 1 - i]);
    }
    log.exp()
}

/// # Shapes
/// - `x`: what the function got; `by_y`: the gradient by what it gave
/// - returns what it gave, and the gradient by `x`, like them
pub(crate) fn back(
    x: CubeTensor,
    by_y: CubeTensor,
    activation: Activation,
) -> (CubeTensor, CubeTensor) {
    let shape = x.meta.shape().clone();
    let numbers = shape.num_elements();
    let vector = if numbers.is_multiple_of(VECTOR) {
        VECTOR
    } else {
        1
    };
    let vectors = numbers / vector;
    let [value, by_x] = [(); 2].map(|()| empty(&x, shape.clone(), x.dtype));
    let client = x.client.clone();
    let dim = CubeDim::new(&client, vectors);
    let dtype = dtype_to_storage_type(x.dtype);
    back_kernel::launch(
        &client,
        calculate_cube_count_elemwise(&client, vectors, dim),
        dim,
        vector,
        x.into_buffer_arg(),
        by_y.into_buffer_arg(),
        value.clone().into_buffer_arg(),
        by_x.clone().into_buffer_arg(),
        activation,
        dtype,
    );
    (value, by_x)
}

#[cube(launch)]
fn back_kernel<E: Float, N: Size>(
    x: &[Vector<E, N>],
    by_y: &[Vector<E, N>],
    values: &mut [Vector<E, N>],
    by_x: &mut [Vector<E, N>],
    #[comptime] activation: Activation,
    #[define(E)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at >= x.len() {
        terminate!();
    }
    let x = x[at];
    let by_y = by_y[at];
    let mut value = Vector::<E, N>::empty();
    let mut by_this = Vector::<E, N>::empty();
    #[unroll]
    for i in 0..N::value() {
        let (number, slope) = value_and_slope(f32::cast_from(x.extract(i)), activation);
        value.insert(i, E::cast_from(number));
        by_this.insert(i, E::cast_from(f32::cast_from(by_y.extract(i)) * slope));
    }
    values[at] = value;
    by_x[at] = by_this;
}
