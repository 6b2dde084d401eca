use burn::{module::Module, tensor::Tensor};

use super::{
    super::{Activation, BatchNorm, Statistics},
    kernel::{Kernel, becomes_one},
    layers::{ConvNorm, SqueezeExcite},
};
use crate::Init;

/// The sum of branches, each with a batch norm of its own: a convolution, one of a single place, and nothing else. At
/// inference they are one convolution.
///
/// # References
/// Vasu et al. 2023, [MobileOne](https://arxiv.org/abs/2206.04040), section 3.3.
#[derive(Module, Debug)]
pub struct MobileOneBlock {
    /// Of the input as it is, where channels and size stay.
    pub identity: Option<BatchNorm>,
    /// The convolution.
    pub conv_kxk: Option<ConvNorm>,
    /// The branch of a single place, where the other is of more.
    pub conv_scale: Option<ConvNorm>,
    /// After the sum.
    pub se: Option<SqueezeExcite>,
    /// Channels that come in of each group.
    of_group: usize,
    stride: usize,
    /// Whether GELU comes last.
    activated: bool,
}

/// The numbers of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct MobileOneShape {
    /// In and out.
    pub(super) channels: [usize; 2],
    /// Parts of the channels that don't mix.
    pub(super) groups: usize,
    pub(super) side: usize,
    pub(super) stride: usize,
    /// Whether there is a branch of a single place.
    pub(super) scale: bool,
    pub(super) activated: bool,
}

impl MobileOneBlock {
    pub(super) fn init(shape: MobileOneShape, init: &mut Init) -> Self {
        let MobileOneShape {
            channels: [from, to],
            groups,
            side,
            stride,
            ..
        } = shape;
        let of_group = from / groups;
        let branch =
            |side: usize, init: &mut Init| ConvNorm::init([of_group, to], side, stride, init);
        Self {
            identity: (from == to && stride == 1).then(|| BatchNorm::init(from, 1.0, init)),
            conv_kxk: Some(branch(side, init)),
            conv_scale: (shape.scale && side > 1).then(|| branch(1, init)),
            se: None,
            of_group,
            stride,
            activated: shape.activated,
        }
    }

    /// Of a single place, which mixes channels.
    pub(super) fn pointwise(channels: usize, init: &mut Init) -> Self {
        let shape = MobileOneShape {
            channels: [channels; 2],
            groups: 1,
            side: 1,
            stride: 1,
            scale: false,
            activated: true,
        };
        Self::init(shape, init)
    }

    /// A batch norm and nothing else.
    pub(super) fn norm(channels: usize, init: &mut Init) -> Self {
        Self {
            identity: Some(BatchNorm::init(channels, 1.0, init)),
            conv_kxk: None,
            conv_scale: None,
            se: None,
            of_group: 1,
            stride: 1,
            activated: false,
        }
    }

    /// With channels weighed by their averages before the activation.
    pub(super) fn with_squeeze_excite(
        self,
        channels: usize,
        hidden: usize,
        init: &mut Init,
    ) -> Self {
        Self {
            se: Some(SqueezeExcite::init(channels, hidden, init)),
            ..self
        }
    }

    /// All branches as one convolution.
    pub(super) fn kernel(&self) -> Kernel {
        let identity = self.identity.iter();
        let identity = identity.map(|norm| Kernel::norm(norm, self.of_group));
        let convolutions = self.conv_scale.iter().chain(&self.conv_kxk);
        let branches = identity.chain(convolutions.map(ConvNorm::kernel));
        let sum = branches.reduce(Kernel::plus);
        sum.expect("invariant: there is a branch")
    }

    /// # Shapes
    /// - `x`: `[batch, channels in, height, width]`
    /// - returns `[batch, channels out, height / stride, width / stride]`, rounded up
    pub fn forward(&self, x: Tensor<4>, statistics: &mut Statistics) -> Tensor<4> {
        let out = if becomes_one(&x, statistics) {
            self.kernel().forward(x, self.stride)
        } else {
            let identity = self.identity.iter();
            let identity: Vec<_> = identity
                .map(|norm| norm.forward(x.clone(), statistics))
                .collect();
            let convolutions = self.conv_scale.iter().chain(&self.conv_kxk);
            let convolutions = convolutions.map(|conv| conv.forward(x.clone(), statistics));
            let sum = identity
                .into_iter()
                .chain(convolutions)
                .reduce(|a, b| a + b);
            sum.expect("invariant: there is a branch")
        };
        let out = match &self.se {
            Some(se) => se.forward(out),
            None => out,
        };
        if self.activated {
            Activation::Gelu.forward(out)
        } else {
            out
        }
    }

    /// In the order of the forward pass.
    pub(super) fn batch_norms(&self) -> impl Iterator<Item = &BatchNorm> {
        let convolutions = self.conv_scale.iter().chain(&self.conv_kxk);
        self.identity
            .iter()
            .chain(convolutions.map(|conv| &conv.bn))
    }
}
