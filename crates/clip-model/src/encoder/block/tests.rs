use burn::{
    module::ModuleVisitor,
    tensor::{Device, Distribution, FloatDType, Gradients, TensorData, Tolerance},
};

use super::*;
use crate::{encoder::text::causal_mask, precision::Cast};

/// Sums in another order, and GELU by an approximation whose error is 1.5e-7.
const RELATIVE: f32 = 2e-5;
const ABSOLUTE: f32 = 2e-5;

/// Every parameter's gradient, in their order.
struct Collect<'a>(&'a Gradients, Vec<TensorData>);

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let grad = param.val().grad(self.0);
        self.1
            .push(grad.map_or_else(|| TensorData::from([0.0_f32; 0]), Tensor::into_data));
    }
}

/// Output, gradient by the input, and gradients by all parameters.
fn pass(
    block: &ResidualAttentionBlock,
    x: &TensorData,
    weight: &TensorData,
    forward: impl Fn(Tensor<3>) -> Tensor<3>,
) -> Vec<TensorData> {
    let device = Device::flex().autodiff();
    let x = Tensor::<3>::from_data(x.clone(), &device).require_grad();
    let y = forward(x.clone());
    let grads = (y.clone() * Tensor::from_data(weight.clone(), &device))
        .sum()
        .backward();
    let dx = x.grad(&grads).map(Tensor::into_data);
    let mut collect = Collect(&grads, vec![y.into_data()]);
    collect.1.extend(dx);
    block.visit(&mut collect);
    collect.1
}

#[test]
fn the_fused_block_and_its_gradients_are_those_of_the_composed_one() {
    let device = Device::flex().autodiff();
    let cases = [
        // More than a tile, widths that aren't whole vectors, more and fewer sequences than threads.
        (20, 37, 24, 3, Activation::Gelu, false, false),
        (1, 1, 8, 1, Activation::QuickGelu, true, false),
        (7, 11, 20, 2, Activation::GeluTanh, true, false),
        (300, 37, 8, 1, Activation::Gelu, false, true),
        (7, 11, 20, 2, Activation::QuickGelu, true, true),
    ];
    for (batch, tokens, width, heads, activation, causal, one) in cases {
        let mut init = Init::new(3, &device);
        let stack =
            Transformer::init_scaled(width, 2, heads, 4 * width, activation, 1e-5, &mut init);
        let block = &stack.resblocks[0];
        let draw = |tokens| {
            let normal = Distribution::Normal(0.0, 1.0);
            Tensor::<3>::random([batch, tokens, width], normal, &device).into_data()
        };
        let (x, weight) = (draw(tokens), draw(if one { 1 } else { tokens }));
        let places: Vec<i32> = (0..batch).map(|at| (at * 5 % tokens) as i32).collect();
        let places = TensorData::new(places, [batch, 1]);
        let only = one.then(|| Tensor::<2, Int>::from_data(places, &device));
        let only = only.as_ref();
        let mask = causal.then(|| causal_mask(tokens, &device));
        let fused = pass(block, &x, &weight, |x| {
            assert!(clip_kernels::supports(&x));
            block.forward(x, mask.clone(), only)
        });
        let composed = pass(block, &x, &weight, |x| {
            block.composed(x, mask.clone(), only)
        });
        assert_eq!((fused.len(), composed.len()), (14, 14));
        for (fused, composed) in fused.iter().zip(&composed) {
            let tolerance = Tolerance::<f32>::rel_abs(RELATIVE, ABSOLUTE * batch as f32);
            fused.assert_approx_eq::<f32>(composed, tolerance);
        }

        let inference = block.clone().valid();
        let x = Tensor::<3>::from_data(x, &device).inner();
        let only = only.map(|only| only.clone().inner());
        let y = inference.forward(x, mask.map(Tensor::inner), only.as_ref());
        y.into_data().assert_eq(&fused[0], true);
    }
}

