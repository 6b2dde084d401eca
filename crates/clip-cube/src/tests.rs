//! Each kernel against Burn's operations in f32 on the CPU, on the GPU that is there: `cargo test --release -p clip-cube
//! --features gpu,burn/cuda`. What a device has no kernel for is said and passed over.

use burn::tensor::{
    DType, Device, Distribution, IndexingUpdateOp, Int, Tensor, TensorData, activation,
};

use super::*;

/// The length of what is off over that of what should be: numbers are rounded to 8 bits once or twice.
const HALF: f32 = 1e-2;
/// What matrix units multiply.
const HALVES: [DType; 2] = [DType::BF16, DType::F16];
/// Slopes by differences of 0.02, and a normal distribution's tail by a polynomial.
const SLOPE: f32 = 1e-4;
/// Sums of f32 in another order.
const SINGLE: f32 = 1e-5;

fn gpu() -> Device {
    Device::default()
}

fn cpu() -> Device {
    Device::flex()
}

/// Numbers that are exact in bf16, on the CPU.
fn draw<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    let normal = Distribution::Normal(0.0, 1.0);
    let x = Tensor::<D>::random(shape, normal, &cpu());
    x.cast(DType::BF16).cast(DType::F32)
}

fn to_gpu<const D: usize>(x: &Tensor<D>, dtype: DType) -> Tensor<D> {
    Tensor::<D>::from_data(x.clone().into_data(), &gpu()).cast(dtype)
}

#[track_caller]
fn assert_close<const D: usize>(got: Tensor<D>, want: &Tensor<D>, bound: f32) {
    let got = Tensor::<D>::from_data(got.into_data().convert::<f32>(), &cpu());
    let length = |x: Tensor<D>| x.square().sum().sqrt().into_scalar::<f32>();
    let (off, whole) = (length(got - want.clone()), length(want.clone()));
    assert!(off <= bound * whole, "off by {off} of {whole}");
}

#[track_caller]
fn assert_same(got: Tensor<2>, want: Tensor<2>) {
    let got = Tensor::<2>::from_data(got.into_data().convert::<f32>(), &cpu());
    let off = (got - want).abs().max().into_scalar::<f32>();
    assert!(off <= 1e-6, "a number is off by {off}");
}

/// Whether there is a kernel; says so if not.
fn has(kernel: bool, of: impl std::fmt::Debug) -> bool {
    if !kernel {
        eprintln!("{:?} has no kernel for {of:?}", gpu());
    }
    kernel
}

#[test]
fn attention_and_its_gradient_are_those_of_a_softmax_of_scores() {
    for (batch, tokens, heads, head_width, masked) in [
        // ViT-B/32's, ViT-B/16's, ViT-L/14's, a whole text, whole tiles, fewer tokens than a tile, other widths.
        (3, 50, 2, 64, false),
        (3, 197, 2, 64, false),
        (2, 257, 2, 64, false),
        (2, 77, 3, 64, true),
        (5, 32, 1, 64, true),
        (2, 5, 2, 64, true),
        (1, 1, 2, 32, false),
        (2, 33, 1, 80, false),
        (2, 129, 2, 80, true),
        (1, 130, 3, 128, true),
        (2, 200, 1, 48, false),
    ] {
        let width = heads * head_width;
        let shape = [batch, tokens, heads, head_width];
        let (projected, by_mixed) = (
            draw([batch, tokens, 3 * width]),
            draw([batch, tokens, width]),
        );
        let mask = masked.then(|| {
            let later = Tensor::<2>::ones([tokens, tokens], &cpu()).triu(1);
            later
                .clone()
                .mask_fill(later.equal_elem(1.0), f32::NEG_INFINITY)
        });

        let leaf = Tensor::from_inner(projected.clone()).require_grad();
        let parts = leaf
            .clone()
            .reshape([batch, tokens, 3, heads, head_width])
            .permute([2, 0, 3, 1, 4]);
        let part = |at| {
            let part: Tensor<5> = parts.clone().narrow(0, at, 1);
            part.reshape([batch, heads, tokens, head_width])
        };
        let scores = part(0).matmul(part(1).transpose()) / (head_width as f64).sqrt();
        let scores = match mask.clone() {
            Some(mask) => scores + Tensor::from_inner(mask).reshape([1, 1, tokens, tokens]),
            None => scores,
        };
        let mixed = activation::softmax(scores, 3).matmul(part(2));
        let mixed = mixed.swap_dims(1, 2).reshape([batch, tokens, width]);
        let grads = (mixed.clone() * Tensor::from_inner(by_mixed.clone()))
            .sum()
            .backward();

        for dtype in HALVES {
            if !has(attends(&gpu(), dtype, shape), (dtype, shape)) {
                continue;
            }
            let half = |x: &Tensor<3>| to_gpu(x, dtype);
            let mask = mask.clone().map(|mask| to_gpu(&mask, DType::F32));
            let found = attention(half(&projected), mask.clone(), heads);
            assert_close(found.0.clone(), &mixed.clone().inner(), HALF);
            let back = attention_back(half(&projected), mask, found, half(&by_mixed), heads);
            assert_close(back, &leaf.grad(&grads).unwrap(), HALF);
        }
    }
}

