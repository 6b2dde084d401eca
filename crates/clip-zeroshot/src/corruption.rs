use std::{fmt, io::Cursor, str::FromStr};

use image::{ExtendedColorType, ImageFormat, codecs::jpeg::JpegEncoder};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Severities of each corruption, from 1.
pub const SEVERITIES: usize = 5;

/// Side of the images that the benchmark's sizes in pixels are meant for.
const REFERENCE_SIDE: f32 = 224.0;

/// Ways to damage a picture: six of the benchmark's, one of each of its groups at least but weather.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CorruptionKind {
    /// Normal noise on every value, as of too little light.
    GaussianNoise,
    /// A Gaussian blur; its width scales with the image, which is 224 pixels wide in the benchmark.
    GaussianBlur,
    /// Less contrast around each channel's mean.
    Contrast,
    /// A higher value in HSV.
    Brightness,
    /// JPEG at a low quality.
    Jpeg,
    /// Fewer, larger pixels.
    Pixelate,
}

impl CorruptionKind {
    /// All, in the order of reports.
    pub const ALL: [Self; 6] = [
        Self::GaussianNoise,
        Self::GaussianBlur,
        Self::Contrast,
        Self::Brightness,
        Self::Jpeg,
        Self::Pixelate,
    ];

    /// The name that flags and reports use.
    pub fn name(self) -> &'static str {
        match self {
            Self::GaussianNoise => "gaussian_noise",
            Self::GaussianBlur => "gaussian_blur",
            Self::Contrast => "contrast",
            Self::Brightness => "brightness",
            Self::Jpeg => "jpeg",
            Self::Pixelate => "pixelate",
        }
    }

    /// The benchmark's setting of each severity.
    fn settings(self) -> [f32; SEVERITIES] {
        match self {
            // Standard deviation, of values between 0 and 1.
            Self::GaussianNoise => [0.08, 0.12, 0.18, 0.26, 0.38],
            // Standard deviation in pixels.
            Self::GaussianBlur => [1.0, 2.0, 3.0, 4.0, 6.0],
            // Share of the contrast that stays.
            Self::Contrast => [0.4, 0.3, 0.2, 0.1, 0.05],
            // Added to the value.
            Self::Brightness => [0.1, 0.2, 0.3, 0.4, 0.5],
            // Quality.
            Self::Jpeg => [25.0, 18.0, 15.0, 10.0, 7.0],
            // Share of the pixels a side that stay.
            Self::Pixelate => [0.6, 0.5, 0.4, 0.3, 0.25],
        }
    }
}

impl fmt::Display for CorruptionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for CorruptionKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("there is no corruption `{text}`: it is one of {names}")
        })
    }
}

/// A corruption at a severity, applied to images after they are cropped to the model's size.
///
/// # References
/// Hendrycks & Dietterich 2019, [Benchmarking Neural Network Robustness to Common Corruptions and
/// Perturbations](https://arxiv.org/abs/1903.12261); the settings are those of its published code for `ImageNet-C`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corruption {
    kind: CorruptionKind,
    severity: usize,
}

impl Corruption {
    /// `None` for a severity that isn't between 1 and [`SEVERITIES`].
    pub fn new(kind: CorruptionKind, severity: usize) -> Option<Self> {
        (1..=SEVERITIES)
            .contains(&severity)
            .then_some(Self { kind, severity })
    }

    /// Damages images in place. `first` is the first one's position among all, the seed of its noise: batches of any
    /// size are damaged alike.
    ///
    /// # Shapes
    /// - `pixels`: `[batch, side, side, 3]`, red, green and blue from 0 to 255
    pub fn apply(self, pixels: &mut [u8], side: usize, first: usize) {
        let setting = self.kind.settings()[self.severity - 1];
        for (image, position) in pixels.chunks_exact_mut(side * side * 3).zip(first..) {
            match self.kind {
                CorruptionKind::GaussianNoise => noise(image, setting, position as u64),
                CorruptionKind::GaussianBlur => {
                    blur(image, side, setting * side as f32 / REFERENCE_SIDE);
                }
                CorruptionKind::Contrast => contrast(image, setting),
                CorruptionKind::Brightness => brightness(image, setting),
                CorruptionKind::Jpeg => jpeg(image, side, setting as u8),
                CorruptionKind::Pixelate => pixelate(image, side, setting),
            }
        }
    }
}

