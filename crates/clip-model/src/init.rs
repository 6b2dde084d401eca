use std::{num::NonZero, thread};

use burn::{
    module::{Param, ParamId, RunningState},
    nn::{Embedding, LayerNorm, LayerNormConfig, Linear},
    tensor::{Device, Shape, Tensor, TensorData},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Words of the generator that a number in `[0, 1)` takes.
const UNIT_WORDS: usize = 2;
/// Values that are worth a thread of their own: some milliseconds of work.
const VALUES_OF_A_THREAD: usize = 1 << 17;

/// Draws initial weights on the host, so that a seed means the same weights on every backend.
///
/// The distributions are OpenAI's (`clip/model.py`, `initialize_parameters`), and PyTorch's
/// defaults where that code leaves them.
#[derive(Debug)]
pub struct Init {
    rng: ChaCha8Rng,
    device: Device,
    created: u64,
    /// Whether nothing is drawn, and all is 0.
    blank: bool,
}

impl Init {
    /// Starts the draws of `seed`; parameters are created on `device`.
    pub fn new(seed: u64, device: &Device) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            device: device.clone(),
            created: 0,
            blank: false,
        }
    }

    /// Draws nothing: every parameter is 0, until a file's values replace it. That takes no time, and on a CPU
    /// no memory before the values are written.
    pub fn blank(device: &Device) -> Self {
        Self {
            blank: true,
            ..Self::new(0, device)
        }
    }

    /// Where the parameters are created.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Normal with mean 0.
    pub fn normal<const D: usize>(&mut self, shape: [usize; D], std: f64) -> Param<Tensor<D>> {
        let values = self.normals(shape.iter().product(), std);
        self.param(shape, values)
    }

    /// Rows that are normal with mean 0, but for that of padding, which is 0 as PyTorch's `padding_idx` makes it.
    pub fn padded_embedding(&mut self, shape: [usize; 2], std: f64, padding: usize) -> Embedding {
        let [rows, width] = shape;
        let mut values = self.normals(rows * width, std);
        values[padding * width..(padding + 1) * width].fill(0.0);
        Embedding {
            weight: self.param(shape, values),
        }
    }

    /// Uniform in `[-bound, bound)`.
    pub fn uniform<const D: usize>(&mut self, shape: [usize; D], bound: f64) -> Param<Tensor<D>> {
        let draw = |rng: &mut ChaCha8Rng| ((2.0 * unit(rng) - 1.0) * bound) as f32;
        let values = self.drawn(shape.iter().product(), UNIT_WORDS, draw);
        self.param(shape, values)
    }

    /// One value everywhere.
    pub fn constant<const D: usize>(&mut self, shape: [usize; D], value: f32) -> Param<Tensor<D>> {
        self.param(shape, vec![value; shape.iter().product()])
    }

    /// Normal with mean 0, drawn again when further than two deviations away (timm's `trunc_normal_tf_`).
    pub fn truncated_normal<const D: usize>(
        &mut self,
        shape: [usize; D],
        std: f64,
    ) -> Param<Tensor<D>> {
        let count = shape.iter().product();
        let values = if self.blank {
            vec![0.0; count]
        } else {
            let rng = &mut self.rng;
            let normals = std::iter::repeat_with(|| standard_normal(rng));
            let within = normals.filter(|normal| normal.abs() <= 2.0);
            within
                .take(count)
                .map(|normal| (normal * std) as f32)
                .collect()
        };
        self.param(shape, values)
    }

    /// State that no gradient moves, numbered as a parameter is.
    pub fn running<const D: usize>(
        &mut self,
        shape: [usize; D],
        value: f32,
    ) -> RunningState<Tensor<D>> {
        self.created += 1;
        let value = Tensor::full(shape, value, &self.device);
        RunningState::with_id(ParamId::from(self.created), value)
    }

    /// A linear layer with normal weights and PyTorch's default bias, `U(±1/sqrt(d_input))`.
    pub fn linear_normal(&mut self, d_input: usize, d_output: usize, std: f64) -> Linear {
        let bound = 1.0 / (d_input as f64).sqrt();
        Linear {
            weight: self.normal([d_input, d_output], std),
            bias: Some(self.uniform([d_output], bound)),
        }
    }

    /// A linear layer with normal weights and a bias of 0, as timm's models begin. timm's bounds, 100 deviations of 0.02
    /// away, cut nothing off.
    pub fn linear_of_timm(&mut self, d_input: usize, d_output: usize, std: f64) -> Linear {
        Linear {
            weight: self.normal([d_input, d_output], std),
            bias: Some(self.constant([d_output], 0.0)),
        }
    }

    /// PyTorch's default linear layer: weight and bias `U(±1/sqrt(d_input))`.
    pub fn linear(&mut self, d_input: usize, d_output: usize) -> Linear {
        let bound = 1.0 / (d_input as f64).sqrt();
        Linear {
            weight: self.uniform([d_input, d_output], bound),
            bias: Some(self.uniform([d_output], bound)),
        }
    }

    /// Gain 1, bias 0.
    pub fn layer_norm(&mut self, width: usize, epsilon: f64) -> LayerNorm {
        let config = LayerNormConfig::new(width).with_epsilon(epsilon);
        let mut layer = config.init(&self.device);
        layer.gamma = self.constant([width], 1.0);
        layer.beta = Some(self.constant([width], 0.0));
        layer
    }

    /// Values that take so many words of the generator each, on all processors: each thread goes to the place in the
    /// generator's stream where its part begins, so they are those that one thread draws.
    fn drawn(
        &mut self,
        count: usize,
        words: usize,
        draw: impl Fn(&mut ChaCha8Rng) -> f32 + Sync,
    ) -> Vec<f32> {
        let mut values = vec![0.0; count];
        if !self.blank {
            let start = self.rng.get_word_pos();
            let place = |value: usize| start + (value * words) as u128;
            let threads = thread::available_parallelism().map_or(1, NonZero::get);
            let part = values.len().div_ceil(threads).max(VALUES_OF_A_THREAD);
            let fill = |first: usize, values: &mut [f32]| {
                let mut rng = self.rng.clone();
                rng.set_word_pos(place(first));
                values.fill_with(|| draw(&mut rng));
            };
            if values.len() <= part {
                fill(0, &mut values);
            } else {
                thread::scope(|scope| {
                    let fill = &fill;
                    for (nth, part_of) in values.chunks_mut(part).enumerate() {
                        scope.spawn(move || fill(nth * part, part_of));
                    }
                });
            }
            self.rng.set_word_pos(place(values.len()));
        }
        values
    }

    fn normals(&mut self, count: usize, std: f64) -> Vec<f32> {
        self.drawn(count, 2 * UNIT_WORDS, |rng| {
            (standard_normal(rng) * std) as f32
        })
    }

    /// Parameters are numbered as they are made, so that an optimizer's saved state finds its own again.
    fn param<const D: usize>(&mut self, shape: [usize; D], values: Vec<f32>) -> Param<Tensor<D>> {
        let data = TensorData::new(values, Shape::from(shape));
        self.created += 1;
        let tensor = Tensor::from_data(data, &self.device);
        let tensor = if self.device.is_autodiff() {
            tensor.require_grad()
        } else {
            tensor
        };
        Param::initialized(ParamId::from(self.created), tensor)
    }
}

