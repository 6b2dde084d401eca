//! The architecture of weights that come without a configuration.

use std::{collections::BTreeSet, path::Path};

use serde_json::json;

use super::hugging_face::mlp_ratio;
use crate::{ClipConfig, ModelError, presets};

/// Features of an attention head in every model of the paper (table 19). Shapes don't show it.
const HEAD_WIDTH: usize = 64;

/// Longest axis of a tensor that is believed: a hundred times the vocabularies of today.
const MAX_LENGTH: usize = 1 << 24;

/// How the token embeddings of Hugging Face's text encoders end.
const HUGGING_FACE_WORDS: [&str; 2] = [
    "transformer.embeddings.word_embeddings.weight",
    "transformer.embed_tokens.weight",
];

/// What shapes don't show of a model that has a tensor of this name.
fn unshown(name: &str) -> Option<&'static str> {
    if name.starts_with("visual.trunk.") {
        Some("its image encoder is one of timm's, which shapes don't name")
    } else if HUGGING_FACE_WORDS.iter().any(|words| name.ends_with(words)) {
        Some("its text encoder is one of Hugging Face's, which shapes don't name")
    } else if name.starts_with("text_decoder.") {
        Some("it writes captions as CoCa does, and shapes don't show its heads")
    } else {
        None
    }
}

/// Infers the architecture from the shapes of tensors in OpenCLIP's names, and says what the shapes left open.
///
/// # References
/// OpenAI's CLIP, `clip/model.py`, `build_model`.
pub(super) fn infer<'a>(
    path: &Path,
    tensors: impl Iterator<Item = (&'a str, &'a [usize])> + Clone,
    quick_gelu: bool,
) -> Result<(ClipConfig, String), ModelError> {
    let unknown = |reason: String| ModelError::UnknownArchitecture {
        path: path.to_owned(),
        reason,
    };
    let shape = |name: &str, axis: usize| {
        let mut found = tensors.clone().filter(|(other, _)| *other == name);
        let length = found.next().and_then(|(_, shape)| shape.get(axis).copied());
        match length {
            Some(length) if (1..=MAX_LENGTH).contains(&length) => Ok(length),
            _ => Err(unknown(format!("there is no usable {name}"))),
        }
    };
    // Parts of a stack are numbered, as in `transformer.resblocks.11.`.
    let count = |prefix: &str| {
        let parts = tensors
            .clone()
            .filter_map(|(name, _)| name.strip_prefix(prefix)?.split('.').next());
        parts.collect::<BTreeSet<_>>().len()
    };
    let heads = |width: usize, name: &str| match width / HEAD_WIDTH {
        0 => Err(unknown(format!(
            "{name} is {width} wide, too little for heads of {HEAD_WIDTH} as the paper's models have"
        ))),
        heads => Ok(heads),
    };

    if let Some(reason) = tensors.clone().find_map(|(name, _)| unshown(name)) {
        return Err(unknown(reason.to_owned()));
    }
    let width = shape("ln_final.weight", 0)?;
    let text_hidden = shape("transformer.resblocks.0.mlp.c_fc.weight", 0)?;
    let vision = if tensors.clone().any(|(name, _)| name == "visual.proj") {
        let patch_size = shape("visual.conv1.weight", 3)?;
        let grid = side(shape("visual.positional_embedding", 0)?).ok_or_else(|| {
            unknown("visual.positional_embedding is for no square grid".to_owned())
        })?;
        let width = shape("visual.conv1.weight", 0)?;
        let hidden = shape("visual.transformer.resblocks.0.mlp.c_fc.weight", 0)?;
        json!({
            "image_size": grid * patch_size,
            "layers": count("visual.transformer.resblocks."),
            "width": width,
            "head_width": width / heads(width, "the image encoder")?,
            "mlp_ratio": mlp_ratio(width, hidden),
            "patch_size": patch_size,
        })
    } else {
        let width = shape("visual.layer1.0.conv1.weight", 0)?;
        let grid = side(shape("visual.attnpool.positional_embedding", 0)?).ok_or_else(|| {
            unknown("visual.attnpool.positional_embedding is for no square grid".to_owned())
        })?;
        let layers = [1, 2, 3, 4].map(|stage| count(&format!("visual.layer{stage}.")));
        json!({
            "image_size": grid * 32, // what the network divides a side by
            "layers": layers,
            "width": width,
            "patch_size": null, // as in the presets
        })
    };
    let config = json!({
        "embed_dim": shape("text_projection", 1)?,
        "quick_gelu": quick_gelu,
        "vision_cfg": vision,
        "text_cfg": {
            "context_length": shape("positional_embedding", 0)?,
            "vocab_size": shape("token_embedding.weight", 0)?,
            "width": width,
            "heads": heads(width, "the text encoder")?,
            "layers": count("transformer.resblocks."),
            "mlp_ratio": mlp_ratio(width, text_hidden),
        },
    });
    let origin = format!("the architecture of {}", path.display());
    let config = ClipConfig::from_json(&config.to_string(), &origin)?;
    Ok(match like_a_preset(&config) {
        Some((name, preset)) => (preset, format!("by its shapes it is {name}")),
        None => (
            config,
            format!(
                "its architecture is inferred from its shapes, with attention heads of {HEAD_WIDTH}"
            ),
        ),
    })
}

/// The preset of the same shapes and activation. Some differ from the paper's in what shapes don't show.
fn like_a_preset(config: &ClipConfig) -> Option<(&'static str, ClipConfig)> {
    let silent = |config: &ClipConfig| {
        let mut config = serde_json::to_value(config).ok()?;
        for (tower, keys) in [
            (
                "vision_cfg",
                &["head_width", "mlp_ratio", "patch_dropout"][..],
            ),
            ("text_cfg", &["heads", "mlp_ratio"]),
        ] {
            let tower = config.get_mut(tower)?.as_object_mut()?;
            for key in keys {
                tower.remove(*key);
            }
        }
        Some(config)
    };
    let wanted = silent(config)?;
    let mut known = presets::names().filter_map(|name| Some((name, ClipConfig::load(name).ok()?)));
    known.find(|(_, preset)| {
        silent(preset).is_some_and(|preset| preset == wanted)
            && preset.num_params() == config.num_params()
    })
}

/// Patches along a side of a square grid with one more position, the class token's or the mean's.
pub(super) fn side(positions: usize) -> Option<usize> {
    let side = positions.checked_sub(1)?.isqrt();
    (side > 0 && side * side + 1 == positions).then_some(side)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoder_of_others_must_be_named() {
        let timms = ("visual.trunk.stem.0.weight", &[96, 3, 4, 4][..]);
        let words = "text.transformer.embed_tokens.weight";
        let hugging_faces = (words, &[256_206, 1024][..]);
        let coca = ("text_decoder.text_projection", &[512, 49_408][..]);
        for (tensor, told) in [
            (timms, "one of timm's"),
            (hugging_faces, "one of Hugging Face's"),
            (coca, "as CoCa does"),
        ] {
            let tensors = [tensor].into_iter();
            let error = infer(Path::new("w.safetensors"), tensors, false).unwrap_err();
            let error = error.to_string();
            assert!(
                error.contains(told) && error.contains("by a preset"),
                "{error}"
            );
        }
    }
}
