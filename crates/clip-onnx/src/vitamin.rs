//! timm's `ViTamin`, with OpenCLIP's projection.

use clip_model::encoder::{
    Activation,
    vitamin::{VITAMIN_DEPTHS, VITAMIN_EPSILON, ViTaminShape},
};

use crate::{
    graph::{Graph, Value},
    layers::Convolution,
    onnx::Attribute,
    transformer::{Transformer, VITAMIN},
};

const BACKBONE: &str = "visual.trunk.patch_embed.backbone.";

/// Convolutions, blocks, a norm of the tokens' mean, a projection.
///
/// # Shapes
/// - `pixels`: `[batch, 3, image_size, image_size]`
/// - returns `[batch, embed_dim]`
pub(crate) fn vitamin(graph: &mut Graph<'_>, pixels: &Value, shape: &ViTaminShape) -> Value {
    let places = convolutions(graph, pixels);
    let tokens = graph.places_as_tokens(&places);
    let x = match shape.image_size {
        Some(_) => {
            let positions = graph.weight("visual.trunk.pos_embed");
            graph.add(&tokens, &positions)
        }
        None => tokens,
    };
    let transformer = Transformer {
        names: VITAMIN,
        prefix: "visual.trunk.blocks.".to_owned(),
        layers: shape.layers,
        heads: shape.heads,
        activation: Activation::Gelu,
        epsilon: VITAMIN_EPSILON,
    };
    let x = transformer.forward(graph, x, None);
    let mean = graph.mean(&x, &[1], false); // [batch, width]
    let features = graph.layer_norm(&mean, "visual.trunk.fc_norm.", VITAMIN_EPSILON);
    graph.timm_head(&features, shape.projection)
}

/// `[batch, width, rows, columns]`, a sixteenth of the image's side.
fn convolutions(graph: &mut Graph<'_>, pixels: &Value) -> Value {
    let stem = format!("{BACKBONE}stem.");
    let x = convolve(graph, pixels, &format!("{stem}conv1."), 2);
    let x = graph.channel_norm(&x, &format!("{stem}norm1."), VITAMIN_EPSILON);
    let x = graph.activation(&x, Activation::Gelu);
    let mut x = convolve(graph, &x, &format!("{stem}conv2."), 1);
    for (stage, depth) in VITAMIN_DEPTHS.into_iter().enumerate() {
        for block in 0..depth {
            let prefix = format!("{BACKBONE}stages.{stage}.{block}.");
            x = mb_conv_block(graph, &x, &prefix, block == 0);
        }
    }
    let x = graph.channel_norm(&x, &format!("{BACKBONE}pool.norm."), VITAMIN_EPSILON);
    convolve(graph, &x, &format!("{BACKBONE}pool.proj."), 2)
}

/// A stage's first block halves the side, on the residual path by averages.
fn mb_conv_block(graph: &mut Graph<'_>, x: &Value, block: &str, is_first: bool) -> Value {
    let mut shortcut = x.clone();
    if is_first {
        shortcut = pooled(graph, x);
        let expand = format!("{block}shortcut.expand.");
        if graph.weights.has(&format!("{expand}weight")) {
            shortcut = convolve(graph, &shortcut, &expand, 1);
        }
    }
    let x = graph.channel_norm(x, &format!("{block}pre_norm."), VITAMIN_EPSILON);
    let hidden = convolve(graph, &x, &format!("{block}conv1_1x1."), 1);
    let hidden = graph.activation(&hidden, Activation::Gelu);
    let conv2_kxk = format!("{block}conv2_kxk.");
    let depthwise = Convolution {
        stride: if is_first { 2 } else { 1 },
        padding: graph.weights.side(&conv2_kxk) / 2,
        groups: graph.weights.shape(&format!("{conv2_kxk}weight"))[0],
    };
    let hidden = graph.convolution(&hidden, &conv2_kxk, depthwise);
    let hidden = graph.activation(&hidden, Activation::Gelu);
    let mixed = convolve(graph, &hidden, &format!("{block}conv3_1x1."), 1);
    graph.add(&mixed, &shortcut)
}

/// A convolution of all channels, padded so that stride 1 keeps the size.
fn convolve(graph: &mut Graph<'_>, x: &Value, prefix: &str, stride: usize) -> Value {
    let settings = Convolution {
        stride,
        padding: graph.weights.side(prefix) / 2,
        groups: 1,
    };
    graph.convolution(x, prefix, settings)
}

/// Averages of 3 by 3 places at every second one. What lies outside the image has no part in them.
fn pooled(graph: &mut Graph<'_>, x: &Value) -> Value {
    let attributes = [
        ("kernel_shape", Attribute::Ints(&[3, 3])),
        ("strides", Attribute::Ints(&[2, 2])),
        ("pads", Attribute::Ints(&[1; 4])),
        ("count_include_pad", Attribute::Int(0)),
    ];
    graph.node("AveragePool", &[x], &attributes)
}
