//! A classifier head in a safetensors file: the tensor `weights` and, in the metadata, what it was built from.

use std::{collections::HashMap, path::Path};

use burn::tensor::{Device, Tensor};
use clip_files::sha256::Parts;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::{
    HeadKey, ZeroShotError,
    features::{finite_rows, from_host},
};

/// Tells a head from other safetensors files, and this layout from later ones.
const FORMAT: &str = "clip-classifier-head-1";
const WEIGHTS: &str = "weights";

pub(crate) fn save(
    path: &Path,
    weights: Tensor<2>,
    names: &[String],
    key: &HeadKey,
) -> Result<(), ZeroShotError> {
    let shape = weights.dims();
    let bytes: Vec<u8> = finite_rows(weights, |row| format!("row {row} of the head"))?
        .into_iter()
        .flat_map(f32::to_le_bytes)
        .collect();
    let metadata = HashMap::from(
        [
            ("format", FORMAT.to_owned()),
            ("model_sha256", key.model.clone()),
            ("names_sha256", key.names.clone()),
            ("templates_sha256", key.templates.clone()),
            ("weights_sha256", Parts::default().part(&bytes).finish()),
            ("names", serde_json::Value::from(names).to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    );
    // invariant: the bytes were just made from a tensor of that shape.
    let view = TensorView::new(Dtype::F32, shape.to_vec(), &bytes).expect("invariant: bytes fit");
    let file = safetensors::serialize([(WEIGHTS, view)], Some(metadata)).map_err(|error| {
        // The header's limit of 100 MB: millions of class names.
        ZeroShotError::CorruptHead {
            path: path.to_owned(),
            reason: error.to_string(),
        }
    })?;
    Ok(clip_files::replace(path, &file)?)
}

pub(crate) fn load(
    path: &Path,
    device: &Device,
) -> Result<(Tensor<2>, Vec<String>, HeadKey), ZeroShotError> {
    let bytes = std::fs::read(path).map_err(clip_files::io("read", path))?;
    parse(&bytes, device).map_err(|reason| ZeroShotError::CorruptHead {
        path: path.to_owned(),
        reason,
    })
}

fn parse(bytes: &[u8], device: &Device) -> Result<(Tensor<2>, Vec<String>, HeadKey), String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
    let empty = HashMap::new();
    let metadata = header.metadata().as_ref().unwrap_or(&empty);
    let entry = |key: &str| {
        metadata
            .get(key)
            .cloned()
            .ok_or_else(|| format!("its metadata has no `{key}`"))
    };
    let format = entry("format")?;
    if format != FORMAT {
        return Err(format!("its format is `{format}`, expected `{FORMAT}`"));
    }
    let weights = file.tensor(WEIGHTS).map_err(|error| error.to_string())?;
    if Parts::default().part(weights.data()).finish() != entry("weights_sha256")? {
        return Err("its weights do not match their sha256".to_owned());
    }
    let names: Vec<String> = serde_json::from_str(&entry("names")?)
        .map_err(|error| format!("its class names are unreadable: {error}"))?;
    let key = HeadKey {
        model: entry("model_sha256")?,
        names: entry("names_sha256")?,
        templates: entry("templates_sha256")?,
    };
    if Parts::of(&names).finish() != key.names {
        return Err("its class names do not match their sha256".to_owned());
    }
    let (&[embed_dim, classes], Dtype::F32) = (weights.shape(), weights.dtype()) else {
        return Err(format!(
            "its weights are {:?} {:?}",
            weights.dtype(),
            weights.shape()
        ));
    };
    if classes != names.len() {
        return Err(format!("{classes} columns for {} class names", names.len()));
    }
    let (values, _) = weights.data().as_chunks::<4>();
    let values = values.iter().map(|&value| f32::from_le_bytes(value));
    let weights = from_host(values.collect(), [embed_dim, classes], device);
    Ok((weights, names, key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ClassifierHead,
        encoder::tests::FakeEncoder,
        head::tests::{names, templates, values},
    };

    fn encoder() -> FakeEncoder {
        FakeEncoder::new([("cat", vec![1.0, 2.0]), ("dog", vec![-1.0, 0.5])])
    }

    fn head() -> ClassifierHead {
        ClassifierHead::build(&encoder(), &names("cat\ndog"), &templates("{}")).unwrap()
    }

    fn key() -> HeadKey {
        HeadKey::new(&encoder(), &names("cat\ndog"), &templates("{}"))
    }

    #[test]
    fn a_head_survives_a_file_bit_by_bit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("head.safetensors");
        head().save(&path, &key()).unwrap();
        let (loaded, loaded_key) = ClassifierHead::load_any(&path, &Device::flex()).unwrap();
        assert_eq!(values(loaded.weights()), values(head().weights()));
        assert_eq!(loaded.names(), ["cat", "dog"]);
        assert_eq!(loaded_key, key());
    }

    #[test]
    fn a_stale_head_is_refused_by_what_has_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("head.safetensors");
        head().save(&path, &key()).unwrap();
        let refused = |change: fn(&mut HeadKey)| {
            let mut key = key();
            change(&mut key);
            ClassifierHead::load(&path, &key, &Device::flex())
                .unwrap_err()
                .to_string()
        };
        for (message, what) in [
            (
                refused(|key| key.model = "m2".to_owned()),
                "other model weights",
            ),
            (
                refused(|key| key.names = "n2".to_owned()),
                "other class names",
            ),
            (
                refused(|key| key.templates = "t2".to_owned()),
                "other templates",
            ),
        ] {
            assert!(message.contains(what), "{message}");
            assert!(message.contains("head.safetensors"), "{message}");
        }
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("head.safetensors");
        head().save(&path, &key()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let key = key();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            std::fs::write(&path, &bytes).unwrap();
            if let Ok(loaded) = ClassifierHead::load(&path, &key, &Device::flex()) {
                // White space of the header's padding, or a name of JSON's escapes: it says the same.
                assert_eq!(
                    values(loaded.weights()),
                    values(head().weights()),
                    "byte {at}"
                );
                assert_eq!(loaded.names(), head().names(), "byte {at}");
            }
            std::fs::write(&path, &whole[..at]).unwrap();
            let cut = ClassifierHead::load_any(&path, &Device::flex());
            assert!(
                matches!(cut, Err(ZeroShotError::CorruptHead { .. })),
                "cut at {at}"
            );
        }
    }
}
