//! A step of `AdamW` as one kernel over a parameter, its gradient and its moments.

use burn::{
    cubecl::{self, calculate_cube_count_elemwise, client::Client, prelude::*},
    tensor::DType,
};
use burn_cubecl::tensor::CubeTensor;

use super::{limits::counts, memory::empty};
use crate::AdamWStep;

/// Numbers that a thread reads and writes at once: 16 bytes of f32.
const VECTOR: usize = 4;

/// Buffers that the kernel takes at once: its tensors, and what CubeCL says of them.
const BINDINGS: u32 = 9;

/// Whether the kernel computes on so many numbers on a device.
pub(crate) fn fits(client: &Client, dtype: DType, numbers: usize) -> bool {
    let hardware = &client.properties().hardware;
    dtype == DType::F32
        && hardware.num_cpu_cores.is_none()
        && BINDINGS <= hardware.max_bindings
        && counts(numbers / vector(numbers))
}

/// How many of so many numbers a thread reads and writes at once.
fn vector(numbers: usize) -> usize {
    if numbers.is_multiple_of(VECTOR) {
        VECTOR
    } else {
        1
    }
}

/// The parameter and its moments after a step along the gradient times `factor`, `[1]`, if it is to be `scaled`.
pub(crate) fn step(
    parameter: CubeTensor,
    gradient: CubeTensor,
    (factor, scaled): (CubeTensor, bool),
    [first, second]: [CubeTensor; 2],
    step: AdamWStep,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let shape = parameter.meta.shape().clone();
    let numbers = shape.num_elements();
    let [to, to_first, to_second] = [(); 3].map(|()| empty(&parameter, shape.clone(), DType::F32));
    let client = parameter.client.clone();
    let vector = vector(numbers);
    let vectors = numbers / vector;
    let dim = CubeDim::new(&client, vectors);
    let time = step.time as i32;
    let [unbias_1, unbias_2] = [step.beta_1, step.beta_2].map(|beta| 1.0 - beta.powi(time));
    step_kernel::launch(
        &client,
        calculate_cube_count_elemwise(&client, vectors, dim),
        dim,
        vector,
        parameter.into_buffer_arg(),
        gradient.into_buffer_arg(),
        factor.into_buffer_arg(),
        first.into_buffer_arg(),
        second.into_buffer_arg(),
        to.clone().into_buffer_arg(),
        to_first.clone().into_buffer_arg(),
        to_second.clone().into_buffer_arg(),
        step.lr as f32,
        (1.0 - step.lr * f64::from(step.weight_decay)) as f32,
        step.beta_1,
        step.beta_2,
        step.epsilon,
        unbias_1,
        unbias_2,
        scaled,
    );
    (to, to_first, to_second)
}

#[cube(launch)]
fn step_kernel<N: Size>(
    parameter: &[Vector<f32, N>],
    gradient: &[Vector<f32, N>],
    factor: &[f32],
    first: &[Vector<f32, N>],
    second: &[Vector<f32, N>],
    to: &mut [Vector<f32, N>],
    to_first: &mut [Vector<f32, N>],
    to_second: &mut [Vector<f32, N>],
    lr: f32,
    kept: f32,
    beta_1: f32,
    beta_2: f32,
    epsilon: f32,
    unbias_1: f32,
    unbias_2: f32,
    #[comptime] scaled: bool,
) {
    let at = ABSOLUTE_POS;
    if at >= to.len() {
        terminate!();
    }
    let mut gradient = gradient[at];
    if comptime!(scaled) {
        gradient *= Vector::new(factor[0]);
    }
    let first = first[at] * Vector::new(beta_1) + gradient * Vector::new(1.0 - beta_1);
    let second = second[at] * Vector::new(beta_2) + gradient * gradient * Vector::new(1.0 - beta_2);
    let root = (second / Vector::new(unbias_2)).sqrt() + Vector::new(epsilon);
    let change = first / Vector::new(unbias_1) / root;
    to[at] = parameter[at] * Vector::new(kept) - change * Vector::new(lr);
    to_first[at] = first;
    to_second[at] = second;
}
