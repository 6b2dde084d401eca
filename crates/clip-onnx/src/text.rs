//! The paper's text transformer, and SigLIP's.

use clip_model::{ClipConfig, ProjType, TextConfig, TextPool};

use crate::{
    graph::{Graph, Value},
    onnx::{Attribute, Axis, ElementType},
    transformer::{OPEN_CLIP, Transformer},
};

/// Token and position embeddings, blocks, the pooled token, `ln_final`, a projection.
///
/// # Shapes
/// - `ids`: `[batch, tokens]`
/// - returns `[batch, embed_dim]`
pub(crate) fn text_transformer(graph: &mut Graph<'_>, ids: &Value, config: &ClipConfig) -> Value {
    let text = &config.text_cfg;
    let prefix = if config.custom_text { "text." } else { "" };
    let name = |name: &str| format!("{prefix}{name}");

    let embedding = graph.weight(&name("token_embedding.weight"));
    let embedded = graph.gather(&embedding, ids, 0); // [batch, tokens, width]
    let positions = graph.weight(&name("positional_embedding"));
    let tokens = (!needs_whole_context(text)).then(|| graph.length(ids, 1));
    let positions = match &tokens {
        Some(tokens) => graph.beginning(&positions, tokens, &[0]),
        None => positions,
    };
    let x = graph.add(&embedded, &positions);
    let mask = (!text.no_causal_mask).then(|| causal_mask(graph, text, tokens.as_ref()));
    let transformer = Transformer {
        names: OPEN_CLIP,
        prefix: name("transformer.resblocks."),
        layers: text.layers,
        heads: text.heads,
        activation: text.activation(config.activation()),
        epsilon: text.layer_norm_epsilon(),
    };
    let x = transformer.forward(graph, x, mask.as_ref());
    let pooled = pooled(graph, &x, ids, text); // [batch, width]
    let pooled = graph.layer_norm(&pooled, &name("ln_final."), text.layer_norm_epsilon());
    match (text.proj_type, text.proj_bias) {
        (ProjType::None, _) => pooled,
        (ProjType::Linear, true) => graph.linear(&pooled, &name("text_projection.")),
        (ProjType::Linear, false) => {
            let projection = graph.weight(&name("text_projection"));
            graph.matmul(&pooled, &projection)
        }
    }
}

/// Tokens of a text: as many as its batch needs where what follows the pooled one changes nothing.
pub(crate) fn tokens_axis(text: &TextConfig) -> Axis<'static> {
    if needs_whole_context(text) {
        Axis::Fixed(text.context_length)
    } else {
        Axis::Free("tokens")
    }
}

/// Whether padding counts.
fn needs_whole_context(text: &TextConfig) -> bool {
    text.no_causal_mask || text.pool_type == TextPool::Last
}

/// 0 up to the diagonal, `-inf` beyond it, for as many tokens as there are.
fn causal_mask(graph: &mut Graph<'_>, text: &TextConfig, tokens: Option<&Value>) -> Value {
    let context = text.context_length;
    let row =
        |row| (0..context).map(move |column| if column > row { f32::NEG_INFINITY } else { 0.0 });
    let mask: Vec<f32> = (0..context).flat_map(row).collect();
    let mask = graph.floats("causal_mask", &[context, context], &mask);
    match tokens {
        Some(tokens) => {
            let square = graph.concat(&[tokens, tokens], 0);
            graph.beginning(&mask, &square, &[0, 1])
        }
        None => mask,
    }
}

/// The token whose features are the text's.
fn pooled(graph: &mut Graph<'_>, x: &Value, ids: &Value, text: &TextConfig) -> Value {
    let at = |graph: &mut Graph<'_>, place| {
        let place = graph.int(place);
        graph.gather(x, &place, 1)
    };
    let scores = match text.pool_type {
        TextPool::First => return at(graph, 0),
        TextPool::Last => return at(graph, text.context_length as i64 - 1),
        TextPool::Argmax => graph.cast(ids, ElementType::Int32),
        TextPool::Eos => {
            let eos_id = graph.int(text.eos_id.into());
            let equal = graph.node("Equal", &[ids, &eos_id], &[]);
            graph.cast(&equal, ElementType::Int32)
        }
    };
    let places = graph.argmax(&scores); // [batch, 1]; of 32 bits, as old runtimes know no other
    graph.node(
        "GatherND",
        &[x, &places],
        &[("batch_dims", Attribute::Int(1))],
    )
}
