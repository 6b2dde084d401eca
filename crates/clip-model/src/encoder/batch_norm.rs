use burn::{
    module::{Module, Param, RunningState},
    tensor::{DType, Device, Tensor, module::batch_norm_train},
};

use crate::Init;

/// Share of a batch in the running statistics. 0.1: PyTorch's default, which OpenAI's code leaves.
const MOMENTUM: f64 = 0.1;
/// Added to variances in batch norms. 1e-5: PyTorch's default, which OpenAI's code leaves.
pub const BATCH_NORM_EPSILON: f64 = 1e-5;

/// Batch normalisation whose running statistics change only when they are told to, so that the parts of a batch may
/// pass through it on several threads and more than once.
///
/// # References
/// Ioffe and Szegedy 2015; numbers and state as `torch.nn.BatchNorm2d`.
#[derive(Module, Debug)]
pub struct BatchNorm {
    /// `[channels]`.
    pub gamma: Param<Tensor<1>>,
    /// `[channels]`.
    pub beta: Param<Tensor<1>>,
    /// `[channels]`: mean of past batches.
    pub running_mean: RunningState<Tensor<1>>,
    /// `[channels]`: unbiased variance of past batches.
    pub running_var: RunningState<Tensor<1>>,
    /// `[1]`: how many batches the running statistics have seen. Nothing computes with it; OpenCLIP keeps it.
    pub num_batches_tracked: RunningState<Tensor<1>>,
}

/// Which mean and variance batch norms normalise by.
#[derive(Debug)]
pub enum Statistics {
    /// The mean and variance of past batches.
    Running,
    /// The mean and variance of the batch at hand, which are kept here.
    OfBatch(BatchStatistics),
}

impl Statistics {
    /// What has been kept; nothing where running statistics were used.
    pub(super) fn of_batch(self) -> BatchStatistics {
        match self {
            Self::Running => BatchStatistics::default(),
            Self::OfBatch(found) => found,
        }
    }
}

/// What the batch norms of an encoder saw in a batch, in the order of its layers; nothing if it has none.
#[derive(Clone, Debug, Default)]
pub struct BatchStatistics(Vec<Moments>);

/// Of one batch norm's input.
#[derive(Clone, Debug)]
struct Moments {
    /// Values of a channel.
    count: usize,
    /// `[channels]`.
    mean: Tensor<1>,
    /// `[channels]`, biased.
    variance: Tensor<1>,
}

impl BatchNorm {
    /// Gain `gain`, bias 0, running mean 0 and variance 1.
    pub(crate) fn init(channels: usize, gain: f32, init: &mut Init) -> Self {
        Self {
            gamma: init.constant([channels], gain),
            beta: init.constant([channels], 0.0),
            running_mean: init.running([channels], 0.0),
            running_var: init.running([channels], 1.0),
            num_batches_tracked: init.running([1], 0.0),
        }
    }

    /// In f32, whatever the model computes in.
    ///
    /// # Shapes
    /// - `x`: `[batch, channels, height, width]`, and so is the result
    pub fn forward(&self, x: Tensor<4>, statistics: &mut Statistics) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let dtype = x.dtype();
        let x = x.cast(DType::F32);
        let normalized = match statistics {
            Statistics::Running => {
                let (factor, shift) = self.running();
                let per_channel = [1, channels, 1, 1];
                x * factor.reshape(per_channel) + shift.reshape(per_channel)
            }
            Statistics::OfBatch(found) => {
                let normalized =
                    batch_norm_train(x, self.gamma.val(), self.beta.val(), BATCH_NORM_EPSILON);
                found.0.push(Moments {
                    count: batch * height * width,
                    mean: normalized.mean.without_autodiff(),
                    variance: normalized.variance.without_autodiff(),
                });
                normalized.output
            }
        };
        normalized.cast(dtype)
    }

    /// What each channel is multiplied by, and what is added to it, by the running statistics; both `[channels]`.
    pub(super) fn running(&self) -> (Tensor<1>, Tensor<1>) {
        let deviation = self
            .running_var
            .value()
            .add_scalar(BATCH_NORM_EPSILON)
            .sqrt();
        let factor = self.gamma.val() / deviation;
        let shift = self.beta.val() - self.running_mean.value() * factor.clone();
        (factor, shift)
    }

    fn update(&self, found: &Moments) {
        let unbiased = found.count as f64 / (found.count.max(2) - 1) as f64;
        let mixed = |running: &RunningState<Tensor<1>>, now: Tensor<1>| {
            let past = running.value().without_autodiff();
            set(
                running,
                past.mul_scalar(1.0 - MOMENTUM) + now.mul_scalar(MOMENTUM),
            );
        };
        mixed(&self.running_mean, found.mean.clone());
        mixed(
            &self.running_var,
            found.variance.clone().mul_scalar(unbiased),
        );
        let tracked = self.num_batches_tracked.value().without_autodiff();
        set(&self.num_batches_tracked, tracked.add_scalar(1.0));
    }
}

