//! The paper's vision transformer, with CLIPA's variants.

use clip_model::{ClipConfig, VisionConfig, VisionPool, encoder::LAYER_NORM_EPSILON};

use crate::{
    graph::{Graph, Value},
    transformer::{OPEN_CLIP, Transformer},
};

/// Patches, a class token, `ln_pre`, blocks, `ln_post`, a projection.
///
/// # Shapes
/// - `pixels`: `[batch, 3, image_size, image_size]`
/// - returns `[batch, embed_dim]`
pub(crate) fn vision_transformer(
    graph: &mut Graph<'_>,
    pixels: &Value,
    config: &ClipConfig,
    layers: usize,
) -> Value {
    let vision = &config.vision_cfg;
    let patches = graph.patches(pixels, "visual.conv1.");
    let patches = graph.places_as_tokens(&patches);
    let x = with_class_token(graph, &patches, ("visual.class_embedding", vision.width)); // [batch, 1 + patches, width]
    let positions = graph.weight("visual.positional_embedding");
    let x = graph.add(&x, &positions);
    let x = if vision.no_ln_pre {
        x
    } else {
        graph.layer_norm(&x, "visual.ln_pre.", LAYER_NORM_EPSILON)
    };
    let transformer = Transformer {
        names: OPEN_CLIP,
        prefix: "visual.transformer.resblocks.".to_owned(),
        layers,
        heads: vision.heads(),
        activation: config.activation(),
        epsilon: LAYER_NORM_EPSILON,
    };
    let x = transformer.forward(graph, x, None);
    let pooled = pooled(graph, &x, vision); // [batch, width]
    let proj = graph.weight("visual.proj");
    graph.matmul(&pooled, &proj)
}

/// The class token, a weight of that name, before the patches of each image.
pub(crate) fn with_class_token(
    graph: &mut Graph<'_>,
    patches: &Value,
    (name, width): (&str, usize),
) -> Value {
    let batch = graph.length(patches, 0);
    let one_each = graph.ints(&[1, width as i64]);
    let shape = graph.concat(&[&batch, &one_each], 0);
    let class = graph.weight(name);
    let class = graph.node("Expand", &[&class, &shape], &[]);
    graph.concat(&[&class, patches], 1)
}

/// The class token or the mean of the patches, normed.
fn pooled(graph: &mut Graph<'_>, x: &Value, vision: &VisionConfig) -> Value {
    let ln_post = |graph: &mut Graph<'_>, x: &Value| {
        graph.layer_norm(x, "visual.ln_post.", LAYER_NORM_EPSILON)
    };
    let mean = |graph: &mut Graph<'_>, x: &Value| {
        let patches = graph.without_first(x, 1);
        graph.mean(&patches, &[1], false)
    };
    match vision.pool_type {
        VisionPool::Tok => {
            let first = graph.int(0);
            let class = graph.gather(x, &first, 1);
            ln_post(graph, &class)
        }
        VisionPool::Avg if vision.final_ln_after_pool => {
            let mean = mean(graph, x);
            ln_post(graph, &mean)
        }
        VisionPool::Avg => {
            let normed = ln_post(graph, x);
            mean(graph, &normed)
        }
    }
}
