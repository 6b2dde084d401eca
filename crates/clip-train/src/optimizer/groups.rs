use std::collections::BTreeMap;

use burn::{
    module::{ModuleVisitor, Param, ParamId},
    tensor::Tensor,
};
use sha2::{Digest, Sha256};

/// A model's parameters, told apart by how they are stepped.
#[derive(Default)]
pub(super) struct Parameters {
    all: Vec<Parameter>,
    path: Vec<String>,
    /// Of the parameters' order and shapes.
    pub(super) shapes: Sha256,
}

struct Parameter {
    id: ParamId,
    is_vector: bool,
    /// The first part of its path: `visual`, `text`, or its own name.
    tower: String,
    layer: Layer,
}

/// Where in its tower a parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layer {
    /// Counted from 0, where embeddings are; blocks and stages begin at 1.
    At(usize),
    /// Above all blocks: final norms and projections, poolings, and what belongs to no tower.
    Head,
}

/// Parameters that are stepped alike.
pub(super) struct Group {
    /// No gain, bias or scalar: what weight decay is for.
    pub(super) is_matrix: bool,
    /// What the learning rate is multiplied by.
    pub(super) lr_scale: f64,
    pub(super) ids: Vec<ParamId>,
}

impl Parameters {
    /// Adds matrices where one of the model's is.
    pub(super) fn add_beside(&mut self, matrix: ParamId, ids: [ParamId; 2]) {
        let beside = self.all.iter().find(|parameter| parameter.id == matrix);
        let added = beside.map(|beside| {
            ids.map(|id| Parameter {
                id,
                is_vector: false,
                tower: beside.tower.clone(),
                layer: beside.layer,
            })
        });
        self.all.extend(added.into_iter().flatten());
    }

    /// All of them, but for matrices at the full learning rate: these are what is stepped without being named.
    pub(super) fn groups(&self, layer_decay: Option<f64>) -> Vec<Group> {
        let mut heads = BTreeMap::<&str, usize>::new();
        for parameter in &self.all {
            let head = heads.entry(&parameter.tower).or_default();
            if let Layer::At(layer) = parameter.layer {
                *head = (*head).max(layer + 1);
            }
        }
        let mut groups = BTreeMap::<(usize, bool), Vec<ParamId>>::new();
        for parameter in &self.all {
            let below = match (parameter.layer, layer_decay) {
                (Layer::At(layer), Some(_)) => heads[parameter.tower.as_str()] - layer,
                _ => 0,
            };
            let key = (below, parameter.is_vector);
            groups.entry(key).or_default().push(parameter.id);
        }
        groups.remove(&(0, false));
        let group = |((below, is_vector), ids): ((usize, bool), _)| Group {
            is_matrix: !is_vector,
            lr_scale: layer_decay.unwrap_or(1.0).powi(below as i32),
            ids,
        };
        groups.into_iter().map(group).collect()
    }
}

impl Layer {
    /// Of a parameter's path, in any of the towers.
    pub(super) fn of(path: &[String]) -> Self {
        const EMBEDDINGS: [&str; 18] = [
            "conv1",
            "conv2",
            "conv3",
            "bn1",
            "bn2",
            "bn3",
            "class_embedding",
            "cls_token",
            "cls_emb",
            "positional_embedding",
            "token_embedding",
            "ln_pre",
            "norm_pre",
            "patch_embed",
            "pos_embed",
            "stem",
            "embeddings",
            "embed_tokens",
        ];
        // Of blocks one after the other; CoCa's decoder has two kinds that take turns.
        const BLOCKS: [&str; 6] = [
            "resblocks",
            "cross_attn",
            "blocks",
            "stages",
            "layer",
            "layers",
        ];
        // A stage's bottlenecks have a `conv1` of their own, further down.
        for (at, name) in path.iter().enumerate() {
            let number = || path.get(at + 1)?.parse::<usize>().ok();
            // A stage has blocks of its own, further down.
            if BLOCKS.contains(&name.as_str()) {
                return number().map_or(Self::Head, |block| Self::At(block + 1));
            }
            if let Some(stage) = name.strip_prefix("layer").and_then(|n| n.parse().ok()) {
                return Self::At(stage);
            }
            // Has positions of its own.
            if name == "attnpool" {
                return Self::Head;
            }
            if EMBEDDINGS.contains(&name.as_str()) {
                return Self::At(0);
            }
        }
        Self::Head
    }
}