#[test]
fn the_fused_block_in_bf16_is_near_that_in_f32() {
    let device = Device::flex().autodiff();
    for (batch, tokens, width, heads, causal, one) in
        [(40, 37, 64, 2, false, false), (7, 11, 40, 2, true, true)]
    {
        let mut init = Init::new(3, &device);
        let gelu = Activation::Gelu;
        let stack = Transformer::init_default(width, 1, heads, 4 * width, gelu, &mut init);
        let block = &stack.resblocks[0];
        let half = block.clone().map(&mut Cast::to(FloatDType::BF16));
        let draw = |tokens| {
            let normal = Distribution::Normal(0.0, 1.0);
            let numbers = Tensor::<3>::random([batch, tokens, width], normal, &device);
            // What both begin with.
            numbers.cast(DType::BF16).cast(DType::F32).into_data()
        };
        let (x, weight) = (draw(tokens), draw(if one { 1 } else { tokens }));
        let places = TensorData::new((0..batch as i32).map(|at| at % 5).collect(), [batch, 1]);
        let only = one.then(|| Tensor::<2, Int>::from_data(places, &device));
        let mask = causal.then(|| causal_mask(tokens, &device));
        let precise = pass(block, &x, &weight, |x| {
            block.forward(x, mask.clone(), only.as_ref())
        });
        let rough = pass(&half, &x, &weight, |x| {
            let x = x.cast(DType::BF16);
            assert!(clip_kernels::supports(&x) && half.is_one_operation());
            let y = half.forward(x, mask.clone(), only.as_ref());
            assert_eq!(y.dtype(), DType::BF16);
            y.cast(DType::F32)
        });
        assert_eq!((precise.len(), rough.len()), (14, 14));
        let mut largest = 0.0_f32;
        for (place, (precise, rough)) in precise.iter().zip(&rough).enumerate() {
            let [precise, rough] = [precise, rough].map(|data| {
                let numbers = data.clone().convert::<f32>().try_to_vec::<f32>().unwrap();
                Tensor::<1>::from_floats(&numbers[..], &Device::flex())
            });
            let norm = |x: Tensor<1>| x.square().sum().sqrt().into_scalar::<f32>();
            let error = norm(rough - precise.clone()) / norm(precise);
            // A few roundings by up to 2^-9 one after the other.
            assert!(error < 0.01, "{place}: {error}");
            largest = largest.max(error);
        }
        assert!(largest > 1e-4, "nothing was rounded: {largest}");
    }
}

#[test]
fn one_token_alone_is_that_token_of_all() {
    let device = Device::flex();
    let mut init = Init::new(3, &device);
    let stack = Transformer::init_scaled(16, 2, 2, 64, Activation::Gelu, 1e-5, &mut init);
    let x = Tensor::random([3, 5, 16], Distribution::Normal(0.0, 1.0), &device);
    let mask = causal_mask(5, &device);
    let only = Tensor::from_data([[4], [0], [2]], &device);
    let alone = stack.forward(x.clone(), Some(&mask), Some(&only));
    let among = at(stack.forward(x.clone(), Some(&mask), None), &only);
    // A product may sum a row elsewhere in another order.
    let tolerance = Tolerance::<f32>::rel_abs(1e-5, 1e-5);
    alone
        .into_data()
        .assert_approx_eq::<f32>(&among.into_data(), tolerance);

    // Of Burn's operations, whose fused attention gets a row of the mask for each sequence.
    let block = &stack.resblocks[0];
    let alone = block.composed(x.clone(), Some(mask.clone()), Some(&only));
    let among = at(block.composed(x, Some(mask), None), &only);
    alone
        .into_data()
        .assert_approx_eq::<f32>(&among.into_data(), tolerance);
}

#[test]
fn locked_parameters_get_no_gradient_and_the_input_does() {
    let device = Device::flex().autodiff();
    let stack =
        Transformer::init_default(16, 1, 2, 64, Activation::Gelu, &mut Init::new(3, &device));
    let block = stack.no_grad().resblocks.remove(0);
    let x = Tensor::<3>::ones([2, 3, 16], &device).into_data();
    let found = pass(&block, &x, &x, |x| block.forward(x, None, None));
    assert_eq!(found[1].shape().to_vec(), [2, 3, 16]);
    assert!(found[2..].iter().all(|grad| grad.num_elements() == 0));
}

#[test]
fn what_is_locked_leaves_the_other_gradients_as_they_are() {
    let device = Device::flex().autodiff();
    let mut init = Init::new(3, &device);
    let stack = Transformer::init_default(16, 1, 2, 64, Activation::Gelu, &mut init);
    let block = stack.resblocks[0].clone();
    let x = Tensor::<3>::random([9, 37, 16], Distribution::Normal(0.0, 1.0), &device).into_data();
    let whole = pass(&block, &x, &x, |x| block.forward(x, None, None));
    // Output and gradient by the input, then gain and bias of a norm, and of the layers weights and bias.
    for trained in [vec![], vec![4], vec![6, 10], vec![12], vec![4, 6, 10, 12]] {
        let mut locked = block.clone().no_grad();
        for place in &trained {
            let layer = match place {
                4 => &mut locked.attn.in_proj,
                6 => &mut locked.attn.out_proj,
                10 => &mut locked.mlp.c_fc,
                _ => &mut locked.mlp.c_proj,
            };
            layer.weight = layer.weight.clone().set_require_grad(true);
        }
        let found = pass(&locked, &x, &x, |x| locked.forward(x, None, None));
        for (place, (found, whole)) in found.iter().zip(&whole).enumerate() {
            if place < 2 || trained.contains(&place) {
                found.assert_eq(whole, true);
            } else {
                assert_eq!(found.num_elements(), 0, "{place} of {trained:?}");
            }
        }
    }
}
