//! SigLIP's image encoder: timm's vision transformer, pooled by attention.

use clip_model::encoder::siglip::{SIGLIP_EPSILON, SiglipShape};

use crate::{
    graph::{Graph, Value},
    transformer::{TIMM, Transformer, attend},
};

/// Patches, blocks, a norm, attention of a learned query.
///
/// # Shapes
/// - `pixels`: `[batch, 3, image_size, image_size]`
/// - returns `[batch, width]`
pub(crate) fn siglip_vision_transformer(
    graph: &mut Graph<'_>,
    pixels: &Value,
    shape: &SiglipShape,
) -> Value {
    let patches = graph.patches(pixels, "visual.trunk.patch_embed.proj.");
    let patches = graph.places_as_tokens(&patches);
    let positions = graph.weight("visual.trunk.pos_embed");
    let x = graph.add(&patches, &positions);
    let transformer = Transformer {
        names: TIMM,
        prefix: "visual.trunk.blocks.".to_owned(),
        layers: shape.layers,
        heads: shape.heads,
        activation: shape.activation,
        epsilon: SIGLIP_EPSILON,
    };
    let x = transformer.forward(graph, x, None);
    let x = graph.layer_norm(&x, "visual.trunk.norm.", SIGLIP_EPSILON);
    attention_pool(graph, &x, shape)
}

/// One learned query, then an MLP beside a residual path: `[batch, tokens, width]` to `[batch, width]`.
fn attention_pool(graph: &mut Graph<'_>, x: &Value, shape: &SiglipShape) -> Value {
    let SiglipShape { width, heads, .. } = *shape;
    let name = |name: &str| format!("visual.trunk.attn_pool.{name}");
    let latent = graph.weight(&name("latent"));
    let query = graph.linear(&latent, &name("q.")); // [1, 1, width]
    let rows = graph.linear(x, &name("kv."));
    let [key, value] = graph.split(&rows, [width; 2]);
    let pooled = attend(graph, [&query, &key, &value], None, [width, heads]); // [batch, 1, width]
    let pooled = graph.linear(&pooled, &name("proj."));
    let normed = graph.layer_norm(&pooled, &name("norm."), SIGLIP_EPSILON);
    let mixed = graph.mlp(
        &normed,
        [&name("mlp.fc1."), &name("mlp.fc2.")],
        shape.activation,
    );
    let pooled = graph.add(&pooled, &mixed);
    graph.reshape(&pooled, &[0, width as i64])
}