impl ModuleVisitor for Parameters {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.all.push(Parameter {
            id: param.id,
            is_vector: D < 2,
            tower: self.path.first().cloned().unwrap_or_default(),
            layer: Layer::of(&self.path),
        });
        self.shapes.update(param.id.val().to_le_bytes());
        self.shapes.update((D as u64).to_le_bytes());
        for length in param.lazy_shape().to_vec() {
            self.shapes.update((length as u64).to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_counted_from_the_input_in_every_tower() {
        let of = |path: &str| {
            let path: Vec<String> = path.split('.').map(ToOwned::to_owned).collect();
            Layer::of(&path)
        };
        for (path, layer) in [
            ("visual.conv1.weight", Layer::At(0)),
            ("visual.ln_pre.gamma", Layer::At(0)),
            (
                "visual.transformer.resblocks.0.attn.in_proj.bias",
                Layer::At(1),
            ),
            ("visual.transformer.resblocks.11.ln_1.gamma", Layer::At(12)),
            ("visual.ln_post.gamma", Layer::Head),
            ("visual.proj", Layer::Head),
            ("visual.layer4.2.conv1.weight", Layer::At(4)),
            ("visual.attnpool.positional_embedding", Layer::Head),
            ("visual.trunk.patch_embed.proj.weight", Layer::At(0)),
            ("visual.trunk.attn_pool.latent", Layer::Head),
            ("visual.trunk.stem.conv.weight", Layer::At(0)),
            (
                "visual.trunk.stages.3.blocks.2.mlp.c_fc.weight",
                Layer::At(4),
            ),
            ("visual.trunk.head.norm.gamma", Layer::Head),
            ("visual.head.proj.weight", Layer::Head),
            ("visual.trunk.cls_token", Layer::At(0)),
            ("visual.trunk.norm_pre.gamma", Layer::At(0)),
            (
                "visual.trunk.blocks.2.attn.projections.qkv.weight",
                Layer::At(3),
            ),
            ("visual.trunk.norm.gamma", Layer::Head),
            ("visual.trunk.stem.0.conv_kxk.conv.weight", Layer::At(0)),
            (
                "visual.trunk.stages.1.downsample.large.large_conv.conv.weight",
                Layer::At(2),
            ),
            ("visual.trunk.stages.3.pos_emb.pos_enc.weight", Layer::At(4)),
            (
                "visual.trunk.stages.0.blocks.1.token_mixer.layer_scale.scale",
                Layer::At(1),
            ),
            ("visual.trunk.final_conv.conv_kxk.conv.weight", Layer::Head),
            ("visual.trunk.head.fc.weight", Layer::Head),
            (
                "visual.trunk.patch_embed.backbone.0.conv.weight",
                Layer::At(0),
            ),
            ("visual.trunk.head.weight", Layer::Head),
            (
                "visual.trunk.patch_embed.backbone.stages.1.3.conv1_1x1.weight",
                Layer::At(0),
            ),
            ("visual.trunk.blocks.13.mlp.w0.weight", Layer::At(14)),
            ("visual.trunk.fc_norm.gamma", Layer::Head),
            ("text.token_embedding.weight", Layer::At(0)),
            ("text.text_projection", Layer::Head),
            (
                "text.transformer.embeddings.word_embeddings.weight",
                Layer::At(0),
            ),
            ("text.transformer.embeddings.norm.gamma", Layer::At(0)),
            (
                "text.transformer.encoder.layer.11.mlp_norm.gamma",
                Layer::At(12),
            ),
            ("text.transformer.pooler.weight", Layer::Head),
            ("text.transformer.embed_tokens.weight", Layer::At(0)),
            ("text.transformer.layers.0.fc1.weight", Layer::At(1)),
            ("text.transformer.layer_norm.gamma", Layer::Head),
            ("text.proj.c_fc.weight", Layer::Head),
            ("visual.attn_pool.query", Layer::Head),
            ("text.cls_emb", Layer::At(0)),
            ("text_decoder.resblocks.1.ln_1.gamma", Layer::At(2)),
            ("text_decoder.cross_attn.1.ln_1_kv.gamma", Layer::At(2)),
            ("text_decoder.text_projection", Layer::Head),
            ("logit_scale", Layer::Head),
        ] {
            assert_eq!(of(path), layer, "{path}");
        }
    }
}