/// Uniform in `[0, 1)`.
fn unit(rng: &mut ChaCha8Rng) -> f64 {
    // 53 bits: every value a double can hold in steps of 2^-53.
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Box and Muller 1958; the second value of a pair is not kept, so that draws don't depend on history.
fn standard_normal(rng: &mut ChaCha8Rng) -> f64 {
    let radius = (-2.0 * (1.0 - unit(rng)).ln()).sqrt();
    radius * (std::f64::consts::TAU * unit(rng)).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_threads_draws_what_one_does() {
        let rows = 2 * VALUES_OF_A_THREAD / 64 + 5;
        let mut init = Init::new(7, &Device::flex());
        let drawn = [init.normal([rows, 64], 0.5), init.uniform([rows, 64], 0.5)];
        let after = init.normal([3], 1.0).val().into_data();

        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let normals: Vec<f32> = std::iter::repeat_with(|| (standard_normal(&mut rng) * 0.5) as f32)
            .take(rows * 64)
            .collect();
        let uniform = |_| ((2.0 * unit(&mut rng) - 1.0) * 0.5) as f32;
        let uniforms: Vec<f32> = (0..rows * 64).map(uniform).collect();
        let [first, second] = drawn.map(|param| param.val().into_data());
        assert!(first.as_slice::<f32>().unwrap() == normals);
        assert!(second.as_slice::<f32>().unwrap() == uniforms);
        let last: Vec<f32> = (0..3).map(|_| standard_normal(&mut rng) as f32).collect();
        assert_eq!(after.as_slice::<f32>().unwrap(), last);
    }
}
