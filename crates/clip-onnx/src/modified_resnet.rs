//! The paper's residual network.

use clip_model::VisionConfig;

use crate::{
    graph::{Graph, Value},
    layers::Convolution,
    onnx::Attribute,
    transformer::attend,
};

/// A stem of three convolutions, four stages of bottlenecks, attention in place of the last average.
///
/// # Shapes
/// - `pixels`: `[batch, 3, image_size, image_size]`
/// - returns `[batch, embed_dim]`
pub(crate) fn modified_resnet(
    graph: &mut Graph<'_>,
    pixels: &Value,
    vision: &VisionConfig,
    stages: [usize; 4],
) -> Value {
    let x = convolution_relu(graph, pixels, ["visual.conv1.", "visual.bn1."], 2);
    let x = convolution_relu(graph, &x, ["visual.conv2.", "visual.bn2."], 1);
    let x = convolution_relu(graph, &x, ["visual.conv3.", "visual.bn3."], 1);
    let mut x = average_pool(graph, x, 2); // [batch, width, image_size / 4, image_size / 4]
    for (stage, depth) in stages.into_iter().enumerate() {
        for block in 0..depth {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let prefix = format!("visual.layer{}.{block}.", stage + 1);
            x = bottleneck(graph, &x, stride, &prefix);
        }
    }
    attention_pool(graph, &x, vision) // from [batch, 32 * width, image_size / 32, image_size / 32]
}

/// The stride is an average before the last convolution.
fn bottleneck(graph: &mut Graph<'_>, x: &Value, stride: usize, prefix: &str) -> Value {
    let layer = |layer: &str| format!("{prefix}{layer}");
    let out = convolution_relu(graph, x, [&layer("conv1."), &layer("bn1.")], 1);
    let out = convolution_relu(graph, &out, [&layer("conv2."), &layer("bn2.")], 1);
    let out = average_pool(graph, out, stride);
    let out = convolution(graph, &out, [&layer("conv3."), &layer("bn3.")], 1);
    let identity = if graph.weights.has(&layer("downsample.0.weight")) {
        let pooled = average_pool(graph, x.clone(), stride);
        let names = [layer("downsample.0."), layer("downsample.1.")];
        convolution(graph, &pooled, names.each_ref().map(String::as_str), 1)
    } else {
        x.clone()
    };
    let sum = graph.add(&out, &identity);
    graph.node("Relu", &[&sum], &[])
}

fn convolution_relu(graph: &mut Graph<'_>, x: &Value, names: [&str; 2], stride: usize) -> Value {
    let normed = convolution(graph, x, names, stride);
    graph.node("Relu", &[&normed], &[])
}

/// A convolution, padded so that stride 1 keeps the size, then a batch norm by its running statistics.
fn convolution(graph: &mut Graph<'_>, x: &Value, [conv, bn]: [&str; 2], stride: usize) -> Value {
    let settings = Convolution {
        stride,
        padding: graph.weights.side(conv) / 2,
        groups: 1,
    };
    let x = graph.convolution(x, conv, settings);
    graph.batch_norm(&x, bn)
}

/// The average of each square of that side.
fn average_pool(graph: &mut Graph<'_>, x: Value, side: usize) -> Value {
    if side == 1 {
        return x;
    }
    let side = [side as i64; 2];
    let attributes = [
        ("kernel_shape", Attribute::Ints(&side)),
        ("strides", Attribute::Ints(&side)),
    ];
    graph.node("AveragePool", &[&x], &attributes)
}

/// Attention of an image's average over its places.
fn attention_pool(graph: &mut Graph<'_>, x: &Value, vision: &VisionConfig) -> Value {
    let places = graph.places_as_tokens(x);
    let average = graph.mean(&places, &[1], true);
    let x = graph.concat(&[&average, &places], 1);
    let name = |name: &str| format!("visual.attnpool.{name}");
    let positions = name("positional_embedding");
    let width = graph.weights.shape(&positions)[1];
    let positions = graph.weight(&positions);
    let x = graph.add(&x, &positions); // [batch, 1 + places, width]
    let one = graph.ints(&[1]);
    let query = graph.beginning(&x, &one, &[1]);
    let query = graph.linear(&query, &name("q_proj."));
    let key = graph.linear(&x, &name("k_proj."));
    let value = graph.linear(&x, &name("v_proj."));
    let pooled = attend(graph, [&query, &key, &value], None, [width, vision.heads()]); // [batch, 1, width]
    let pooled = graph.reshape(&pooled, &[0, width as i64]);
    graph.linear(&pooled, &name("c_proj."))
}
