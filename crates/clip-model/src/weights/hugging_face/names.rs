use crate::weights::state_dict::{HostTensor, StateDict, byte_size};

/// OpenCLIP's names and Hugging Face's, of what both store alike.
const SAME: [(&str, &str); 12] = [
    ("logit_scale", "logit_scale"),
    (
        "token_embedding.weight",
        "text_model.embeddings.token_embedding.weight",
    ),
    (
        "positional_embedding",
        "text_model.embeddings.position_embedding.weight",
    ),
    ("ln_final.weight", "text_model.final_layer_norm.weight"),
    ("ln_final.bias", "text_model.final_layer_norm.bias"),
    (
        "visual.class_embedding",
        "vision_model.embeddings.class_embedding",
    ),
    (
        "visual.conv1.weight",
        "vision_model.embeddings.patch_embedding.weight",
    ),
    (
        "visual.positional_embedding",
        "vision_model.embeddings.position_embedding.weight",
    ),
    ("visual.ln_pre.weight", "vision_model.pre_layrnorm.weight"), // their spelling
    ("visual.ln_pre.bias", "vision_model.pre_layrnorm.bias"),
    (
        "visual.ln_post.weight",
        "vision_model.post_layernorm.weight",
    ),
    ("visual.ln_post.bias", "vision_model.post_layernorm.bias"),
];

/// The projections, matrices here and linear layers there.
const TRANSPOSED: [(&str, &str); 2] = [
    ("text_projection", "text_projection.weight"),
    ("visual.proj", "visual_projection.weight"),
];

const TOWERS: [(&str, &str); 2] = [
    ("transformer.resblocks.", "text_model.encoder.layers."),
    (
        "visual.transformer.resblocks.",
        "vision_model.encoder.layers.",
    ),
];

const LAYERS: [(&str, &str); 5] = [
    ("ln_1.", "layer_norm1."),
    ("ln_2.", "layer_norm2."),
    ("attn.out_proj.", "self_attn.out_proj."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
];

/// The fused product of queries, keys and values, three layers there.
const FUSED: &str = "attn.in_proj_";
const PARTS: [&str; 3] = [
    "self_attn.q_proj.",
    "self_attn.k_proj.",
    "self_attn.v_proj.",
];

/// Whether a file's names are those of `CLIPModel`.
pub(in crate::weights) fn is_hugging_face(has: impl Fn(&str) -> bool) -> bool {
    has("text_model.embeddings.token_embedding.weight")
}

/// Tensors of `CLIPModel` under OpenCLIP's names and in its shapes. What has no name there keeps its own.
pub(in crate::weights) fn from_names(mut theirs: StateDict) -> StateDict {
    let mut ours = StateDict::new();
    for (name, other) in SAME {
        ours.extend(theirs.remove(other).map(|tensor| (name.to_owned(), tensor)));
    }
    for (name, other) in TRANSPOSED {
        let tensor = theirs.remove(other);
        ours.extend(tensor.map(|tensor| (name.to_owned(), transposed(&tensor))));
    }
    let layers: Vec<String> = theirs.keys().cloned().collect();
    for name in layers {
        let Some((tower, layer, rest)) = split_layer(&name, |(_, theirs)| theirs) else {
            continue;
        };
        let block = format!("{}{layer}.", TOWERS[tower].0);
        if let Some(suffix) = rest.strip_prefix(PARTS[0]) {
            let parts = PARTS.map(|part| format!("{}{layer}.{part}{suffix}", TOWERS[tower].1));
            if let Some(fused) = fused(parts.each_ref().map(|part| theirs.get(part))) {
                ours.insert(format!("{block}{FUSED}{suffix}"), fused);
                for part in parts {
                    theirs.remove(&part);
                }
            }
        } else if let Some((layer, suffix)) = renamed(rest, |(ours, theirs)| (theirs, ours))
            && let Some(tensor) = theirs.remove(&name)
        {
            ours.insert(format!("{block}{layer}{suffix}"), tensor);
        }
    }
    ours.extend(theirs);
    ours
}

/// Tensors of OpenCLIP's names under those of `CLIPModel`, or the first that has none there.
pub(in crate::weights) fn to_names(ours: StateDict) -> Result<StateDict, String> {
    let mut theirs = StateDict::new();
    for (name, tensor) in ours {
        // `custom_text` is a matter of names alone.
        let name = name
            .strip_prefix("text.")
            .map_or(name.clone(), str::to_owned);
        if let Some((_, other)) = SAME.iter().find(|(own, _)| *own == name) {
            theirs.insert((*other).to_owned(), tensor);
        } else if let Some((_, other)) = TRANSPOSED.iter().find(|(own, _)| *own == name) {
            theirs.insert((*other).to_owned(), transposed(&tensor));
        } else if let Some((tower, layer, rest)) = split_layer(&name, |(ours, _)| ours) {
            let block = format!("{}{layer}.", TOWERS[tower].1);
            if let Some(suffix) = rest.strip_prefix(FUSED) {
                for (part, tensor) in PARTS.iter().zip(thirds(&tensor)) {
                    theirs.insert(format!("{block}{part}{suffix}"), tensor);
                }
            } else if let Some((layer, suffix)) = renamed(rest, |pair| pair) {
                theirs.insert(format!("{block}{layer}{suffix}"), tensor);
            } else {
                return Err(name);
            }
        } else {
            return Err(name);
        }
    }
    Ok(theirs)
}

/// The tower, the layer's number and what follows it.
fn split_layer(
    name: &str,
    side: impl Fn((&'static str, &'static str)) -> &'static str,
) -> Option<(usize, &str, &str)> {
    let (tower, rest) = TOWERS
        .iter()
        .enumerate()
        .find_map(|(tower, names)| Some((tower, name.strip_prefix(side(*names))?)))?;
    let (layer, rest) = rest.split_once('.')?;
    Some((tower, layer, rest))
}

fn renamed(
    rest: &str,
    order: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str),
) -> Option<(&'static str, &str)> {
    LAYERS.iter().find_map(|pair| {
        let (from, to) = order(*pair);
        Some((to, rest.strip_prefix(from)?))
    })
}

