//! timm's `FastVit`, each sum of its branches as one convolution.

use clip_model::encoder::{
    Activation,
    fastvit::{FASTVIT_EPSILON, FastVitShape, FastVitStageShape},
};

use crate::{
    graph::{Graph, Value},
    layers::Convolution,
    transformer::attend,
};

/// A stem, stages of blocks, the average over places, a projection. Weights are those of
/// [`ImportedWeights::reparameterised_image_encoder`](clip_model::weights::ImportedWeights::reparameterised_image_encoder).
///
/// # Shapes
/// - `pixels`: `[batch, 3, image_size, image_size]`
/// - returns `[batch, embed_dim]`
pub(crate) fn fastvit(graph: &mut Graph<'_>, pixels: &Value, shape: &FastVitShape) -> Value {
    let name = |name: &str| format!("visual.trunk.{name}");
    let mut x = pixels.clone();
    let mut channels = shape.stages[0].channels;
    for (block, settings) in [strided(1), strided(channels), PLACES]
        .into_iter()
        .enumerate()
    {
        x = mobile_one(graph, &x, &name(&format!("stem.{block}.")), settings);
    }
    for (number, stage) in shape.stages.iter().enumerate() {
        let prefix = name(&format!("stages.{number}."));
        if number > 0 {
            let halved = strided(channels);
            x = mobile_one(graph, &x, &format!("{prefix}downsample.proj.0."), halved);
            x = mobile_one(graph, &x, &format!("{prefix}downsample.proj.1."), PLACES);
        }
        channels = stage.channels;
        if stage.attention {
            let around = format!("{prefix}pos_emb.pos_enc.");
            let around = convolution(graph, &x, &around, depthwise(channels));
            x = graph.add(&around, &x);
        }
        for block in 0..stage.depth {
            let block = format!("{prefix}blocks.{block}.");
            x = if stage.attention {
                attention_block(graph, &x, &block, stage, shape)
            } else {
                rep_mixer_block(graph, &x, &block, stage)
            };
        }
    }
    let x = mobile_one(graph, &x, &name("final_conv."), depthwise(channels));
    let features = graph.mean(&x, &[2, 3], false); // [batch, channels]
    graph.linear(&features, &name("head.fc."))
}

/// How a convolution moves, which is padded by half of its side.
#[derive(Clone, Copy)]
struct Settings {
    stride: usize,
    groups: usize,
}

/// On single places.
const PLACES: Settings = Settings {
    stride: 1,
    groups: 1,
};

const fn depthwise(channels: usize) -> Settings {
    Settings {
        stride: 1,
        groups: channels,
    }
}

/// To half the side.
const fn strided(groups: usize) -> Settings {
    Settings { stride: 2, groups }
}

/// A convolution, channels weighed by their averages where the block has such layers, and GELU.
fn mobile_one(graph: &mut Graph<'_>, x: &Value, prefix: &str, settings: Settings) -> Value {
    let x = convolution(graph, x, &format!("{prefix}reparam_conv."), settings);
    let x = if graph.weights.has(&format!("{prefix}se.fc1.weight")) {
        let means = graph.mean(&x, &[2, 3], true);
        let hidden = convolution(graph, &means, &format!("{prefix}se.fc1."), PLACES);
        let hidden = graph.node("Relu", &[&hidden], &[]);
        let weighed = convolution(graph, &hidden, &format!("{prefix}se.fc2."), PLACES);
        let weighed = graph.node("Sigmoid", &[&weighed], &[]);
        graph.mul(&x, &weighed)
    } else {
        x
    };
    graph.activation(&x, Activation::Gelu)
}

/// One convolution, residual path included, then an MLP beside another.
fn rep_mixer_block(
    graph: &mut Graph<'_>,
    x: &Value,
    block: &str,
    stage: &FastVitStageShape,
) -> Value {
    let mixer = format!("{block}token_mixer.reparam_conv.");
    let x = convolution(graph, x, &mixer, depthwise(stage.channels));
    let mixed = mlp(graph, &x, block, stage.channels);
    added(graph, &x, &mixed, &format!("{block}layer_scale."))
}

/// Attention between places after a norm, then an MLP, each beside a residual path.
fn attention_block(
    graph: &mut Graph<'_>,
    x: &Value,
    block: &str,
    stage: &FastVitStageShape,
    shape: &FastVitShape,
) -> Value {
    let channels = stage.channels;
    let norm = format!("{block}norm.");
    let tokens = if shape.layer_norm {
        let tokens = graph.places_as_tokens(x);
        graph.layer_norm(&tokens, &norm, FASTVIT_EPSILON)
    } else {
        let normed = graph.batch_norm(x, &norm);
        graph.places_as_tokens(&normed)
    };
    let rows = graph.linear(&tokens, &format!("{block}token_mixer.qkv."));
    let [query, key, value] = graph.split(&rows, [channels; 3]);
    let heads = channels / shape.head_width;
    let mixed = attend(graph, [&query, &key, &value], None, [channels, heads]);
    let mixed = graph.linear(&mixed, &format!("{block}token_mixer.proj."));
    let mixed = graph.transpose(&mixed, &[0, 2, 1]); // [batch, channels, places]
    let size = graph.node("Shape", &[x], &[]);
    let mixed = graph.node("Reshape", &[&mixed, &size], &[]);
    let x = added(graph, x, &mixed, &format!("{block}layer_scale_1."));
    let mixed = mlp(graph, &x, block, channels);
    added(graph, &x, &mixed, &format!("{block}layer_scale_2."))
}

/// A depthwise convolution with a batch norm, then two layers on each place around GELU.
fn mlp(graph: &mut Graph<'_>, x: &Value, block: &str, channels: usize) -> Value {
    let conv = format!("{block}mlp.conv.conv.");
    let x = convolution(graph, x, &conv, depthwise(channels));
    let x = graph.batch_norm(&x, &format!("{block}mlp.conv.bn."));
    let hidden = convolution(graph, &x, &format!("{block}mlp.fc1."), PLACES);
    let hidden = graph.activation(&hidden, Activation::Gelu);
    convolution(graph, &hidden, &format!("{block}mlp.fc2."), PLACES)
}

/// A residual path and what is added to it, times a factor for each channel.
fn added(graph: &mut Graph<'_>, x: &Value, mixed: &Value, scale: &str) -> Value {
    let gamma = graph.weight(&format!("{scale}gamma"));
    let mixed = graph.mul(mixed, &gamma);
    graph.add(x, &mixed)
}

fn convolution(graph: &mut Graph<'_>, x: &Value, prefix: &str, settings: Settings) -> Value {
    let Settings { stride, groups } = settings;
    let settings = Convolution {
        stride,
        padding: graph.weights.side(prefix) / 2,
        groups,
    };
    graph.convolution(x, prefix, settings)
}