/// A float from 0 to 255 to the nearest byte.
fn to_byte(value: f32) -> u8 {
    value.round().clamp(0.0, 255.0) as u8
}

fn noise(image: &mut [u8], deviation: f32, seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for pair in image.chunks_mut(2) {
        // Box and Muller: two normal draws of two uniform ones. 1 - u is never 0.
        let (u, turn): (f32, f32) = (rng.random(), rng.random());
        let length = 255.0 * deviation * (-2.0 * (1.0 - u).ln()).sqrt();
        let (sin, cos) = (std::f32::consts::TAU * turn).sin_cos();
        for (value, direction) in pair.iter_mut().zip([sin, cos]) {
            *value = to_byte(f32::from(*value) + length * direction);
        }
    }
}

/// Rows, then columns; the edge repeats.
fn blur(image: &mut [u8], side: usize, deviation: f32) {
    let radius = (4.0 * deviation).ceil() as usize;
    let mut kernel: Vec<f32> = (0..=2 * radius)
        .map(|at| (-0.5 * ((at as f32 - radius as f32) / deviation).powi(2)).exp())
        .collect();
    let sum: f32 = kernel.iter().sum();
    for weight in &mut kernel {
        *weight /= sum;
    }
    let mut from: Vec<f32> = image.iter().map(|&value| f32::from(value)).collect();
    let mut to = vec![0.0; from.len()];
    for steps in [[3 * side, 3], [3, 3 * side]] {
        for line in 0..side {
            for at in 0..side {
                for channel in 0..3 {
                    let start = line * steps[0] + channel;
                    let values = kernel.iter().enumerate().map(|(tap, weight)| {
                        let place = (at + tap).saturating_sub(radius).min(side - 1);
                        weight * from[start + place * steps[1]]
                    });
                    to[start + at * steps[1]] = values.sum();
                }
            }
        }
        std::mem::swap(&mut from, &mut to);
    }
    for (value, blurred) in image.iter_mut().zip(from) {
        *value = to_byte(blurred);
    }
}

fn contrast(image: &mut [u8], kept: f32) {
    let pixels = (image.len() / 3) as f32;
    for channel in 0..3 {
        let values = image.iter().skip(channel).step_by(3);
        let mean = values.map(|&value| f32::from(value)).sum::<f32>() / pixels;
        for value in image.iter_mut().skip(channel).step_by(3) {
            *value = to_byte((f32::from(*value) - mean) * kept + mean);
        }
    }
}

/// The largest channel is HSV's value; the others stay in proportion to it.
fn brightness(image: &mut [u8], added: f32) {
    for pixel in image.chunks_exact_mut(3) {
        let value = f32::from(*pixel.iter().max().unwrap_or(&0));
        let brighter = (value + 255.0 * added).min(255.0);
        for channel in pixel {
            *channel = if value > 0.0 {
                to_byte(f32::from(*channel) * brighter / value)
            } else {
                to_byte(brighter)
            };
        }
    }
}

fn jpeg(image: &mut [u8], side: usize, quality: u8) {
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut bytes, quality);
    // invariant: models' images are far smaller than JPEG's limit of 65,535 pixels a side.
    encoder
        .encode(image, side as u32, side as u32, ExtendedColorType::Rgb8)
        .expect("invariant: a small image has a JPEG");
    let decoded = image::ImageReader::with_format(Cursor::new(bytes), ImageFormat::Jpeg)
        .decode()
        .expect("invariant: what was just encoded can be decoded");
    image.copy_from_slice(decoded.into_rgb8().as_raw());
}