/// Three tensors of equal shape and type, one after the other.
fn fused(parts: [Option<&HostTensor>; 3]) -> Option<HostTensor> {
    let [Some(query), Some(key), Some(value)] = parts else {
        return None;
    };
    let alike = |other: &HostTensor| other.shape == query.shape && other.dtype == query.dtype;
    if query.shape.is_empty() || !alike(key) || !alike(value) {
        return None;
    }
    let mut shape = query.shape.clone();
    shape[0] *= 3;
    Some(HostTensor {
        dtype: query.dtype,
        shape,
        bytes: [&*query.bytes, &*key.bytes, &*value.bytes].concat(),
    })
}

fn thirds(fused: &HostTensor) -> impl Iterator<Item = HostTensor> {
    let mut shape = fused.shape.clone();
    // A checkpoint's tensors have the model's shapes, and this one's rows are three times its width.
    shape[0] /= 3;
    let chunks = fused.bytes.chunks_exact((fused.bytes.len() / 3).max(1));
    chunks.map(move |bytes| HostTensor {
        dtype: fused.dtype,
        shape: shape.clone(),
        bytes: bytes.to_vec(),
    })
}

/// A matrix with rows for columns; anything else as it is.
fn transposed(tensor: &HostTensor) -> HostTensor {
    let [rows, columns] = tensor.shape[..] else {
        return tensor.clone();
    };
    let size = byte_size(tensor.dtype);
    let mut bytes = Vec::with_capacity(tensor.bytes.len());
    for column in 0..columns {
        for row in 0..rows {
            let at = (row * columns + column) * size;
            bytes.extend_from_slice(&tensor.bytes[at..at + size]);
        }
    }
    HostTensor {
        dtype: tensor.dtype,
        shape: vec![columns, rows],
        bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: &[usize], start: f32) -> HostTensor {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|at| start + at as f32).collect();
        HostTensor::from_f32(shape.to_vec(), &values)
    }

    #[test]
    fn names_go_there_and_back() {
        let block = "visual.transformer.resblocks.10.";
        let ours: StateDict = [
            ("visual.proj".to_owned(), tensor(&[2, 3], 0.0)),
            (format!("{block}attn.in_proj_weight"), tensor(&[6, 2], 10.0)),
            (format!("{block}attn.in_proj_bias"), tensor(&[6], 30.0)),
            (format!("{block}mlp.c_fc.weight"), tensor(&[8, 2], 50.0)),
            ("visual.ln_pre.bias".to_owned(), tensor(&[2], 70.0)),
        ]
        .into();
        let theirs = to_names(ours.clone()).unwrap();
        let projection = &theirs["visual_projection.weight"];
        assert_eq!(projection.shape, [3, 2]);
        assert_eq!(projection.to_f32().unwrap(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        let key = &theirs["vision_model.encoder.layers.10.self_attn.k_proj.weight"];
        assert_eq!(*key, tensor(&[2, 2], 14.0));
        assert!(theirs.contains_key("vision_model.pre_layrnorm.bias"));
        assert_eq!(from_names(theirs), ours);
        // As `custom_text` calls them.
        let text: StateDict = [("text.ln_final.bias".to_owned(), tensor(&[2], 0.0))].into();
        let theirs = to_names(text).unwrap();
        assert!(theirs.contains_key("text_model.final_layer_norm.bias"));
    }

    #[test]
    fn what_has_no_name_on_the_other_side_is_kept_or_named() {
        let name = "vision_model.encoder.layers.0.self_attn.q_proj.weight";
        let alone: StateDict = [
            (name.to_owned(), tensor(&[2, 2], 0.0)),
            ("classifier.weight".to_owned(), tensor(&[1], 0.0)),
        ]
        .into();
        assert_eq!(from_names(alone.clone()), alone);
        let resnet: StateDict =
            [("visual.layer1.0.conv1.weight".to_owned(), tensor(&[1], 0.0))].into();
        assert_eq!(
            to_names(resnet).unwrap_err(),
            "visual.layer1.0.conv1.weight"
        );
    }
}
