use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use burn::tensor::{DType, Tensor, activation};

/// A block's non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * Phi(x)`, what OpenCLIP's plain presets use.
    Gelu,
    /// `x * sigmoid(1.702 x)`, what OpenAI's weights were trained with.
    QuickGelu,
    /// GELU by its approximation with tanh, what SigLIP 2's text encoders use.
    GeluTanh,
}

impl Activation {
    /// Applies the function to each element, computing in f32.
    ///
    /// An autodiff graph keeps the derivative at `x` and nothing else, or nothing at all where `x` needs no gradient, as in
    /// locked layers. That is less than what Burn's operations keep for all but GELU, whose gradient by Burn is on GPUs that
    /// of the approximation with tanh: off by up to 9e-4.
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        let dtype = x.dtype();
        if !x.is_tracked() {
            return self.value(at_least_f32(x)).cast(dtype);
        }
        let here = x.clone().detach();
        let wide = at_least_f32(here.clone());
        let [slope, value] = [self.slope(wide.clone()), self.value(wide)].map(|y| y.cast(dtype));
        // Zero beside the value, and the derivative on the way back.
        (x - here) * slope + value
    }

    /// The same in kernels for GPUs.
    #[cfg(feature = "gpu")]
    pub(super) fn on_gpu(self) -> clip_cube::Activation {
        match self {
            Self::Gelu => clip_cube::Activation::Gelu,
            Self::GeluTanh => clip_cube::Activation::GeluTanh,
            Self::QuickGelu => clip_cube::Activation::QuickGelu,
        }
    }

    fn value<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Gelu => activation::gelu(x),
            Self::GeluTanh => activation::gelu_approximate(x),
            Self::QuickGelu => x.clone() * activation::sigmoid(x * QUICK),
        }
    }

    /// The derivative at each element, in f32 at least.
    pub(super) fn slope<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        let x = at_least_f32(x);
        match self {
            Self::Gelu => {
                let phi = ((x.clone() * FRAC_1_SQRT_2).erf() + 1.0) * 0.5;
                let density = (x.clone() * x.clone() * -0.5).exp() * (SQRT_2_OVER_PI * 0.5);
                phi + x * density
            }
            Self::GeluTanh => {
                let squared = x.clone() * x.clone();
                let inner = x.clone() * (squared.clone() * CUBIC + 1.0) * SQRT_2_OVER_PI;
                let slope = (squared * (3.0 * CUBIC) + 1.0) * SQRT_2_OVER_PI;
                let tanh = inner.tanh();
                let bell = tanh.clone() * tanh.clone() * -1.0 + 1.0;
                (tanh + x * bell * slope + 1.0) * 0.5
            }
            Self::QuickGelu => {
                let gate = activation::sigmoid(x.clone() * QUICK);
                let tail = gate.clone() * -1.0 + 1.0;
                gate * (x * tail * QUICK + 1.0)
            }
        }
    }
}

/// Half precision for as long as it takes to compute: a GPU does it in one kernel.
fn at_least_f32<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match x.dtype() {
        DType::BF16 | DType::F16 => x.cast(DType::F32),
        _ => x,
    }
}

/// OpenAI, `clip/model.py`, `QuickGELU`.
const QUICK: f64 = 1.702;

const SQRT_2_OVER_PI: f64 = FRAC_2_SQRT_PI * FRAC_1_SQRT_2;

/// Hendrycks and Gimpel, "Gaussian Error Linear Units", section 2.
const CUBIC: f64 = 0.044_715;

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData, Tolerance};

    use super::*;

    /// What f32 can tell of numbers around 1, of an error function that is off by 1.5e-7.
    const ROUNDING: f32 = 1e-6;

    /// By differences of values in f64.
    fn derivative(activation: Activation, x: &[f64]) -> TensorData {
        const STEP: f64 = 1e-5;
        let at = |offset: f64| {
            let x: Vec<f64> = x.iter().map(|x| x + offset).collect();
            let data = TensorData::new(x, [41]);
            activation.value(Tensor::<1>::from_data(data, (&Device::flex(), DType::F64)))
        };
        ((at(STEP) - at(-STEP)) / (2.0 * STEP))
            .into_data()
            .convert::<f32>()
    }

    #[test]
    fn gradients_are_the_derivatives() {
        let places: Vec<f64> = (-20..=20).map(|at| f64::from(at) * 0.3).collect();
        for activation in [
            Activation::Gelu,
            Activation::GeluTanh,
            Activation::QuickGelu,
        ] {
            let device = Device::default().autodiff();
            let x = Tensor::<1>::from_data(TensorData::new(places.clone(), [41]), &device);
            let x = x.require_grad();
            let y = activation.forward(x.clone());
            let weight = Tensor::from_data([2.0], &device);
            let grads = (y.clone() * weight).sum().backward();
            let tolerance = Tolerance::<f32>::rel_abs(ROUNDING, ROUNDING);
            (x.grad(&grads).unwrap() / 2.0)
                .into_data()
                .assert_approx_eq::<f32>(&derivative(activation, &places), tolerance);

            // A GPU may round a fused kernel otherwise.
            let inference = activation.forward(x.clone().inner()).into_data();
            y.into_data()
                .assert_approx_eq::<f32>(&inference, Tolerance::rel_abs(ROUNDING, ROUNDING));
            let locked = activation.forward(Tensor::from_inner(x.inner()));
            assert!(!locked.is_tracked());
            assert_eq!(locked.into_data(), inference);
        }
    }
}
