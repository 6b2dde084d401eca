//! `preprocessor_config.json`, which `CLIPImageProcessor` reads.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Interpolation, ModelError, Preprocess, ResizeMode};

/// Pillow's numbers.
const BILINEAR: u8 = 2;
const BICUBIC: u8 = 3;
/// Of a byte, so that full intensity is 1.
const RESCALE_FACTOR: f64 = 1.0 / 255.0;

/// What a `preprocessor_config.json` says of resizing and normalisation; the defaults are transformers'.
pub(in crate::weights) fn from_preprocessor(
    json: &str,
    origin: &str,
) -> Result<Preprocess, ModelError> {
    let found: Preprocessor =
        serde_json::from_str(json).map_err(|source| ModelError::ConfigSyntax {
            origin: origin.to_owned(),
            source,
        })?;
    let refuse = |key: &str, value: &dyn std::fmt::Display| ModelError::UnsupportedConfig {
        origin: origin.to_owned(),
        key: key.to_owned(),
        value: value.to_string(),
    };
    let interpolation = match found.resample {
        None | Some(BICUBIC) => Interpolation::Bicubic,
        Some(BILINEAR) => Interpolation::Bilinear,
        Some(other) => return Err(refuse("resample", &other)),
    };
    for (key, done) in [
        ("do_resize", found.do_resize),
        ("do_rescale", found.do_rescale),
    ] {
        if done == Some(false) {
            return Err(refuse(key, &false));
        }
    }
    let factor = found.rescale_factor.unwrap_or(RESCALE_FACTOR);
    if (factor / RESCALE_FACTOR - 1.0).abs() > 1e-6 {
        return Err(refuse("rescale_factor", &factor));
    }
    let size = found.size.as_ref().and_then(Sides::of);
    let crop = found.crop_size.as_ref().and_then(Sides::of);
    let resize_mode = match size {
        Some(Sides::Both(height, width)) if height != width => {
            return Err(refuse("size", &found.size.unwrap_or_default()));
        }
        Some(Sides::Both(..)) => ResizeMode::Squash,
        // The centre is cut out.
        _ if found.do_center_crop == Some(false) => return Err(refuse("do_center_crop", &false)),
        _ => ResizeMode::Shortest,
    };
    let cuts = found.do_center_crop != Some(false);
    if let (Some(size), Some(crop), true) = (size, crop, cuts)
        && size.both() != crop.both()
    {
        // What lies around the square would be cut off.
        return Err(refuse("crop_size", &found.crop_size.unwrap_or_default()));
    }
    let default = Preprocess::default();
    let (mean, std) = if found.do_normalize == Some(false) {
        ([0.0; 3], [1.0; 3])
    } else {
        (
            found.image_mean.unwrap_or(default.mean),
            found.image_std.unwrap_or(default.std),
        )
    };
    Ok(Preprocess {
        mean,
        std,
        interpolation,
        resize_mode,
    })
}

/// What is read of the file.
#[derive(Deserialize)]
struct Preprocessor {
    image_mean: Option<[f32; 3]>,
    image_std: Option<[f32; 3]>,
    resample: Option<u8>,
    size: Option<Value>,
    crop_size: Option<Value>,
    do_resize: Option<bool>,
    do_center_crop: Option<bool>,
    do_rescale: Option<bool>,
    rescale_factor: Option<f64>,
    do_normalize: Option<bool>,
}

/// A size as the file has it: one number, the shortest side's, or height and width, in pixels.
#[derive(Clone, Copy)]
enum Sides {
    Shortest(u64),
    Both(u64, u64),
}

impl Sides {
    fn of(value: &Value) -> Option<Self> {
        let side = |key| value.get(key).and_then(Value::as_u64);
        if let (Some(height), Some(width)) = (side("height"), side("width")) {
            return Some(Self::Both(height, width));
        }
        let shortest = value.as_u64().or_else(|| side("shortest_edge"));
        shortest.map(Self::Shortest)
    }

    /// Height and width of the square that is in the middle.
    fn both(self) -> (u64, u64) {
        match self {
            Self::Shortest(side) => (side, side),
            Self::Both(height, width) => (height, width),
        }
    }
}

/// A `preprocessor_config.json` for `CLIPImageProcessor`.
pub(in crate::weights) fn to_preprocessor(preprocess: Preprocess, image_size: usize) -> Value {
    let square = json!({"height": image_size, "width": image_size});
    let cut = preprocess.resize_mode == ResizeMode::Shortest;
    json!({
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": true,
        "do_resize": true,
        "size": if cut { json!({"shortest_edge": image_size}) } else { square.clone() },
        "resample": match preprocess.interpolation {
            Interpolation::Bicubic => BICUBIC,
            Interpolation::Bilinear => BILINEAR,
        },
        "do_center_crop": cut,
        "crop_size": square,
        "do_rescale": true,
        "rescale_factor": RESCALE_FACTOR,
        "do_normalize": true,
        "image_mean": preprocess.mean,
        "image_std": preprocess.std,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preprocessing_survives_hugging_faces_form() {
        for interpolation in [Interpolation::Bicubic, Interpolation::Bilinear] {
            for resize_mode in [ResizeMode::Shortest, ResizeMode::Squash] {
                let preprocess = Preprocess {
                    mean: [0.5; 3],
                    std: [0.25; 3],
                    interpolation,
                    resize_mode,
                };
                let json = to_preprocessor(preprocess, 224).to_string();
                assert_eq!(from_preprocessor(&json, "x").unwrap(), preprocess);
            }
        }
        // As OpenAI's own files say it.
        let old = r#"{"size": 224, "resample": 3, "do_center_crop": true}"#;
        assert_eq!(from_preprocessor(old, "x").unwrap(), Preprocess::default());
        let bytes = r#"{"do_normalize": false, "crop_size": 224, "size": {"shortest_edge": 224}}"#;
        let bytes = from_preprocessor(bytes, "x").unwrap();
        assert_eq!((bytes.mean, bytes.std), ([0.0; 3], [1.0; 3]));
    }

    #[test]
    fn what_would_show_the_encoder_another_picture_is_refused() {
        for (json, refusal) in [
            (r#"{"resample": 1}"#, "`resample` = 1"),
            (
                r#"{"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}"#,
                r#"`crop_size` = {"height":224,"width":224}"#,
            ),
            (
                r#"{"size": {"height": 224, "width": 336}}"#,
                r#"`size` = {"height":224,"width":336}"#,
            ),
            (
                r#"{"size": 224, "do_center_crop": false}"#,
                "`do_center_crop` = false",
            ),
            (r#"{"do_resize": false}"#, "`do_resize` = false"),
            (r#"{"do_rescale": false}"#, "`do_rescale` = false"),
            (r#"{"rescale_factor": 1}"#, "`rescale_factor` = 1"),
        ] {
            let error = from_preprocessor(json, "x").unwrap_err().to_string();
            assert!(error.contains(refusal), "{error}");
        }
    }
}
