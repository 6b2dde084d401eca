use burn::{
    module::{Param, ParamId, RunningState},
    nn::{LayerNorm, LayerNormConfig, Linear},
    tensor::{Device, Shape, Tensor, TensorData},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

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
        self.drawn(shape, |init| (init.standard_normal() * std) as f32)
    }

    /// Uniform in `[-bound, bound)`.
    pub fn uniform<const D: usize>(&mut self, shape: [usize; D], bound: f64) -> Param<Tensor<D>> {
        self.drawn(shape, |init| ((2.0 * init.unit() - 1.0) * bound) as f32)
    }

    /// The same value everywhere.
    pub fn constant<const D: usize>(&mut self, shape: [usize; D], value: f32) -> Param<Tensor<D>> {
        self.param(shape, vec![value; shape.iter().product()])
    }

    /// Normal with mean 0, drawn again when further than two deviations away (timm's `trunc_normal_tf_`).
    pub fn truncated_normal<const D: usize>(
        &mut self,
        shape: [usize; D],
        std: f64,
    ) -> Param<Tensor<D>> {
        self.drawn(shape, |init| {
            let within = std::iter::repeat_with(|| init.standard_normal()).find(|x| x.abs() <= 2.0);
            (within.unwrap_or_default() * std) as f32
        })
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

    fn drawn<const D: usize>(
        &mut self,
        shape: [usize; D],
        mut draw: impl FnMut(&mut Self) -> f32,
    ) -> Param<Tensor<D>> {
        let count = shape.iter().product();
        let values = if self.blank {
            vec![0.0; count]
        } else {
            (0..count).map(|_| draw(self)).collect()
        };
        self.param(shape, values)
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

    fn unit(&mut self) -> f64 {
        // 53 bits: every value a double can hold in steps of 2^-53.
        (self.rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Box and Muller 1958; the second value of a pair is not kept, so that draws don't depend on history.
    fn standard_normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}