#[test]
fn norms_and_their_gradients_are_those_of_burns_operations() {
    const EPSILON: f64 = 1e-5;
    for (dtype, bound) in [(DType::F32, SINGLE), (DType::BF16, HALF)] {
        for [batch, tokens, width] in [[3, 50, 768], [1, 1, 64], [64, 9, 1024], [3, 7, 36]] {
            if !has(
                norms(&gpu(), dtype, [batch * tokens, width]),
                (dtype, width),
            ) {
                continue;
            }
            let [x, by_y, added] = [(); 3].map(|()| draw([batch, tokens, width]));
            let [gamma, beta] = [(); 2].map(|()| draw([width]));
            let track = |x: &Tensor<1>| Tensor::from_inner(x.clone()).require_grad();
            let leaf = Tensor::from_inner(x.clone()).require_grad();
            let [gain, bias] = [track(&gamma), track(&beta)];
            let centred = leaf.clone() - leaf.clone().mean_dim(2);
            let variance = centred.clone().square().mean_dim(2);
            let normed = centred / (variance + EPSILON).sqrt();
            let y = normed * gain.clone().unsqueeze() + bias.clone().unsqueeze();
            let grads = (y.clone() * Tensor::from_inner(by_y.clone()))
                .sum()
                .backward();
            let by_x = leaf.grad(&grads).unwrap() + added.clone();

            let there = |x: &Tensor<3>| to_gpu(x, dtype);
            let vector = |x: &Tensor<1>| to_gpu(x, DType::F32);
            let (got, mean, scale) = norm(there(&x), vector(&gamma), vector(&beta), EPSILON);
            let statistics = [mean, scale];
            let (by_gamma, by_beta) = norm_sums(there(&x), statistics.clone(), there(&by_y));
            let back = norm_back(
                there(&x),
                statistics,
                there(&by_y),
                vector(&gamma),
                there(&added),
            );
            assert_close(got, &y.inner(), bound);
            assert_close(back, &by_x, bound);
            assert_close(by_gamma, &gain.grad(&grads).unwrap(), SINGLE);
            assert_close(by_beta, &bias.grad(&grads).unwrap(), SINGLE);
            let sum = by_y.clone().sum_dim(0).sum_dim(1).reshape([width]);
            assert_close(sums(there(&by_y)), &sum, SINGLE);
        }
    }
}

#[test]
fn products_lie_as_they_are_asked_to() {
    for (dtype, [m, n, k]) in [
        (DType::BF16, [128, 256, 128]),
        (DType::F16, [512, 384, 256]),
        (DType::BF16, [512, 384, 256]),
        (DType::BF16, [2560, 768, 3072]),
        (DType::BF16, [8448, 128, 128]),
        // Whole squares of each size; and less, and more, in every direction.
        (DType::F32, [32, 32, 16]),
        (DType::F32, [2048, 2048, 128]),
        (DType::F32, [740, 192, 768]),
        (DType::F32, [1, 4, 36]),
        (DType::F32, [37, 63, 5]),
        (DType::F32, [1030, 1302, 17]),
    ] {
        if !has(multiplies(&gpu(), dtype, [m, n, k]), (dtype, [m, n, k])) {
            continue;
        }
        let bound = if dtype == DType::F32 { SINGLE } else { HALF };
        let (a, b, bias) = (draw([m, k]), draw([k, n]), draw([n]));
        let half = |x: &Tensor<2>| to_gpu(x, dtype);
        let want = a.clone().matmul(b.clone());
        assert_close(product(half(&a), half(&b), false, None), &want, bound);
        let turned = half(&b.clone().transpose());
        assert_close(product(half(&a), turned, true, None), &want, bound);
        let biased = want + bias.clone().unsqueeze();
        let there = to_gpu(&bias, dtype);
        let got = product(half(&a), half(&b), false, Some(there.clone()));
        assert_close(got, &biased, bound);

        let (before, value) = product_activated(half(&a), half(&b), there, Activation::Gelu);
        let rounded = Tensor::<2>::from_data(before.clone().into_data().convert::<f32>(), &cpu());
        assert_close(before.clone(), &biased, bound);
        assert_close(value, &activation::gelu(rounded), bound);
    }
}

