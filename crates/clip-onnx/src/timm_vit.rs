//! timm's vision transformers with a class token.

use clip_model::encoder::{
    Activation,
    timm_vit::{TimmVitShape, TimmVitStem},
};

use crate::{
    graph::{Graph, Value},
    transformer::{TIMM, Transformer},
    vision::with_class_token,
};

/// Convolutions that a stem of them has.
const CONVOLUTIONS: usize = 3;

/// A stem, blocks, a norm of the class token, a projection.
///
/// # Shapes
/// - `pixels`: `[batch, 3, image_size, image_size]`
/// - returns `[batch, embed_dim]`
pub(crate) fn timm_vision_transformer(
    graph: &mut Graph<'_>,
    pixels: &Value,
    shape: &TimmVitShape,
) -> Value {
    let epsilon = shape.epsilon();
    let class = ("visual.trunk.cls_token", shape.width);
    let positions = graph.weight("visual.trunk.pos_embed");
    let x = match shape.stem {
        TimmVitStem::Patches(_) => {
            let patches = graph.patches(pixels, "visual.trunk.patch_embed.proj.");
            let patches = graph.places_as_tokens(&patches);
            let x = with_class_token(graph, &patches, class);
            let x = graph.add(&x, &positions);
            graph.layer_norm(&x, "visual.trunk.norm_pre.", epsilon)
        }
        TimmVitStem::Convolutions => {
            let patches = convolutions(graph, pixels);
            let patches = graph.places_as_tokens(&patches);
            let patches = graph.add(&patches, &positions);
            with_class_token(graph, &patches, class)
        }
    };
    let transformer = Transformer {
        names: TIMM,
        prefix: "visual.trunk.blocks.".to_owned(),
        layers: shape.layers,
        heads: shape.heads,
        activation: Activation::Gelu,
        epsilon,
    };
    let x = transformer.forward(graph, x, None);
    let first = graph.int(0);
    let class = graph.gather(&x, &first, 1);
    let class = graph.layer_norm(&class, "visual.trunk.norm.", epsilon);
    graph.linear(&class, "visual.trunk.head.")
}

/// Patches of patches, with a batch norm and GELU after all but the last.
fn convolutions(graph: &mut Graph<'_>, pixels: &Value) -> Value {
    (0..CONVOLUTIONS).fold(pixels.clone(), |x, layer| {
        let prefix = format!("visual.trunk.patch_embed.backbone.{layer}.");
        let x = graph.patches(&x, &format!("{prefix}conv."));
        if layer + 1 == CONVOLUTIONS {
            return x;
        }
        let x = graph.batch_norm(&x, &format!("{prefix}bn."));
        graph.activation(&x, Activation::Gelu)
    })
}