/// Burn keeps an update by its thread until the same thread asks for the value.
fn set(running: &RunningState<Tensor<1>>, value: Tensor<1>) {
    let autodiff = running.value().device().is_autodiff();
    running.update(if autodiff {
        Tensor::from_inner(value)
    } else {
        value
    });
    running.value_sync();
}

impl BatchStatistics {
    /// The mean and variance of a whole batch from those of its parts, in the order given.
    ///
    /// # Panics
    /// If the parts are not of one encoder.
    pub fn merge(parts: Vec<Self>) -> Self {
        let merge = |whole: Self, part: Self| {
            assert_eq!(whole.0.len(), part.0.len(), "parts of one encoder");
            let layers = whole.0.into_iter().zip(part.0);
            Self(layers.map(|(a, b)| a.merge(b)).collect())
        };
        parts.into_iter().reduce(merge).unwrap_or_default()
    }

    /// The statistics on another device.
    pub fn to_device(self, device: &Device) -> Self {
        let moved = self.0.into_iter().map(|moments| Moments {
            mean: moments.mean.to_device(device),
            variance: moments.variance.to_device(device),
            ..moments
        });
        Self(moved.collect())
    }

    /// Lets `layers` take up what they saw, each its own.
    pub(super) fn update<'a>(&self, layers: impl Iterator<Item = &'a BatchNorm>) {
        for (layer, found) in layers.zip(&self.0) {
            layer.update(found);
        }
    }
}

impl Moments {
    /// Chan et al. 1979, without cancellation.
    fn merge(self, other: Self) -> Self {
        let count = self.count + other.count;
        let share = other.count as f64 / count as f64;
        let apart = other.mean - self.mean.clone();
        let within = self.variance.mul_scalar(1.0 - share) + other.variance.mul_scalar(share);
        Self {
            count,
            mean: self.mean + apart.clone().mul_scalar(share),
            variance: within + apart.square().mul_scalar(share * (1.0 - share)),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, Tolerance};

    use super::*;

    #[test]
    fn parts_of_a_batch_have_the_statistics_of_the_whole() {
        let device = Device::flex();
        let x = Tensor::<4>::random([7, 3, 2, 4], Distribution::Normal(2.0, 3.0), &device);
        let after = |parts: Vec<Tensor<4>>| {
            let layer = BatchNorm::init(3, 1.0, &mut Init::new(0, &device));
            let found = parts.into_iter().map(|part| {
                let mut statistics = Statistics::OfBatch(BatchStatistics::default());
                layer.forward(part, &mut statistics);
                statistics.of_batch()
            });
            let found = BatchStatistics::merge(found.collect());
            found.update([&layer].into_iter());
            layer
        };
        let whole = after(vec![x.clone()]);
        let parts = after(vec![
            x.clone().narrow(0, 0, 1),
            x.clone().narrow(0, 1, 4),
            x.narrow(0, 5, 2),
        ]);
        for (whole, parts) in [
            (&whole.running_mean, &parts.running_mean),
            (&whole.running_var, &parts.running_var),
            (&whole.num_batches_tracked, &parts.num_batches_tracked),
        ] {
            parts
                .value()
                .into_data()
                .assert_approx_eq::<f32>(&whole.value().into_data(), Tolerance::default());
        }
    }
}