#[test]
fn matrices_are_multiplied_each_by_its_own() {
    // More than cubes along an axis, too, of products and of squares below each other.
    for shape in [
        [6, 37, 40, 64],
        [2, 300, 7, 9],
        [70_000, 3, 4, 4],
        [1, 2_100_000, 3, 1],
        [5, 524_300, 1, 2],
    ] {
        let [products, m, n, k] = shape;
        if !has(multiplies_any(&gpu(), DType::F32, shape), shape) {
            continue;
        }
        let (left, right) = (draw([products, m, k]), draw([products, k, n]));
        let want = left.clone().matmul(right.clone());
        for by_column in [(false, false), (false, true), (true, false), (true, true)] {
            let lies = |matrices: &Tensor<3>, by_column| {
                let rows = matrices.clone();
                let lying = if by_column { rows.transpose() } else { rows };
                to_gpu(&lying, DType::F32)
            };
            let (left, right) = (lies(&left, by_column.0), lies(&right, by_column.1));
            assert_close(super::products(left, right, by_column), &want, SINGLE);
        }
    }
}

#[test]
fn products_on_a_graph_have_the_gradients_of_burns() {
    let on = |x: &Tensor<3>, device: Device| {
        Tensor::<3>::from_data(x.clone().into_data(), &device.autodiff()).require_grad()
    };
    let weighted = |y: Tensor<3>, weight: &Tensor<3>| {
        let weight = Tensor::from_data(weight.clone().into_data(), &y.device());
        (y * weight).sum().backward()
    };
    for [count, m, n, k] in [[3, 5, 24, 32], [1, 600, 36, 20]] {
        let shape = [count, m, n, k];
        if !has(multiplies_on_graph(&gpu(), DType::F32, shape), shape) {
            continue;
        }
        let (a, b) = (draw([count, m, k]), draw([count, k, n]));
        let weight = draw([count, m, n]);
        let (left, right) = (on(&a, cpu()), on(&b, cpu()));
        let want = left.clone().matmul(right.clone());
        let grads = weighted(want.clone(), &weight);
        let wanted = [&left, &right].map(|leaf| leaf.grad(&grads).unwrap());

        let (left, right) = (on(&a, gpu()), on(&b, gpu()));
        let mut found = vec![multiply(left.clone(), right.clone())];
        if count == 1 {
            let matrix = |x: &Tensor<3>| x.clone().squeeze_dim::<2>(0);
            found.push(project(matrix(&left), matrix(&right)).unsqueeze());
        }
        for found in found {
            let grads = weighted(found.clone(), &weight);
            assert_close(found.inner(), &want.clone().inner(), SINGLE);
            for (leaf, want) in [&left, &right].into_iter().zip(&wanted) {
                assert_close(leaf.grad(&grads).unwrap(), want, SINGLE);
            }
        }
        // A factor without a graph is a constant.
        let found = multiply(left.clone(), right.clone().detach());
        let grads = weighted(found, &weight);
        assert_close(left.grad(&grads).unwrap(), &wanted[0], SINGLE);
    }
}

#[test]
fn gradients_by_weights_are_sums_over_all_rows() {
    for (dtype, [m, n, k]) in [
        (DType::BF16, [128, 128, 64]),
        (DType::F16, [128, 128, 64]),
        (DType::BF16, [768, 256, 6400]),
        (DType::BF16, [256, 1024, 25_600]),
        (DType::F32, [192, 768, 9472]),
        (DType::F32, [24, 5, 1021]),
    ] {
        let shape = [m, n, k];
        if !has(multiplies_over_rows(&gpu(), dtype, shape), (dtype, shape)) {
            continue;
        }
        let (x, by_y) = (draw([k, m]), draw([k, n]));
        let half = |x: &Tensor<2>| to_gpu(x, dtype);
        let want = x.clone().transpose().matmul(by_y.clone());
        assert_close(weight_gradient(half(&x), half(&by_y)), &want, SINGLE);
    }
}

