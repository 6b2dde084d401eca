use serde::{Deserialize, Serialize};

use crate::ImageNorm;

/// What precedes the image encoder where a model is used, in the keys of OpenCLIP's `preprocess_cfg`. Training crops at
/// random instead of resizing so, and normalises the same.
///
/// # References
/// OpenCLIP, `open_clip/transform.py`, `PreprocessCfg` and `image_transform`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Preprocess {
    /// Mean of red, green and blue, in units of full intensity.
    pub mean: [f32; 3],
    /// Standard deviation of red, green and blue.
    pub std: [f32; 3],
    /// How pixels are weighed.
    pub interpolation: Interpolation,
    /// How a picture becomes a square.
    pub resize_mode: ResizeMode,
}

/// How pixels are weighed when a picture is resized, always over the whole area that becomes one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// By a cubic: the paper's. OpenCLIP takes it for `random`, too, outside training.
    #[default]
    #[serde(alias = "random")]
    Bicubic,
    /// Linearly: CLIPA's.
    Bilinear,
}

/// How a picture becomes a square.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResizeMode {
    /// The shortest side is resized, and the centre cut out: the paper's.
    #[default]
    Shortest,
    /// Both sides are resized, whatever the picture's shape: SigLIP's.
    Squash,
}

impl Preprocess {
    /// The normalisation alone.
    pub fn norm(&self) -> ImageNorm {
        ImageNorm {
            mean: self.mean,
            std: self.std,
        }
    }
}

/// The paper's.
impl Default for Preprocess {
    fn default() -> Self {
        ImageNorm::default().into()
    }
}

/// With the paper's resizing.
impl From<ImageNorm> for Preprocess {
    fn from(norm: ImageNorm) -> Self {
        Self {
            mean: norm.mean,
            std: norm.std,
            interpolation: Interpolation::default(),
            resize_mode: ResizeMode::default(),
        }
    }
}
