use std::ops::Range;

use burn::tensor::{Bytes, DType, Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

/// Mean and deviation of each colour channel, in units of full intensity.
///
/// # References
/// OpenAI's CLIP, `clip/clip.py`, `_transform`; OpenCLIP, `open_clip/constants.py`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageNorm {
    /// Mean of red, green and blue.
    pub mean: [f32; 3],
    /// Standard deviation of red, green and blue.
    pub std: [f32; 3],
}

impl Default for ImageNorm {
    fn default() -> Self {
        Self {
            mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
        }
    }
}

impl ImageNorm {
    /// Turns decoded pixels into the encoder's input. The bytes travel, if the device knows bytes; the arithmetic is its
    /// own.
    ///
    /// # Shapes
    /// - `pixels`: `batch * size * size * 3` bytes, row by row, channels innermost
    /// - returns `[batch, 3, size, size]`
    pub fn to_tensor(&self, pixels: Vec<u8>, size: usize, device: &Device) -> Tensor<4> {
        self.bytes_to_tensor(Bytes::from_bytes_vec(pixels), size, device)
    }

    /// Normalised images of bytes that may be shared, such as a part of a batch: they aren't copied on this side.
    ///
    /// # Shapes
    /// As [`to_tensor`](Self::to_tensor)
    pub fn bytes_to_tensor(&self, pixels: Bytes, size: usize, device: &Device) -> Tensor<4> {
        self.normalise(SentPixels::new(pixels, device), size)
    }

    /// Normalised images of pixels that are on the device already, whole images of `size` by `size`.
    ///
    /// # Shapes
    /// As [`to_tensor`](Self::to_tensor)
    pub fn normalise(&self, pixels: SentPixels, size: usize) -> Tensor<4> {
        let pixels = match pixels {
            SentPixels::Bytes(bytes) => bytes.float(),
            SentPixels::Floats(floats) => floats,
        };
        let device = &pixels.device();
        let [numbers] = pixels.dims();
        let pixels = pixels.reshape([numbers / (size * size * 3), size, size, 3]);
        let scale = Tensor::<1>::from_floats(self.std.map(|std| 1.0 / (255.0 * std)), device);
        let [r, g, b] = [0, 1, 2].map(|channel| -self.mean[channel] / self.std[channel]);
        let shift = Tensor::<1>::from_floats([r, g, b], device);
        (pixels * scale.unsqueeze() + shift.unsqueeze()).permute([0, 3, 1, 2])
    }
}

/// Pixels on a device, from 0 to 255, as one row: GPUs align rows, and would have each pixel's three bytes by themselves.
#[derive(Clone, Debug)]
pub enum SentPixels {
    /// A byte each, `[numbers]`.
    Bytes(Tensor<1, Int>),
    /// WGSL has no bytes: there, pixels travel as the numbers that they become, `[numbers]`.
    Floats(Tensor<1>),
}

impl SentPixels {
    /// Sends pixels, which may be shared: they aren't copied on this side.
    pub fn new(pixels: Bytes, device: &Device) -> Self {
        Self::of_data(row(pixels), device)
    }

    /// Sends pixels by way of memory that a GPU reads while it computes.
    pub fn while_it_computes(pixels: Bytes, device: &Device) -> Self {
        let mut data = row(pixels);
        device.staging(std::iter::once(&mut data));
        Self::of_data(data, device)
    }

    fn of_data(data: TensorData, device: &Device) -> Self {
        if device.supports_dtype(DType::U8) {
            Self::Bytes(Tensor::from_data(data, (device, DType::U8)))
        } else {
            Self::Floats(Tensor::from_data(data.convert::<f32>(), device))
        }
    }

    /// Some of them, by their numbers: three for each pixel.
    pub fn part(&self, range: Range<usize>) -> Self {
        match self {
            Self::Bytes(bytes) => Self::Bytes(bytes.clone().slice(range)),
            Self::Floats(floats) => Self::Floats(floats.clone().slice(range)),
        }
    }

    /// Where they are.
    pub fn device(&self) -> Device {
        match self {
            Self::Bytes(bytes) => bytes.device(),
            Self::Floats(floats) => floats.device(),
        }
    }
}

fn row(pixels: Bytes) -> TensorData {
    let length = pixels.len();
    TensorData::from_bytes(pixels, [length], DType::U8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_normalised_by_channel() {
        let norm = ImageNorm::default();
        let images = norm.to_tensor(
            vec![0, 128, 255, 255, 0, 0, 10, 20, 30, 1, 2, 3],
            2,
            &Device::default(),
        );
        assert_eq!(images.dims(), [1, 3, 2, 2]);
        let values: Vec<f32> = images.into_data().try_to_vec().unwrap();
        let expected =
            |pixel: f32, channel: usize| (pixel / 255.0 - norm.mean[channel]) / norm.std[channel];
        for (got, want) in [
            (values[0], expected(0.0, 0)),
            (values[1], expected(255.0, 0)),
            (values[4], expected(128.0, 1)),
            (values[8], expected(255.0, 2)),
            (values[11], expected(3.0, 2)),
        ] {
            assert!((got - want).abs() < 1e-5, "{got} {want}");
        }
    }
}
