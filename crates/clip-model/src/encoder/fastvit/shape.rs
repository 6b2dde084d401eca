/// Side of the depthwise convolutions between stages, in MLPs and of positions. Vasu et al. 2023, section 3.2.
pub(super) const LARGE_KERNEL: usize = 7;
/// Side of the other convolutions.
pub(super) const KERNEL: usize = 3;
/// Channels of the image's features, in multiples of the last stage's: timm's `cls_ratio`.
pub(super) const FEATURES_RATIO: usize = 2;
/// Added to variances in layer norms. 1e-5: timm, `fastvit_mci3`.
pub const FASTVIT_EPSILON: f64 = 1e-5;

/// The numbers of one of timm's `FastVit`, which OpenCLIP's configurations name instead of writing them out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FastVitShape {
    /// Each but the first halves the side.
    pub stages: &'static [FastVitStageShape],
    /// Hidden channels of an MLP, in multiples of its channels.
    pub mlp_ratio: usize,
    /// Channels of an attention head.
    pub head_width: usize,
    /// Whether the stem's larger convolutions have one of a pixel beside them.
    pub stem_scale: bool,
    /// Whether a layer norm precedes attention, where else a batch norm does.
    pub layer_norm: bool,
}

/// Blocks of one size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FastVitStageShape {
    /// How many they are.
    pub depth: usize,
    /// Their channels.
    pub channels: usize,
    /// Whether they mix places by attention, after an encoding of positions; else they do by a convolution.
    pub attention: bool,
    /// Whether what leads to them weighs channels by their averages.
    pub squeeze_excite: bool,
}

/// Stages of twice the channels each. Attention begins with the fourth, and averages weigh channels from the third on if
/// anywhere.
const fn stages<const N: usize>(
    depths: [usize; N],
    channels: usize,
    squeeze_excite: bool,
) -> [FastVitStageShape; N] {
    let mut stages = [FastVitStageShape {
        depth: 0,
        channels,
        attention: false,
        squeeze_excite: false,
    }; N];
    let mut stage = 0;
    while stage < N {
        stages[stage] = FastVitStageShape {
            depth: depths[stage],
            channels: channels << stage,
            attention: stage >= 3,
            squeeze_excite: squeeze_excite && stage >= 2,
        };
        stage += 1;
    }
    stages
}

const MCI0: [FastVitStageShape; 4] = stages([2, 6, 10, 2], 64, true);
const MCI1: [FastVitStageShape; 4] = stages([4, 12, 20, 4], 64, true);
const MCI2: [FastVitStageShape; 4] = stages([4, 12, 24, 4], 80, true);
const MCI3: [FastVitStageShape; 5] = stages([2, 12, 24, 4, 2], 96, false);
const MCI4: [FastVitStageShape; 5] = stages([2, 12, 24, 4, 4], 128, false);

impl FastVitShape {
    /// The shape behind a name such as `fastvit_mci2` (timm, `models/fastvit.py`).
    pub fn by_timm_name(name: &str) -> Option<Self> {
        let (stages, of_mobile_clip): (&'static [_], bool) = match name {
            "fastvit_mci0" => (&MCI0, true),
            "fastvit_mci1" => (&MCI1, true),
            "fastvit_mci2" => (&MCI2, true),
            "fastvit_mci3" => (&MCI3, false),
            "fastvit_mci4" => (&MCI4, false),
            _ => return None,
        };
        Some(Self {
            stages,
            mlp_ratio: if of_mobile_clip { 3 } else { 4 },
            head_width: 32,
            stem_scale: of_mobile_clip,
            layer_norm: !of_mobile_clip,
        })
    }

    /// Channels of the first and of the last stage.
    pub(super) fn ends(&self) -> [usize; 2] {
        let channels = |stage: Option<&FastVitStageShape>| stage.map_or(0, |stage| stage.channels);
        [channels(self.stages.first()), channels(self.stages.last())]
    }

    /// Number of parameters.
    pub(crate) fn num_params(&self, embed_dim: usize) -> usize {
        let linear = |from: usize, to: usize| (from + 1) * to;
        // A convolution from so many channels of a group, and its batch norm.
        let conv = |from: usize, to: usize, side: usize| from * to * side * side + 2 * to;
        let depthwise = |channels: usize, side: usize| conv(1, channels, side);
        // With a batch norm beside the convolution.
        let pointwise = |channels: usize| conv(channels, channels, 1) + 2 * channels;
        let squeeze_excite =
            |channels: usize, hidden: usize| linear(channels, hidden) + linear(hidden, channels);
        let mlp = |channels: usize| {
            let hidden = self.mlp_ratio * channels;
            depthwise(channels, LARGE_KERNEL) + linear(channels, hidden) + linear(hidden, channels)
        };
        let mixed = |channels: usize| {
            let branches = depthwise(channels, KERNEL) + depthwise(channels, 1);
            branches + 2 * channels + 2 * channels + channels
        };
        let attention =
            |channels: usize| 2 * channels + 3 * channels.pow(2) + linear(channels, channels);
        let block = |stage: &FastVitStageShape| {
            let channels = stage.channels;
            let mixer = if stage.attention {
                attention(channels) + channels
            } else {
                mixed(channels)
            };
            mixer + mlp(channels) + channels
        };
        let [first, last] = self.ends();
        let scale = if self.stem_scale {
            conv(3, first, 1) + depthwise(first, 1)
        } else {
            0
        };
        let stem = conv(3, first, KERNEL) + depthwise(first, KERNEL) + scale + pointwise(first);
        let blocks = self.stages.iter().map(|stage| stage.depth * block(stage));
        let positions = self.stages.iter().filter(|stage| stage.attention);
        let positions = positions.map(|stage| linear(LARGE_KERNEL.pow(2), stage.channels));
        let downsample = self.stages.iter().skip(1).map(|stage| {
            let channels = stage.channels;
            let large = depthwise(channels, LARGE_KERNEL) + depthwise(channels, KERNEL);
            let weighed = if stage.squeeze_excite {
                squeeze_excite(channels, quarter(channels))
            } else {
                0
            };
            large + weighed + pointwise(channels)
        });
        let features = FEATURES_RATIO * last;
        let end = depthwise(features, KERNEL)
            + depthwise(features, 1)
            + squeeze_excite(features, sixteenth(features))
            + linear(features, embed_dim);
        let stages: usize = blocks.chain(positions).chain(downsample).sum();
        stem + stages + end
    }
}

/// Hidden channels between stages, where averages weigh channels: a quarter, to the nearest multiple of 8.
pub(super) fn quarter(channels: usize) -> usize {
    ((channels / 4 + 4) / 8 * 8).max(8)
}

/// Hidden channels before the average over places: a sixteenth.
pub(super) fn sixteenth(channels: usize) -> usize {
    ((channels + 8) / 16).max(1)
}
