//! `preprocessor_config.json`, which `CLIPImageProcessor` reads.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Interpolation, ModelError, Preprocess, ResizeMode};

/// Pillow's numbers.
const BILINEAR: u8 = 2;
const BICUBIC: u8 = 3;

/// What a `preprocessor_config.json` says of resizing and normalisation; the defaults are transformers'.
pub(in crate::weights) fn from_preprocessor(
    json: &str,
    origin: &str,
) -> Result<Preprocess, ModelError> {
    #[derive(Deserialize)]
    struct Preprocessor {
        image_mean: Option<[f32; 3]>,
        image_std: Option<[f32; 3]>,
        resample: Option<u8>,
        size: Option<Value>,
    }
    let found: Preprocessor =
        serde_json::from_str(json).map_err(|source| ModelError::ConfigSyntax {
            origin: origin.to_owned(),
            source,
        })?;
    let interpolation = match found.resample {
        None | Some(BICUBIC) => Interpolation::Bicubic,
        Some(BILINEAR) => Interpolation::Bilinear,
        Some(other) => {
            return Err(ModelError::UnsupportedConfig {
                origin: origin.to_owned(),
                key: "resample".to_owned(),
                value: other.to_string(),
            });
        }
    };
    // A number, or the shortest side's: the centre is cut out. Both sides': they are resized.
    let both = found
        .size
        .is_some_and(|size| size.get("height").is_some() && size.get("width").is_some());
    let default = Preprocess::default();
    Ok(Preprocess {
        mean: found.image_mean.unwrap_or(default.mean),
        std: found.image_std.unwrap_or(default.std),
        interpolation,
        resize_mode: if both {
            ResizeMode::Squash
        } else {
            ResizeMode::Shortest
        },
    })
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
        "rescale_factor": 1.0 / 255.0,
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
        let error = from_preprocessor(r#"{"resample": 1}"#, "x").unwrap_err();
        assert!(error.to_string().contains("`resample` = 1"), "{error}");
    }
}
