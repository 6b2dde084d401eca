//! The branches of a `FastVit` as single convolutions.
//!
//! # References
//! timm, `reparameterize_model`, whose names the convolutions have.

use super::{
    ImportedWeights,
    state_dict::{HostTensor, StateDict},
};
use crate::encoder::BATCH_NORM_EPSILON;

/// How the names of a weight of what becomes one convolution end, behind the name that the sum has.
const BLOCK: &str = "conv_kxk.0.conv.weight";
const LARGE: &str = "large_conv.conv.weight";
const MIXER: &str = "mixer.conv_kxk.0.conv.weight";

impl ImportedWeights {
    /// The weights of a `FastVit` in the form that timm gives them for inference: in place of branches, `reparam_conv.weight`
    /// and `reparam_conv.bias`. Other weights are left out.
    pub fn reparameterised_image_encoder(&self) -> Self {
        let state = &self.state;
        let mut folded = StateDict::new();
        // A mixer's ends as a block's does, so it comes first.
        for name in state.keys() {
            let found = if let Some(prefix) = name.strip_suffix(MIXER) {
                Some((prefix, mixer(state, prefix)))
            } else if let Some(prefix) = name.strip_suffix(BLOCK) {
                Some((prefix, block(state, prefix)))
            } else if let Some(prefix) = name.strip_suffix(LARGE) {
                let small = conv_norm(state, &format!("{prefix}small_conv."));
                let large = conv_norm(state, &format!("{prefix}large_conv."));
                Some((prefix, large.plus(small, 1.0)))
            } else {
                None
            };
            if let Some((prefix, kernel)) = found {
                kernel.insert(&mut folded, prefix);
            }
        }
        let kept = state.iter().filter(|(name, _)| {
            let of_branch = BRANCHES.iter().any(|branch| name.contains(branch));
            name.starts_with("visual.") && !of_branch
        });
        folded.extend(kept.map(|(name, tensor)| (name.clone(), tensor.clone())));
        Self {
            config: self.config.clone(),
            preprocess: self.preprocess,
            path: self.path.clone(),
            folder: self.folder.clone(),
            told: self.told.clone(),
            notes: Vec::new(),
            state: folded,
        }
    }
}

/// Parts of the names of what a single convolution replaces.
const BRANCHES: [&str; 8] = [
    ".conv_kxk.",
    ".conv_scale.",
    ".identity.",
    ".large_conv.",
    ".small_conv.",
    ".token_mixer.mixer.",
    ".token_mixer.norm.",
    ".token_mixer.layer_scale.",
];

/// A convolution with a bias, on the host.
struct Kernel {
    /// Channels that come in of each group.
    of_group: usize,
    side: usize,
    /// `[channels out, of_group, side, side]`.
    weight: Vec<f32>,
    /// `[channels out]`.
    bias: Vec<f32>,
}

impl Kernel {
    /// That leaves its input as it is.
    fn identity(channels: usize, of_group: usize) -> Self {
        let mut weight = vec![0.0; channels * of_group];
        for channel in 0..channels {
            weight[channel * of_group + channel % of_group] = 1.0;
        }
        Self {
            of_group,
            side: 1,
            weight,
            bias: vec![0.0; channels],
        }
    }

    /// With what comes out of each channel multiplied by a factor.
    fn scaled(mut self, factors: &[f32]) -> Self {
        let of_channel = self.of_group * self.side * self.side;
        for (weights, factor) in self.weight.chunks_exact_mut(of_channel).zip(factors) {
            for weight in weights {
                *weight *= factor;
            }
        }
        for (bias, factor) in self.bias.iter_mut().zip(factors) {
            *bias *= factor;
        }
        self
    }

    /// Followed by a batch norm with its running statistics.
    fn normed(self, state: &StateDict, norm: &str) -> Self {
        let [gain, bias, mean, variance] = ["weight", "bias", "running_mean", "running_var"]
            .map(|field| numbers(state, &format!("{norm}{field}")));
        let deviations = variance
            .iter()
            .map(|variance| (variance + BATCH_NORM_EPSILON as f32).sqrt());
        let factors: Vec<f32> = gain
            .iter()
            .zip(deviations)
            .map(|(gain, deviation)| gain / deviation)
            .collect();
        let mut kernel = self.scaled(&factors);
        for (channel, bias_of) in kernel.bias.iter_mut().enumerate() {
            *bias_of += bias[channel] - mean[channel] * factors[channel];
        }
        kernel
    }

