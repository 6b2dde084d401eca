use super::super::TimmProjection;

/// Side of the stem's patches, in pixels. Liu et al. 2022, section 2.2.
pub(super) const STEM: usize = 4;
/// What a stage divides the side by that it gets. Liu et al. 2022, section 2.6.
pub(super) const STRIDE: usize = 2;
/// Side of the depthwise convolutions. Liu et al. 2022, section 2.5.
pub(super) const KERNEL: usize = 7;
/// Hidden features of a block's MLP, in multiples of its channels. Liu et al. 2022, section 2.4.
pub(super) const MLP_RATIO: usize = 4;

/// The numbers of one of timm's `ConvNeXt`, which OpenCLIP's configurations name instead of writing them out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConvNeXtShape {
    /// Blocks of each stage.
    pub depths: [usize; 4],
    /// Channels of each stage.
    pub channels: [usize; 4],
    /// Added to the variance in the norms.
    pub epsilon: f64,
    /// From the last stage's channels to the joint space.
    pub projection: TimmProjection,
}

impl ConvNeXtShape {
    /// The shape behind a name such as `convnext_base` (timm, `models/convnext.py`).
    pub fn by_timm_name(name: &str, projection: TimmProjection) -> Option<Self> {
        let (depths, width, epsilon) = match name {
            "convnext_tiny" => ([3, 3, 9, 3], 96, 1e-6),
            "convnext_small" => ([3, 3, 27, 3], 96, 1e-6),
            "convnext_base" => ([3, 3, 27, 3], 128, 1e-6),
            "convnext_large" => ([3, 3, 27, 3], 192, 1e-6),
            "convnext_xlarge" => ([3, 3, 27, 3], 256, 1e-6),
            "convnext_xxlarge" => ([3, 4, 30, 3], 384, 1e-5),
            _ => return None,
        };
        Some(Self {
            depths,
            channels: [1, 2, 4, 8].map(|factor| factor * width),
            epsilon,
            projection,
        })
    }

    /// Channels of the last stage.
    pub(super) fn features(&self) -> usize {
        let [.., features] = self.channels;
        features
    }

    /// Number of parameters.
    pub(crate) fn num_params(&self, embed_dim: usize) -> usize {
        let linear = |from: usize, to: usize| (from + 1) * to;
        let block = |channels: usize| {
            let hidden = MLP_RATIO * channels;
            let convolution = linear(KERNEL * KERNEL, channels);
            let mlp = linear(channels, hidden) + linear(hidden, channels);
            convolution + 2 * channels + mlp + channels
        };
        let [first, ..] = self.channels;
        let stem = linear(3 * STEM * STEM, first) + 2 * first;
        let blocks = self.depths.into_iter().zip(self.channels);
        let blocks: usize = blocks
            .map(|(depth, channels)| depth * block(channels))
            .sum();
        let downsample = self.channels.windows(2).map(|pair| {
            let (from, to) = (pair[0], pair[1]);
            2 * from + linear(STRIDE * STRIDE * from, to)
        });
        let features = self.features();
        let head = self.projection.num_params(features, embed_dim);
        stem + blocks + downsample.sum::<usize>() + 2 * features + head
    }
}
