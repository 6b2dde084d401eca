use burn::tensor::{DType, Tensor, ops::PadMode};

use super::super::{BatchNorm, Statistics, convolution::convolve, modified_resnet::Convolution};

/// One convolution that does what several branches of convolutions and batch norms do: all are linear.
///
/// # References
/// Ding et al. 2021, [RepVGG](https://arxiv.org/abs/2101.03697), section 3.3.
pub(super) struct Kernel {
    /// `[channels out, channels in of a group, side, side]`.
    pub(super) weight: Tensor<4>,
    /// `[channels out]`.
    pub(super) bias: Tensor<1>,
}

/// Whether branches that a tensor goes through become one convolution: at inference in f32, where weights are fewer than
/// pixels and nothing is lost.
pub(super) fn becomes_one(x: &Tensor<4>, statistics: &Statistics) -> bool {
    let inference = !x.device().is_autodiff() && x.dtype() == DType::F32;
    inference && matches!(statistics, Statistics::Running)
}

impl Kernel {
    /// Of a convolution and the batch norm that follows.
    pub(super) fn normed(conv: &Convolution, norm: &BatchNorm) -> Self {
        let (factor, bias) = norm.running();
        let weight = conv.weight.val();
        Self { weight, bias }.scaled_weight(factor)
    }

    /// Of a batch norm alone, in groups of so many channels.
    pub(super) fn norm(norm: &BatchNorm, of_group: usize) -> Self {
        let (factor, bias) = norm.running();
        let [channels] = factor.dims();
        let weight = identity(channels, of_group, &bias);
        Self { weight, bias }.scaled_weight(factor)
    }

    /// That leaves a depthwise convolution's input as it is.
    pub(super) fn identity(channels: usize, like: &Tensor<1>) -> Self {
        Self {
            weight: identity(channels, 1, like),
            bias: like.zeros_like(),
        }
    }

    fn scaled_weight(self, factor: Tensor<1>) -> Self {
        let [channels] = factor.dims();
        Self {
            weight: self.weight * factor.reshape([channels, 1, 1, 1]),
            ..self
        }
    }

    /// With what comes out multiplied by `factor`, `[channels out]`.
    pub(super) fn scaled(self, factor: Tensor<1>) -> Self {
        let bias = self.bias.clone() * factor.clone();
        Self { bias, ..self }.scaled_weight(factor)
    }

    /// With the sum of both on the same input; the smaller lies in the middle of the larger.
    pub(super) fn plus(self, other: Self) -> Self {
        let side = self.side().max(other.side());
        Self {
            weight: self.padded(side) + other.padded(side),
            bias: self.bias + other.bias,
        }
    }

    pub(super) fn minus(self, other: Self) -> Self {
        let bias = -other.bias;
        let weight = -other.weight;
        self.plus(Self { weight, bias })
    }

    fn side(&self) -> usize {
        let [.., side] = self.weight.dims();
        side
    }

    fn padded(&self, side: usize) -> Tensor<4> {
        let border = (side - self.side()) / 2;
        if border == 0 {
            return self.weight.clone();
        }
        let border = [(border, border); 2];
        self.weight.clone().pad(border, PadMode::Constant(0.0))
    }

    /// # Shapes
    /// As [`convolve`]
    pub(super) fn forward(self, x: Tensor<4>, stride: usize) -> Tensor<4> {
        convolve(x, self.weight, Some(self.bias), stride)
    }
}

/// `[channels, of_group, 1, 1]`: 1 where a channel meets itself.
fn identity(channels: usize, of_group: usize, like: &Tensor<1>) -> Tensor<4> {
    let group = Tensor::<2>::eye(of_group, &like.device());
    let groups = group.repeat_dim(0, channels / of_group);
    groups.reshape([channels, of_group, 1, 1])
}
