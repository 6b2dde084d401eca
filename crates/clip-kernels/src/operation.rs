//! The block as an operation on Burn's tensors, on its own and on an autodiff graph.

use std::sync::Arc;

use burn::{
    backend::{
        Autodiff, Backend, BackendTypes, DispatchKindConversion, DispatchTensor, Flex,
        GradientCheckpointingStrategy,
        autodiff::{
            checkpoint::{base::Checkpointer, strategy::NoCheckpointing},
            grads::Gradients,
            ops::{Backward, NodeGuard, Ops, OpsKind},
        },
    },
    tensor::{DType, Device, Shape, Tensor},
};
use burn_flex::FlexTensor;

use crate::{
    activation::Activation,
    block::{Block, Kept, Linear, Wanted, Weight},
    norm::Norm,
    primitive::{contiguous, numbers, primitive, tensor, tensor_like},
};

/// A block's parameters two by two: gain and bias of a norm, weights and bias of a layer, in the order of the forward
/// pass.
type Pairs<T> = [[T; 2]; 6];

/// How many they are.
const PARAMETERS: usize = 12;

/// A residual block's parameters, where `hidden` is its MLP's width.
#[derive(Debug)]
pub struct BlockParameters {
    /// Gain and bias of the norm before the attention, each `[width]`.
    pub ln_1: [Tensor<1>; 2],
    /// Queries, keys and values, `[width, 3 * width]` and `[3 * width]`.
    pub in_proj: (Tensor<2>, Tensor<1>),
    /// `[width, width]` and `[width]`.
    pub out_proj: (Tensor<2>, Tensor<1>),
    /// Gain and bias of the norm before the MLP, each `[width]`.
    pub ln_2: [Tensor<1>; 2],
    /// `[width, hidden]` and `[hidden]`.
    pub c_fc: (Tensor<2>, Tensor<1>),
    /// `[hidden, width]` and `[width]`.
    pub c_proj: (Tensor<2>, Tensor<1>),
    /// The attention's heads.
    pub heads: usize,
    /// Between the MLP's layers.
    pub activation: Activation,
    /// Added to the variance in the norms.
    pub epsilon: f64,
}

/// Whether [`residual_block`] computes on tensors like `x`: those in f32 or bf16 on Burn's CPU backend, on a graph that
/// keeps what its operations ask it to.
pub fn supports(x: &Tensor<3>) -> bool {
    let device = x.device();
    let strategy = device.gradient_checkpointing_strategy();
    let keeps = strategy.is_none_or(|strategy| strategy == GradientCheckpointingStrategy::Disabled);
    matches!(x.dtype(), DType::F32 | DType::BF16) && device == Device::flex() && keeps
}

/// Attention, then an MLP, each after a layer norm and beside a residual path.
///
/// Of layers whose weights and biases are in bf16, which norms aren't, products are of numbers rounded to bf16, by the
/// processor's matrix unit if it has one; their sums and all that is between them is in f32, and so are the gradients by
/// parameters. What comes out is in the precision of `x`.
///
/// # Shapes
/// - `x`: `[batch, tokens, width]`
/// - `mask`: `[tokens, tokens]`, added to the scores; it has no gradient
/// - `only`: the one token of each sequence that comes out, or all do
/// - returns `[batch, tokens, width]`, or `[batch, 1, width]`
///
/// # Panics
/// If [`supports`] denies `x`, and if a shape or a token doesn't fit.
pub fn residual_block(
    x: Tensor<3>,
    mask: Option<Tensor<2>>,
    only: Option<Vec<usize>>,
    parameters: BlockParameters,
) -> Tensor<3> {
    let [batch, tokens, width] = x.dims();
    let BlockParameters {
        heads,
        activation,
        epsilon,
        ..
    } = parameters;
    assert!(
        width.is_multiple_of(heads),
        "{heads} heads of {width} numbers"
    );
    if let Some(only) = &only {
        assert_eq!(only.len(), batch, "a token of each sequence");
        assert!(
            only.iter().all(|at| *at < tokens),
            "tokens below {tokens}: {only:?}"
        );
    }
    let autodiff = x.device().is_autodiff();
    let mask = mask.map(|mask| {
        assert_eq!(mask.dims(), [tokens; 2], "a mask for {tokens} tokens");
        let mask = if autodiff { mask.inner() } else { mask };
        contiguous(primitive::<2, Flex>(mask.cast(DType::F32)))
    });
    let settings = Settings {
        tokens,
        heads,
        activation,
        epsilon: epsilon as f32,
        mask,
        only,
    };
    if autodiff {
        let x = primitive::<3, Autodiff<Flex>>(x);
        let parameters = parameters.primitives::<Autodiff<Flex>>();
        Tensor::from_primitive::<Autodiff<Flex>>(on_graph(x, parameters, settings))
    } else {
        let x = contiguous(primitive::<3, Flex>(x));
        let parameters = parameters.primitives::<Flex>();
        let parameters = parameters.map(at_hand);
        let y = settings.block(&parameters).forward(&numbers(&x));
        Tensor::from_primitive::<Flex>(settings.output(y, &x))
    }
}

impl BlockParameters {
    fn primitives<B: Backend>(self) -> Pairs<B::FloatTensorPrimitive>
    where
        DispatchTensor: DispatchKindConversion<B>,
    {
        let norm = |norm: [Tensor<1>; 2]| norm.map(primitive::<1, B>);
        let linear = |(weight, bias)| [primitive::<2, B>(weight), primitive::<1, B>(bias)];
        [
            norm(self.ln_1),
            linear(self.in_proj),
            linear(self.out_proj),
            norm(self.ln_2),
            linear(self.c_fc),
            linear(self.c_proj),
        ]
    }
}

