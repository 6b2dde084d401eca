use std::f32::consts::{FRAC_1_SQRT_2, LN_2, LOG2_E};

use crate::rows::vectorized;

/// The non-linearity of a block's MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * Phi(x)`.
    Gelu,
    /// GELU by its approximation with tanh.
    GeluTanh,
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
}

/// A function's value and derivative at a place.
type Point = (f32, f32);

impl Activation {
    /// The values at `x`.
    pub(crate) fn values(self, x: &[f32], values: &mut [f32]) {
        match self {
            Self::Gelu => each(x, values, gelu),
            Self::GeluTanh => each(x, values, gelu_tanh),
            Self::QuickGelu => each(x, values, quick_gelu),
        }
    }

    /// The values at `x`, and the derivatives.
    pub(crate) fn values_and_slopes(self, x: &[f32], values: &mut [f32], slopes: &mut [f32]) {
        match self {
            Self::Gelu => each_with_slope(x, values, slopes, gelu),
            Self::GeluTanh => each_with_slope(x, values, slopes, gelu_tanh),
            Self::QuickGelu => each_with_slope(x, values, slopes, quick_gelu),
        }
    }
}

#[inline(always)]
fn each(x: &[f32], values: &mut [f32], at: impl Fn(f32) -> Point) {
    vectorized(
        #[inline(always)]
        || {
            for (x, value) in x.iter().zip(values) {
                *value = at(*x).0;
            }
        },
    );
}

#[inline(always)]
fn each_with_slope(x: &[f32], values: &mut [f32], slopes: &mut [f32], at: impl Fn(f32) -> Point) {
    vectorized(
        #[inline(always)]
        || {
            for ((x, value), slope) in x.iter().zip(values).zip(slopes) {
                (*value, *slope) = at(*x);
            }
        },
    );
}

#[inline(always)]
fn gelu(x: f32) -> Point {
    // Phi by erf's approximation 7.1.26 of Abramowitz and Stegun, 1.5e-7 off at most: about what f32 can tell.
    const POLYNOMIAL: [f32; 5] = [
        1.061_405_4,
        -1.453_152,
        1.421_413_7,
        -0.284_496_74,
        0.254_829_6,
    ];
    const SQRT_TAU: f32 = 2.506_628_3;
    let z = x.abs() * FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let bell = exp(-z * z);
    let tail = 0.5
        * bell
        * t
        * POLYNOMIAL
            .into_iter()
            .fold(0.0, |sum, factor| sum * t + factor);
    let phi = if x < 0.0 { tail } else { 1.0 - tail };
    (x * phi, phi + x * bell / SQRT_TAU)
}

#[inline(always)]
fn gelu_tanh(x: f32) -> Point {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    const CUBE: f32 = 0.044_715;
    let u = SQRT_2_OVER_PI * (x + CUBE * x * x * x);
    // (1 + tanh u) / 2
    let s = sigmoid(2.0 * u);
    let du = SQRT_2_OVER_PI * (1.0 + 3.0 * CUBE * x * x);
    (x * s, s + x * 2.0 * s * (1.0 - s) * du)
}

#[inline(always)]
fn quick_gelu(x: f32) -> Point {
    const SHARPNESS: f32 = 1.702;
    let s = sigmoid(SHARPNESS * x);
    (x * s, s + SHARPNESS * x * s * (1.0 - s))
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `e^x` without branches, two units in the last place off at most; 0 below -87, `e^88` above 88.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Cephes, expf: e^r on [-ln 2 / 2, ln 2 / 2], highest power first.
    const POLYNOMIAL: [f32; 6] = [
        1.987_569_1e-4,
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        5.0e-1,
    ];
    // Adding it rounds to a whole number, which is then in the last bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts: a whole number times the first is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const _: () = assert!((LN_2_HIGH + LN_2_LOW - LN_2).abs() < 1e-7);
    let within = x.clamp(-87.0, 88.0);
    let shifted = within * LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let r = within - whole * LN_2_HIGH - whole * LN_2_LOW;
    let sum = POLYNOMIAL
        .into_iter()
        .fold(0.0, |sum, factor| sum * r + factor);
    let power = sum * r * r + r + 1.0;
    // 2^whole: the whole number in an exponent's place.
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    if x < -87.0 { 0.0 } else { power * scale }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Within f32's reach of the f64 function.
    #[test]
    fn exp_is_the_function_of_its_name() {
        let mut worst = 0.0_f64;
        for step in -8_700..=8_800 {
            let x = step as f32 / 100.0;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) / exact - 1.0).abs());
        }
        assert!(worst < 3e-7, "{worst:e}");
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
    }

    /// Values against the definitions in f64, where Phi is integrated; slopes against differences of values in f64.
    #[test]
    fn activations_are_their_definitions() {
        let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let phi = |x: f64| {
            let steps = 2_000;
            let width = x / f64::from(steps);
            let middle = (0..steps).map(|step| density((f64::from(step) + 0.5) * width));
            0.5 + middle.sum::<f64>() * width
        };
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let tanh = |x: f64| (0.797_884_560_802_865_4 * (x + 0.044_715 * x.powi(3))).tanh();
        let definitions: [(Activation, &dyn Fn(f64) -> f64); 3] = [
            (Activation::Gelu, &|x| x * phi(x)),
            (Activation::GeluTanh, &|x| 0.5 * x * (1.0 + tanh(x))),
            (Activation::QuickGelu, &|x| x * sigmoid(1.702 * x)),
        ];
        let x: Vec<f32> = (-80..=80).map(|step| step as f32 / 10.0).collect();
        for (activation, definition) in definitions {
            let (mut values, mut slopes) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            activation.values_and_slopes(&x, &mut values, &mut slopes);
            let mut alone = vec![0.0; x.len()];
            activation.values(&x, &mut alone);
            assert_eq!(alone, values);
            for ((x, value), slope) in x.iter().zip(values).zip(slopes) {
                let at = f64::from(*x);
                let difference = (definition(at + 1e-4) - definition(at - 1e-4)) / 2e-4;
                assert!(
                    (f64::from(value) - definition(at)).abs() < 1e-6,
                    "{activation:?} {x}"
                );
                assert!(
                    (f64::from(slope) - difference).abs() < 2e-6,
                    "{activation:?}' {x}"
                );
            }
        }
    }
}
