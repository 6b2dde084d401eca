use burn::{
    module::{Module, ModuleVisitor, Param, ParamId},
    tensor::{Device, Distribution, Tensor, Tolerance},
};

use super::*;
use crate::{
    Init,
    encoder::{Activation, Transformer, text::causal_mask},
};

/// Sums in another order.
const RELATIVE: f32 = 2e-5;
const ABSOLUTE: f32 = 2e-5;

/// Output, gradient by the input and by each parameter that isn't locked, by autodiff.
fn by_autodiff(
    block: &ResidualAttentionBlock,
    x: Tensor<3>,
    mask: Option<Tensor<4>>,
    by_y: Tensor<3>,
) -> (Tensor<3>, Tensor<3>, Vec<(ParamId, Vec<f32>)>) {
    struct Collect<'a>(&'a burn::tensor::Gradients, Vec<(ParamId, Vec<f32>)>);
    impl ModuleVisitor for Collect<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = param.val().grad(self.0) {
                self.1
                    .push((param.id, grad.into_data().try_to_vec().unwrap()));
            }
        }
    }
    let x = Tensor::from_inner(x).require_grad();
    let y = block.forward(x.clone(), mask.map(Tensor::from_inner), None);
    let grads = (y.clone() * Tensor::from_inner(by_y)).sum().backward();
    let mut collect = Collect(&grads, Vec::new());
    block.visit(&mut collect);
    (y.inner(), x.grad(&grads).unwrap(), collect.1)
}

#[test]
fn both_passes_are_those_of_the_block_on_a_graph() {
    let device = Device::flex().autodiff();
    let plain = device.clone().inner();
    for (batch, tokens, width, heads, activation, causal, scales, locked) in [
        // Keys to be filled up and not, and enough rows for a weight's gradient in parts.
        (3, 11, 24, 3, Activation::Gelu, false, false, false),
        (2, 16, 16, 1, Activation::QuickGelu, true, false, false),
        (4, 7, 16, 2, Activation::GeluTanh, true, true, false),
        (8, 300, 8, 2, Activation::Gelu, false, true, false),
        (2, 5, 16, 2, Activation::Gelu, true, false, true),
    ] {
        let mut init = Init::new(3, &device);
        let mut stack =
            Transformer::init_scaled(width, 1, heads, 2 * width, activation, 1e-5, &mut init);
        if scales {
            stack = stack.with_layer_scales(0.3, &mut init);
        }
        let mut block = stack.resblocks.remove(0);
        if locked {
            block.mlp.c_fc = block.mlp.c_fc.no_grad();
            block.ln_1 = block.ln_1.no_grad();
        }
        let draw = || {
            let normal = Distribution::Normal(0.0, 1.0);
            Tensor::<3>::random([batch, tokens, width], normal, &plain)
        };
        let (x, by_y) = (draw(), draw());
        let mask = causal.then(|| causal_mask(tokens, &plain));
        let (y, by_x, mut grads) = by_autodiff(&block, x.clone(), mask.clone(), by_y.clone());

        let (passed, kept) = block.pass(x.clone(), &ScoreMask::new(mask, &x));
        let (back, found) = block.back(kept, by_y);
        let numbers = |data: burn::tensor::TensorData| data.try_to_vec::<f32>().unwrap();
        let vectors = found.vectors.into_iter();
        let mut by_hand: Vec<_> = vectors
            .map(|(id, grad)| (id, numbers(grad.into_data())))
            .collect();
        let matrices = found.matrices.into_iter();
        by_hand.extend(matrices.map(|(id, grad)| (id, numbers(grad.into_data()))));

        let rows = (batch * tokens) as f32;
        let close = |got: Tensor<3>, want: Tensor<3>| {
            let tolerance = Tolerance::<f32>::rel_abs(RELATIVE, ABSOLUTE);
            got.into_data()
                .assert_approx_eq::<f32>(&want.into_data(), tolerance);
        };
        close(passed, y);
        close(back, by_x);
        assert_eq!(
            grads.len(),
            if locked {
                8
            } else {
                12 + 2 * usize::from(scales)
            }
        );
        grads.sort_by_key(|(id, _)| id.val());
        by_hand.sort_by_key(|(id, _)| id.val());
        assert_eq!(grads.len(), by_hand.len());
        for ((id, want), (by_hand, got)) in grads.iter().zip(&by_hand) {
            assert_eq!((id, want.len()), (by_hand, got.len()));
            for (got, want) in got.iter().zip(want) {
                let bound = RELATIVE * want.abs() + ABSOLUTE * rows.sqrt();
                assert!((got - want).abs() < bound, "{got} instead of {want}");
            }
        }
    }
}
