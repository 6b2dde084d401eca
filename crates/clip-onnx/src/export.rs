use std::path::Path;

use clip_model::{
    Preprocess, Tower,
    weights::{FloatType, ImportedWeights},
};
use serde::Serialize;

use crate::{
    OnnxError,
    convnext::convnext,
    fastvit::fastvit,
    file::{self, LARGEST_MESSAGE},
    graph::Graph,
    modified_resnet::modified_resnet,
    onnx::{Axis, ElementType},
    siglip::siglip_vision_transformer,
    text::{text_transformer, tokens_axis},
    timm_vit::timm_vision_transformer,
    vision::vision_transformer,
    vitamin::vitamin,
    weights::Weights,
};

/// The image encoder.
pub const IMAGE_FILE: &str = "image_encoder.onnx";
/// The text encoder.
pub const TEXT_FILE: &str = "text_encoder.onnx";

/// Writes [`IMAGE_FILE`] and [`TEXT_FILE`] into a folder. An encoder too large for one message has its weights beside it, in
/// a file whose name ends in `.data`. Weights are stored as `dtype` and computed with in f32; of what has to be converted or
/// transposed, one tensor is held twice at a time, and of a `FastVit`, whose branches are added up, the whole image encoder.
///
/// # Errors
/// [`OnnxError::NoForm`], [`OnnxError::Beyond`] and [`OnnxError::Io`].
pub fn export(
    checkpoint: &ImportedWeights,
    folder: &Path,
    dtype: FloatType,
) -> Result<(), OnnxError> {
    export_within(LARGEST_MESSAGE, checkpoint, folder, dtype)
}

/// The same with another limit, in bytes.
pub(crate) fn export_within(
    limit: u64,
    checkpoint: &ImportedWeights,
    folder: &Path,
    dtype: FloatType,
) -> Result<(), OnnxError> {
    if checkpoint.config.text_cfg.embed_cls || checkpoint.config.vision_cfg.attentional_pool {
        return Err(OnnxError::no_form("CoCa"));
    }
    let weights = Weights { checkpoint, dtype };
    let scalars = ["logit_scale", "logit_bias"].into_iter();
    let scalars = scalars.filter_map(|name| Some((name, weights.scalar(name)?.to_string())));
    let mut metadata: Vec<_> = scalars.collect();
    let reparameterised =
        is_reparameterised(checkpoint).then(|| checkpoint.reparameterised_image_encoder());
    let image_weights = Weights {
        checkpoint: reparameterised.as_ref().unwrap_or(checkpoint),
        dtype,
    };
    let is_image = |name: &str| name.starts_with("visual.");
    let beyond = image_weights.checkpoint.beyond(dtype, is_image);
    let beyond = beyond.or_else(|| checkpoint.beyond(dtype, |name| !is_image(name)));
    if let Some((tensor, number)) = beyond {
        return Err(OnnxError::Beyond {
            tensor: tensor.to_owned(),
            number,
        });
    }
    let (image, text) = (image_encoder(image_weights)?, text_encoder(weights)?);
    file::write(&text, &metadata, &folder.join(TEXT_FILE), limit)?;
    metadata.push(("preprocess_cfg", preprocess_json(checkpoint)));
    file::write(&image, &metadata, &folder.join(IMAGE_FILE), limit)
}

/// Whether the image encoder has branches that are one convolution at inference.
fn is_reparameterised(checkpoint: &ImportedWeights) -> bool {
    matches!(checkpoint.config.vision_cfg.tower(), Tower::FastVit(_))
}

fn image_encoder(weights: Weights<'_>) -> Result<Graph<'_>, OnnxError> {
    let config = &weights.checkpoint.config;
    let mut graph = Graph::new(weights);
    let size = config.vision_cfg.image_size;
    let shape = [
        Axis::Free("batch"),
        Axis::Fixed(3),
        Axis::Fixed(size),
        Axis::Fixed(size),
    ];
    let about = "Red, green and blue in units of full intensity, less the mean and divided by the deviation of preprocess_cfg.";
    let pixels = graph.input("pixel_values", ElementType::Float, &shape, about);
    let features = match config.vision_cfg.tower() {
        Tower::VisionTransformer { layers } => {
            vision_transformer(&mut graph, &pixels, config, layers)
        }
        Tower::ModifiedResNet(stages) => {
            modified_resnet(&mut graph, &pixels, &config.vision_cfg, stages)
        }
        Tower::Siglip(shape) => siglip_vision_transformer(&mut graph, &pixels, &shape),
        Tower::ConvNeXt(shape) => convnext(&mut graph, &pixels, &shape),
        Tower::FastVit(shape) => fastvit(&mut graph, &pixels, &shape),
        Tower::TimmVit(shape) => timm_vision_transformer(&mut graph, &pixels, &shape),
        Tower::ViTamin(shape) => vitamin(&mut graph, &pixels, &shape),
        Tower::Eva(_) => {
            let name = config.vision_cfg.timm_model_name.as_deref();
            return Err(OnnxError::no_form(name.unwrap_or("EVA")));
        }
    };
    let features = graph.l2_normalize(&features);
    let shape = [Axis::Free("batch"), Axis::Fixed(config.embed_dim)];
    graph.output("image_embeds", &features, &shape, "L2-normalised.");
    Ok(graph)
}

fn text_encoder(weights: Weights<'_>) -> Result<Graph<'_>, OnnxError> {
    let config = &weights.checkpoint.config;
    if let Some(name) = &config.text_cfg.hf_model_name {
        return Err(OnnxError::no_form(name));
    }
    let mut graph = Graph::new(weights);
    let shape = [Axis::Free("batch"), tokens_axis(&config.text_cfg)];
    let about = format!(
        "Tokens by the model's tokenizer, from start to end, padded; at most {}.",
        config.text_cfg.context_length
    );
    let ids = graph.input("input_ids", ElementType::Int64, &shape, &about);
    let features = text_transformer(&mut graph, &ids, config);
    let features = graph.l2_normalize(&features);
    let shape = [Axis::Free("batch"), Axis::Fixed(config.embed_dim)];
    graph.output("text_embeds", &features, &shape, "L2-normalised.");
    Ok(graph)
}

/// In OpenCLIP's keys: the file may be all that its user has.
fn preprocess_json(checkpoint: &ImportedWeights) -> String {
    #[derive(Serialize)]
    struct Cfg {
        size: usize,
        #[serde(flatten)]
        preprocess: Preprocess,
    }
    let cfg = Cfg {
        size: checkpoint.config.vision_cfg.image_size,
        preprocess: checkpoint.preprocess,
    };
    serde_json::to_string(&cfg).expect("invariant: numbers and names")
}