/// What a block is beside its parameters.
#[derive(Clone, Debug)]
struct Settings {
    tokens: usize,
    heads: usize,
    activation: Activation,
    epsilon: f32,
    mask: Option<FlexTensor>,
    only: Option<Vec<usize>>,
}

impl Settings {
    /// What comes out of `x`.
    fn output(&self, y: Vec<f32>, x: &FlexTensor) -> FlexTensor {
        let [batch, tokens, width] = x.layout().shape().dims();
        let tokens = if self.only.is_some() { 1 } else { tokens };
        tensor_like(y, Shape::from([batch, tokens, width]), x)
    }

    /// Over contiguous parameters.
    fn block<'a>(&'a self, parameters: &'a Pairs<FlexTensor>) -> Block<'a> {
        let [ln_1, in_proj, out_proj, ln_2, c_fc, c_proj] = parameters;
        let norm = |[gamma, beta]: &'a [FlexTensor; 2]| Norm {
            gamma: gamma.storage(),
            beta: beta.storage(),
            epsilon: self.epsilon,
        };
        let linear = |[weight, bias]: &'a [FlexTensor; 2]| {
            let weight = match weight.dtype() {
                DType::BF16 => Weight::Bf16(weight.storage()),
                _ => Weight::F32(weight.storage()),
            };
            Linear::new(weight, bias.storage())
        };
        Block {
            ln_1: norm(ln_1),
            in_proj: linear(in_proj),
            out_proj: linear(out_proj),
            ln_2: norm(ln_2),
            c_fc: linear(c_fc),
            c_proj: linear(c_proj),
            heads: self.heads,
            activation: self.activation,
            mask: self.mask.as_ref().map(FlexTensor::storage),
            tokens: self.tokens,
            only: self.only.as_deref(),
        }
    }
}

/// The block as a node of an autodiff graph.
#[derive(Debug)]
struct ResidualBlock;

/// What its backward pass takes up.
#[derive(Clone, Debug)]
struct Forward {
    x: FlexTensor,
    parameters: Pairs<FlexTensor>,
    settings: Settings,
    kept: Vec<Vec<Kept>>,
}

impl Backward<Flex, { 1 + PARAMETERS }> for ResidualBlock {
    type State = Arc<Forward>;

    fn backward(
        self,
        ops: Ops<Self::State, { 1 + PARAMETERS }>,
        grads: &mut Gradients,
        _: &mut Checkpointer,
    ) {
        // The graph has let go of it by now, so that nothing is copied.
        let Forward {
            x,
            parameters,
            settings,
            kept,
        } = Arc::unwrap_or_clone(ops.state);
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let block = settings.block(&parameters);
        let [of_x, of_parameters @ ..] = ops.parents;
        let [_, _, in_proj, _, out_proj, _, _, _, c_fc, _, c_proj, _] =
            of_parameters.each_ref().map(Option::is_some);
        let wanted = Wanted {
            in_proj,
            out_proj,
            c_fc,
            c_proj,
        };
        let (dx, by_parameters) = block.backward(&numbers(&x), kept, &numbers(&dy), wanted);
        if let Some(parent) = of_x {
            let dx = tensor_like(dx, x.layout().shape().clone(), &x);
            grads.register::<Flex>(parent.id, dx);
        }
        let by_parameters = by_parameters.into_parts().zip(parameters.iter().flatten());
        for (parent, (gradient, parameter)) in of_parameters.into_iter().zip(by_parameters) {
            if let Some(parent) = parent {
                let gradient = tensor(gradient, parameter.layout().shape().clone());
                grads.register::<Flex>(parent.id, gradient);
            }
        }
    }
}

fn on_graph(
    x: AutodiffTensor,
    parameters: Pairs<AutodiffTensor>,
    settings: Settings,
) -> AutodiffTensor {
    let (x, x_node) = x.into_parts();
    let x = contiguous(x);
    let mut nodes = vec![x_node];
    let mut off_graph = |parameter: AutodiffTensor| {
        let (parameter, node) = parameter.into_parts();
        nodes.push(node);
        parameter
    };
    let parameters = parameters.map(|pair| at_hand(pair.map(&mut off_graph)));
    let Ok(nodes) = <[NodeGuard; 1 + PARAMETERS]>::try_from(nodes) else {
        unreachable!("invariant: one node for the input and for each parameter")
    };
    let prepared = ResidualBlock.prepare::<NoCheckpointing>(nodes);
    match prepared.compute_bound().stateful() {
        OpsKind::Tracked(prepared) => {
            let (y, kept) = settings.block(&parameters).forward_keeping(&numbers(&x));
            let y = settings.output(y, &x);
            let state = Forward {
                x,
                parameters,
                settings,
                kept,
            };
            prepared.finish(Arc::new(state), y)
        }
        OpsKind::UnTracked(prepared) => {
            let y = settings.block(&parameters).forward(&numbers(&x));
            prepared.finish(settings.output(y, &x))
        }
    }
}

type AutodiffTensor = <Autodiff<Flex> as BackendTypes>::FloatTensorPrimitive;

/// A norm's or a layer's parameters, the second in f32.
fn at_hand([first, second]: [FlexTensor; 2]) -> [FlexTensor; 2] {
    let second = contiguous(second);
    let second = if second.dtype() == DType::F32 {
        second
    } else {
        let shape = second.layout().shape().clone();
        tensor(numbers(&second).into_owned(), shape)
    };
    [contiguous(first), second]
}
