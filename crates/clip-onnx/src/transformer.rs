//! The transformer of both encoders.

use clip_model::encoder::Activation;

use crate::graph::{Graph, Value};

/// What a block's parameters are called.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    ln_1: &'static str,
    in_proj: &'static str,
    out_proj: &'static str,
    ln_2: &'static str,
    mlp: MlpNames,
}

/// Those of one of two kinds of MLP.
#[derive(Clone, Copy, Debug)]
enum MlpNames {
    /// Two layers around the non-linearity.
    Plain([&'static str; 2]),
    /// A norm, the gate before its non-linearity, what is let through, and the last layer.
    Gated([&'static str; 4]),
}

/// Those of OpenCLIP's own towers.
pub(crate) const OPEN_CLIP: Names = Names {
    ln_1: "ln_1.",
    in_proj: "attn.in_proj_",
    out_proj: "attn.out_proj.",
    ln_2: "ln_2.",
    mlp: MlpNames::Plain(["mlp.c_fc.", "mlp.c_proj."]),
};

/// Those of timm's.
pub(crate) const TIMM: Names = Names {
    ln_1: "norm1.",
    in_proj: "attn.qkv.",
    out_proj: "attn.proj.",
    ln_2: "norm2.",
    mlp: MlpNames::Plain(["mlp.fc1.", "mlp.fc2."]),
};

/// Those of timm's `ViTamin`.
pub(crate) const VITAMIN: Names = Names {
    mlp: MlpNames::Gated(["mlp.norm.", "mlp.w0.", "mlp.w1.", "mlp.w2."]),
    ..TIMM
};

/// A stack of residual attention blocks.
pub(crate) struct Transformer {
    pub(crate) names: Names,
    /// Before a block's number.
    pub(crate) prefix: String,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) activation: Activation,
    /// Of the norms.
    pub(crate) epsilon: f64,
}

impl Transformer {
    /// # Shapes
    /// - `x`: `[batch, tokens, width]`, and so is the result
    /// - `mask`: `[tokens, tokens]`, added to the scores
    pub(crate) fn forward(&self, graph: &mut Graph<'_>, x: Value, mask: Option<&Value>) -> Value {
        (0..self.layers).fold(x, |x, layer| {
            self.residual_attention_block(graph, &x, mask, &format!("{}{layer}.", self.prefix))
        })
    }

    fn residual_attention_block(
        &self,
        graph: &mut Graph<'_>,
        x: &Value,
        mask: Option<&Value>,
        block: &str,
    ) -> Value {
        let Names { ln_1, ln_2, .. } = self.names;
        let normed = graph.layer_norm(x, &format!("{block}{ln_1}"), self.epsilon);
        let mixed = self.attention(graph, &normed, mask, block);
        let mixed = layer_scaled(graph, mixed, &format!("{block}ls_1.gamma"));
        let x = graph.add(x, &mixed);
        let normed = graph.layer_norm(&x, &format!("{block}{ln_2}"), self.epsilon);
        let mixed = self.mlp(graph, &normed, block);
        let mixed = layer_scaled(graph, mixed, &format!("{block}ls_2.gamma"));
        graph.add(&x, &mixed)
    }

    fn mlp(&self, graph: &mut Graph<'_>, x: &Value, block: &str) -> Value {
        match self.names.mlp {
            MlpNames::Plain(layers) => {
                let [c_fc, c_proj] = layers.map(|layer| format!("{block}{layer}"));
                graph.mlp(x, [&c_fc, &c_proj], self.activation)
            }
            MlpNames::Gated(layers) => {
                let [norm, gate, value, last] = layers.map(|layer| format!("{block}{layer}"));
                let x = graph.layer_norm(x, &norm, self.epsilon);
                let gate = graph.linear(&x, &gate);
                let gate = graph.activation(&gate, self.activation);
                let value = graph.linear(&x, &value);
                let hidden = graph.mul(&gate, &value);
                graph.linear(&hidden, &last)
            }
        }
    }

    /// Self-attention with one fused query-key-value product.
    fn attention(
        &self,
        graph: &mut Graph<'_>,
        x: &Value,
        mask: Option<&Value>,
        block: &str,
    ) -> Value {
        let Names {
            in_proj, out_proj, ..
        } = self.names;
        let in_proj = format!("{block}{in_proj}");
        let width = graph.weights.shape(&format!("{in_proj}weight"))[1];
        let rows = graph.linear(x, &in_proj);
        let [query, key, value] = graph.split(&rows, [width; 3]);
        let mixed = attend(graph, [&query, &key, &value], mask, [width, self.heads]);
        graph.linear(&mixed, &format!("{block}{out_proj}"))
    }
}

/// Scaled dot-product attention of several heads.
///
/// # Shapes
/// - query: `[batch, queries, width]`, or `[1, queries, width]` for the whole batch; key and value: `[batch, tokens, width]`
/// - returns `[batch, queries, width]`
pub(crate) fn attend(
    graph: &mut Graph<'_>,
    [query, key, value]: [&Value; 3],
    mask: Option<&Value>,
    [width, heads]: [usize; 2],
) -> Value {
    let head_width = width / heads;
    let mut split = |x: &Value, axes: [i64; 4]| {
        let heads = graph.reshape(x, &[0, 0, heads as i64, head_width as i64]);
        graph.transpose(&heads, &axes)
    };
    let query = split(query, [0, 2, 1, 3]);
    let key = split(key, [0, 2, 3, 1]); // [batch, heads, head_width, tokens]
    let value = split(value, [0, 2, 1, 3]);
    let query = graph.scale(&query, (head_width as f64).powf(-0.5));
    let scores = graph.matmul(&query, &key); // [batch, heads, queries, tokens]
    let scores = match mask {
        Some(mask) => graph.add(&scores, mask),
        None => scores,
    };
    let shares = graph.softmax(&scores);
    let mixed = graph.matmul(&shares, &value);
    let mixed = graph.transpose(&mixed, &[0, 2, 1, 3]);
    graph.reshape(&mixed, &[0, 0, width as i64])
}

/// What a residual path adds, by its layer scale where it has one.
fn layer_scaled(graph: &mut Graph<'_>, x: Value, name: &str) -> Value {
    if !graph.weights.has(name) {
        return x;
    }
    let scale = graph.weight(name);
    graph.mul(&x, &scale)
}