    /// In the middle of a larger one.
    fn padded(self, side: usize) -> Self {
        let border = (side - self.side) / 2;
        let mut weight = vec![0.0; self.weight.len() / self.side.pow(2) * side * side];
        let kernels = weight.chunks_exact_mut(side * side);
        for (larger, smaller) in kernels.zip(self.weight.chunks_exact(self.side.pow(2))) {
            for (row, numbers) in smaller.chunks_exact(self.side).enumerate() {
                let start = (row + border) * side + border;
                larger[start..start + self.side].copy_from_slice(numbers);
            }
        }
        Self {
            side,
            weight,
            ..self
        }
    }

    /// The sum of this one and another times `sign`.
    fn plus(self, other: Self, sign: f32) -> Self {
        let side = self.side.max(other.side);
        let (mut sum, other) = (self.padded(side), other.padded(side));
        for (sums, others) in [
            (&mut sum.weight, &other.weight),
            (&mut sum.bias, &other.bias),
        ] {
            for (number, other) in sums.iter_mut().zip(others) {
                *number += sign * other;
            }
        }
        sum
    }

    fn insert(self, state: &mut StateDict, prefix: &str) {
        let channels = self.bias.len();
        let shape = vec![channels, self.of_group, self.side, self.side];
        for (field, shape, numbers) in [
            ("weight", shape, &self.weight),
            ("bias", vec![channels], &self.bias),
        ] {
            let tensor = HostTensor::from_f32(shape, numbers);
            state.insert(format!("{prefix}reparam_conv.{field}"), tensor);
        }
    }
}

fn numbers(state: &StateDict, name: &str) -> Vec<f32> {
    let numbers = state.get(name).and_then(HostTensor::to_f32);
    // invariant: a checkpoint was checked against its architecture.
    numbers.unwrap_or_else(|| panic!("invariant: a checkpoint has {name}"))
}

/// A convolution without bias, and its batch norm.
fn conv_norm(state: &StateDict, prefix: &str) -> Kernel {
    let name = format!("{prefix}conv.weight");
    let weight = numbers(state, &name);
    let (channels, of_group, side) = match state[&name].shape.as_slice() {
        &[channels, of_group, side, _] => (channels, of_group, side),
        shape => panic!("invariant: {name} is of four axes, not {shape:?}"),
    };
    let kernel = Kernel {
        of_group,
        side,
        weight,
        bias: vec![0.0; channels],
    };
    kernel.normed(state, &format!("{prefix}bn."))
}

/// The branches of a `MobileOneBlock`.
fn block(state: &StateDict, prefix: &str) -> Kernel {
    let branch = |name: &str| format!("{prefix}{name}.");
    let has = |name: String| state.contains_key(&name);
    let mut sum = conv_norm(state, &branch("conv_kxk.0"));
    if has(branch("conv_scale") + "conv.weight") {
        sum = sum.plus(conv_norm(state, &branch("conv_scale")), 1.0);
    }
    if has(branch("identity") + "weight") {
        let identity = Kernel::identity(sum.bias.len(), sum.of_group);
        sum = sum.plus(identity.normed(state, &branch("identity")), 1.0);
    }
    sum
}

/// A `RepMixer`, with its residual path.
fn mixer(state: &StateDict, prefix: &str) -> Kernel {
    let added = block(state, &format!("{prefix}mixer."));
    let channels = added.bias.len();
    let norm = Kernel::identity(channels, 1).normed(state, &format!("{prefix}norm.identity."));
    let scale = numbers(state, &format!("{prefix}layer_scale.gamma"));
    let added = added.plus(norm, -1.0).scaled(&scale);
    Kernel::identity(channels, 1).plus(added, 1.0)
}
