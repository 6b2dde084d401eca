//! timm's `ConvNeXt`, with OpenCLIP's projection.

use clip_model::encoder::{Activation, convnext::ConvNeXtShape};

use crate::{
    graph::{Graph, Value},
    layers::Convolution,
};

/// A stem, four stages of blocks, the average over places, a norm, a projection.
///
/// # Shapes
/// - `pixels`: `[batch, 3, image_size, image_size]`
/// - returns `[batch, embed_dim]`
pub(crate) fn convnext(graph: &mut Graph<'_>, pixels: &Value, shape: &ConvNeXtShape) -> Value {
    let x = graph.patches(pixels, "visual.trunk.stem.0.");
    let mut x = graph.channel_norm(&x, "visual.trunk.stem.1.", shape.epsilon);
    for (stage, depth) in shape.depths.into_iter().enumerate() {
        let prefix = format!("visual.trunk.stages.{stage}.");
        if stage > 0 {
            x = graph.channel_norm(&x, &format!("{prefix}downsample.0."), shape.epsilon);
            x = graph.patches(&x, &format!("{prefix}downsample.1."));
        }
        for block in 0..depth {
            x = convnext_block(
                graph,
                &x,
                &format!("{prefix}blocks.{block}."),
                shape.epsilon,
            );
        }
    }
    let features = graph.mean(&x, &[2, 3], false); // [batch, channels]
    let features = graph.layer_norm(&features, "visual.trunk.head.norm.", shape.epsilon);
    graph.timm_head(&features, shape.projection)
}

/// A depthwise convolution, then a norm and an MLP on each place, beside a residual path.
fn convnext_block(graph: &mut Graph<'_>, x: &Value, block: &str, epsilon: f64) -> Value {
    let conv_dw = format!("{block}conv_dw.");
    let depthwise = Convolution {
        stride: 1,
        padding: graph.weights.side(&conv_dw) / 2,
        groups: graph.weights.shape(&format!("{conv_dw}weight"))[0],
    };
    let mixed = graph.convolution(x, &conv_dw, depthwise);
    let mixed = graph.channels_last(&mixed);
    let mixed = graph.layer_norm(&mixed, &format!("{block}norm."), epsilon);
    let names = [format!("{block}mlp.fc1."), format!("{block}mlp.fc2.")];
    let mixed = graph.mlp(
        &mixed,
        names.each_ref().map(String::as_str),
        Activation::Gelu,
    );
    let gamma = graph.weight(&format!("{block}gamma"));
    let mixed = graph.mul(&mixed, &gamma);
    let mixed = graph.channels_first(&mixed);
    graph.add(x, &mixed)
}