#[test]
fn non_linearities_have_their_own_slopes() {
    for (dtype, bound) in [(DType::BF16, HALF), (DType::F32, SLOPE)] {
        if has(multiplies(&gpu(), dtype, [128; 3]), dtype) {
            assert_slopes(dtype, bound, [128, 128]);
        }
    }
    // Numbers that are no multiple of what a thread reads at once.
    if has(multiplies(&gpu(), DType::F32, [3, 9, 12]), DType::F32) {
        assert_slopes(DType::F32, SLOPE, [3, 9]);
    }
}

fn assert_slopes(dtype: DType, bound: f32, shape: [usize; 2]) {
    type Function = fn(Tensor<2>) -> Tensor<2>;
    let (x, by_y) = (draw(shape), draw(shape));
    let functions: [(Activation, Function); 3] = [
        (Activation::Gelu, activation::gelu),
        (Activation::GeluTanh, activation::gelu_approximate),
        (Activation::QuickGelu, |x| {
            x.clone() * activation::sigmoid(x * 1.702)
        }),
    ];
    for (kernel, function) in functions {
        // By differences: autodiff's GELU is an approximation.
        let step = 1e-2;
        let difference = function(x.clone() + step) - function(x.clone() - step);
        let by_x = difference / (2.0 * step) * by_y.clone();
        let there = |x: &Tensor<2>| to_gpu(x, dtype);
        let (value, back) = activation_back(there(&x), there(&by_y), kernel);
        assert_close(value, &function(x.clone()), bound);
        assert_close(back, &by_x, bound);

        // Far out they are nothing or the number itself.
        let far = Tensor::<2>::from_floats([[-8192.0, -32.0, 32.0, 8192.0]], &cpu());
        let far = far.repeat(&[shape[0], shape[1]]);
        let far = far.narrow(1, 1, 4 * shape[1] - 1);
        let (value, back) = activation_back(there(&far), there(&far.ones_like()), kernel);
        let positive = far.clone().greater_elem(0.0).float();
        assert_same(value, far * positive.clone());
        assert_same(back, positive);
    }
}

#[test]
fn steps_of_adamw_are_those_of_its_definition() {
    let there = |x: &Tensor<2>| to_gpu(x, DType::F32);
    for shape in [[33, 40], [7, 3]] {
        let (x, gradient) = (draw(shape), draw(shape) * 0.1);
        if !has(steps(&there(&x)), shape) {
            continue;
        }
        let step = |time| AdamWStep {
            lr: 0.01,
            weight_decay: 0.2,
            beta_1: 0.9,
            beta_2: 0.98,
            epsilon: 1e-6,
            time,
        };
        let (at, moments) = adamw(there(&x), there(&gradient), None, None, step(1));
        let half = there(&(gradient.clone() * 4.0));
        let factor = Tensor::from_floats([0.5], &half.device());
        let (at, [first, second]) = adamw(at, half, Some(factor), Some(moments), step(2));

        let (mut want, mut m, mut v) = (x, gradient.zeros_like(), gradient.zeros_like());
        for time in 1..=2 {
            let gradient = gradient.clone() * f64::from(time);
            m = m * 0.9 + gradient.clone() * 0.1;
            v = v * 0.98 + gradient.square() * 0.02;
            let root = (v.clone() / (1.0 - 0.98_f64.powi(time))).sqrt() + 1e-6;
            let change = m.clone() / (1.0 - 0.9_f64.powi(time)) / root;
            want = want * (1.0 - 0.01 * 0.2) - change * 0.01;
        }
        assert_close(at, &want, SINGLE);
        assert_close(first, &m, SINGLE);
        assert_close(second, &v, SINGLE);
    }
}

#[test]
fn gradients_by_an_embedding_are_sums_over_the_places_of_each_token() {
    // More columns than a cube has, and fewer; tokens that are often there, and that aren't.
    for (vocab_size, width, count) in [(90, 200, 700), (3, 8, 40), (70_000, 4, 50)] {
        let rows = draw([count, width]);
        if !has(gathers(&to_gpu(&rows, DType::F32), vocab_size), width) {
            continue;
        }
        let ids = (0..count).map(|at| ((at * at + 3) % vocab_size.min(77)) as i32);
        let mut ids: Vec<i32> = ids.collect();
        ids[1] = vocab_size as i32 - 1;
        let found = embedding_gradient(&ids, to_gpu(&rows, DType::F32), vocab_size);
        let indices = Tensor::<1, Int>::from_data(TensorData::new(ids, [count]), &cpu());
        let zeros = Tensor::zeros([vocab_size, width], &cpu());
        let want = zeros.select_assign(0, indices, rows, IndexingUpdateOp::Add);
        assert_close(found, &want, SINGLE);
    }
}