/// Mean colours of a coarse grid, then each pixel takes that of the cell that its centre lies in.
fn pixelate(image: &mut [u8], side: usize, kept: f32) {
    let cells = ((side as f32 * kept) as usize).max(1);
    let cell_of = |at: usize| (2 * at + 1) * cells / (2 * side);
    let mut sums = vec![[0u32; 4]; cells * cells];
    for (at, pixel) in image.chunks_exact(3).enumerate() {
        let sum = &mut sums[cell_of(at / side) * cells + cell_of(at % side)];
        for (sum, &value) in sum.iter_mut().zip(pixel) {
            *sum += u32::from(value);
        }
        sum[3] += 1;
    }
    for (at, pixel) in image.chunks_exact_mut(3).enumerate() {
        let sum = sums[cell_of(at / side) * cells + cell_of(at % side)];
        for (value, total) in pixel.iter_mut().zip(sum) {
            *value = ((total + sum[3] / 2) / sum[3]) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Large enough for the weakest blur, whose width scales with the image, to reach the next level of a byte.
    const SIDE: usize = 112;

    /// Stripes on a ramp: contrast, edges and colour.
    fn image() -> Vec<u8> {
        (0..SIDE * SIDE)
            .flat_map(|at| {
                let (row, column) = (at / SIDE, at % SIDE);
                let stripe = if column % 7 < 3 { 40 } else { 160 };
                [stripe, (row * 3) as u8, 90]
            })
            .collect()
    }

    fn damaged(kind: CorruptionKind, severity: usize, first: usize) -> Vec<u8> {
        let mut pixels = image();
        Corruption::new(kind, severity)
            .unwrap()
            .apply(&mut pixels, SIDE, first);
        pixels
    }

    fn distance(pixels: &[u8]) -> f64 {
        let squares = pixels.iter().zip(image()).map(|(&a, b)| {
            let difference = f64::from(a) - f64::from(b);
            difference * difference
        });
        squares.sum()
    }

    #[test]
    fn each_severity_is_worse_than_the_one_before() {
        for kind in CorruptionKind::ALL {
            let distances: Vec<f64> = (1..=SEVERITIES)
                .map(|severity| distance(&damaged(kind, severity, 0)))
                .collect();
            // Half the pixels (severity 2) cut these stripes more evenly than three fifths do.
            let steps = if kind == CorruptionKind::Pixelate {
                &distances[1..]
            } else {
                &distances[..]
            };
            let rises = steps.windows(2).all(|pair| pair[0] < pair[1]);
            assert!(distances[0] > 0.0 && rises, "{kind}: {distances:?}");
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        assert!(
            "fog"
                .parse::<CorruptionKind>()
                .unwrap_err()
                .contains("jpeg")
        );
        assert_eq!(Corruption::new(CorruptionKind::Jpeg, 6), None);
    }

    #[test]
    fn an_image_is_damaged_alike_in_every_batch() {
        let corruption = Corruption::new(CorruptionKind::GaussianNoise, 3).unwrap();
        let mut both = [image(), image()].concat();
        corruption.apply(&mut both, SIDE, 7);
        let (first, second) = both.split_at(image().len());
        assert_eq!(second, damaged(CorruptionKind::GaussianNoise, 3, 8));
        assert_ne!(first, second, "the noise is each image's own");
    }

    #[test]
    fn noise_and_contrast_have_the_benchmarks_strength() {
        let mut grey = vec![128u8; SIDE * SIDE * 3];
        noise(&mut grey, 0.08, 1);
        let squares: f64 = grey.iter().map(|&v| (f64::from(v) - 128.0).powi(2)).sum();
        let deviation = (squares / grey.len() as f64).sqrt() / 255.0;
        // 9,408 draws: the deviation of a deviation is 0.7% of it.
        assert!((deviation - 0.08).abs() < 0.003, "{deviation}");
        let mut two = [0u8, 0, 0, 200, 200, 200];
        contrast(&mut two, 0.1);
        assert_eq!(two, [90, 90, 90, 110, 110, 110]);
        let mut pixel = [50u8, 100, 0];
        brightness(&mut pixel, 0.2);
        // The value rises from 100 to 151; hue and saturation stay.
        assert_eq!(pixel, [76, 151, 0]);
    }
}
