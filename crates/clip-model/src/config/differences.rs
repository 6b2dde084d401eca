//! Whether two configurations are of one architecture.

use serde_json::{Map, Value};

use super::{Approximate, ClipConfig, Layers, NormKwargs, TextPool};

/// Keys that don't say what a model computes: how its training began or leaves things out, and where others find its
/// tokenizer.
const NOT_COMPUTED: [&str; 7] = [
    "init_logit_scale",
    "custom_text",
    "vision_cfg.patch_dropout",
    "vision_cfg.timm_drop_path",
    "text_cfg.hf_model_pretrained",
    "text_cfg.hf_tokenizer_name",
    "text_cfg.tokenizer_kwargs",
];

/// Keys whose number is a weight's first one: a model has the weight where there is a number, whatever it is.
const BEGINNINGS: [&str; 2] = ["init_logit_bias", "vision_cfg.ls_init_value"];

/// Keys that weights are fitted to when they are read for another model: positional embeddings are resized, and the sigmoid
/// loss's bias is added or left out.
const FITTED: [&str; 3] = [
    "vision_cfg.image_size",
    "text_cfg.context_length",
    "init_logit_bias",
];

/// The key under which timm's models differ by the size of their images alone.
const TIMM_NAME: &str = "vision_cfg.timm_model_name";

/// A key by which two models compute different things.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The key, from the configuration's root: `vision_cfg.pool_type`.
    pub key: String,
    /// Its value in the first configuration; null where it is its default.
    pub first: Value,
    /// Its value in the second.
    pub second: Value,
}

impl Difference {
    /// Both values as people read them.
    pub fn shown(&self) -> [String; 2] {
        [&self.first, &self.second].map(|value| match value {
            Value::Null => "not set".to_owned(),
            value => value.to_string(),
        })
    }

    /// Whether weights of the one model are fitted to the other when they are read for it: see
    /// [`ReadOptions`](crate::weights::ReadOptions).
    pub fn is_fitted(&self) -> bool {
        FITTED.contains(&self.key.as_str())
            || self.key == TIMM_NAME
                && sizeless(&self.first).is_some_and(|name| Some(name) == sizeless(&self.second))
    }
}

impl ClipConfig {
    /// Every key by which `other` computes something else, in the order of keys. Shapes alone don't tell: weights of the
    /// one may fit the other, and give features of no use.
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        walk("", &self.computed(), &other.computed(), &mut found);
        found
    }

    /// The configuration as a tree of the keys that say what is computed, each in one spelling.
    fn computed(&self) -> Value {
        let mut config = self.clone();
        // What isn't known here is off, or the configuration were refused.
        for unknown in [
            Some(&mut config.other),
            Some(&mut config.vision_cfg.other),
            Some(&mut config.text_cfg.other),
            config
                .multimodal_cfg
                .as_mut()
                .map(|decoder| &mut decoder.other),
        ] {
            unknown.map(Map::clear);
        }
        let vision = &mut config.vision_cfg;
        if vision.timm_model_name.is_some() {
            // The name has all of them, and an empty pool is the mean.
            (vision.layers, vision.width, vision.head_width) = (Layers::Blocks(0), 0, 0);
            (vision.mlp_ratio, vision.patch_size) = (0.0, None);
            let pool = vision.timm_pool.take();
            vision.timm_pool = pool.map(|pool| {
                if pool.is_empty() {
                    "avg".to_owned()
                } else {
                    pool
                }
            });
        }
        let text = &mut config.text_cfg;
        let eps = text.layer_norm_epsilon();
        text.norm_kwargs = Some(NormKwargs { eps });
        text.act_kwargs = text
            .act_kwargs
            .filter(|gelu| gelu.approximate != Approximate::None);
        if text.pool_type != TextPool::Eos {
            text.eos_id = 0;
        }
        // The hub has some under two names, with their owner's and without.
        let name = text.hf_model_name.take();
        text.hf_model_name =
            name.map(|name| name.rsplit('/').next().unwrap_or_default().to_owned());
        // invariant: a configuration is a tree of plain values under string keys.
        serde_json::to_value(config).expect("invariant: plain values")
    }
}

fn walk(path: &str, first: &Value, second: &Value, found: &mut Vec<Difference>) {
    let (Value::Object(a), Value::Object(b)) = (first, second) else {
        let same = first == second
            || NOT_COMPUTED.contains(&path)
            || BEGINNINGS.contains(&path) && first.is_number() && second.is_number();
        if !same {
            found.push(Difference {
                key: path.to_owned(),
                first: first.clone(),
                second: second.clone(),
            });
        }
        return;
    };
    let only_first = a.keys().filter(|key| !b.contains_key(*key));
    for key in b.keys().chain(only_first) {
        let dot = if path.is_empty() { "" } else { "." };
        let [a, b] = [a, b].map(|side| side.get(key).unwrap_or(&Value::Null));
        walk(&format!("{path}{dot}{key}"), a, b, found);
    }
}

/// A name of timm's without the side of its images: `vit_base_patch16_siglip` of `vit_base_patch16_siglip_256`.
fn sizeless(name: &Value) -> Option<&str> {
    let name = name.as_str()?;
    Some(match name.rsplit_once('_') {
        Some((before, size)) if size.parse::<u32>().is_ok() => before,
        _ => name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> ClipConfig {
        ClipConfig::from_json(json, "x.json").unwrap()
    }

    const VIT: &str = r#"{"embed_dim": 8, "vision_cfg": {"image_size": 8, "layers": 1, "width": 8, "head_width": 8,
        "patch_size": 4}, "text_cfg": {"width": 8, "heads": 1, "layers": 1}}"#;

    #[test]
    fn what_shapes_do_not_tell_is_a_difference() {
        for (from, to, key) in [
            (
                "\"layers\": 1, \"width\"",
                "\"layers\": 1, \"pool_type\": \"avg\", \"width\"",
                "vision_cfg.pool_type",
            ),
            (
                "\"heads\": 1",
                "\"heads\": 1, \"pool_type\": \"last\"",
                "text_cfg.pool_type",
            ),
            ("\"heads\": 1", "\"heads\": 2", "text_cfg.heads"),
            (
                "\"heads\": 1",
                "\"heads\": 1, \"no_causal_mask\": true",
                "text_cfg.no_causal_mask",
            ),
            (
                "\"heads\": 1",
                "\"heads\": 1, \"norm_kwargs\": {\"eps\": 1e-6}",
                "text_cfg.norm_kwargs.eps",
            ),
            (
                "{\"embed_dim\"",
                "{\"quick_gelu\": true, \"embed_dim\"",
                "quick_gelu",
            ),
            (
                "\"head_width\": 8",
                "\"head_width\": 4",
                "vision_cfg.head_width",
            ),
        ] {
            assert!(VIT.contains(from), "{from}");
            let differences = config(VIT).differences(&config(&VIT.replacen(from, to, 1)));
            let keys: Vec<_> = differences.iter().map(|found| found.key.as_str()).collect();
            assert_eq!(keys, [key]);
            assert!(!differences[0].is_fitted(), "{key}");
        }
    }

    #[test]
    fn how_a_model_began_is_none() {
        for (from, to) in [
            (
                "{\"embed_dim\"",
                "{\"init_logit_scale\": 2.0, \"embed_dim\"",
            ),
            (
                "\"layers\": 1, \"width\"",
                "\"layers\": 1, \"patch_dropout\": 0.5, \"width\"",
            ),
            // A key that OpenCLIP knows besides, switched off.
            ("\"heads\": 1", "\"heads\": 1, \"qk_norm\": false"),
        ] {
            assert!(VIT.contains(from), "{from}");
            assert_eq!(
                config(VIT).differences(&config(&VIT.replacen(from, to, 1))),
                []
            );
        }
        let scaled = |value: &str| {
            let scaled = format!("\"layers\": 1, \"ls_init_value\": {value}, \"width\"");
            config(&VIT.replacen("\"layers\": 1, \"width\"", &scaled, 1))
        };
        assert_eq!(scaled("1e-5").differences(&scaled("1e-4")), []);
        assert_eq!(
            scaled("1e-5").differences(&config(VIT))[0].key,
            "vision_cfg.ls_init_value"
        );
    }

    #[test]
    fn another_spelling_is_none() {
        for more in [
            "\"norm_kwargs\": {\"eps\": 1e-5}",
            "\"act_kwargs\": {\"approximate\": \"none\"}",
            "\"eos_id\": 7",
        ] {
            let spelled = VIT.replacen("\"heads\": 1", &format!("\"heads\": 1, {more}"), 1);
            assert_eq!(config(VIT).differences(&config(&spelled)), [], "{more}");
        }
        let preset = |name| crate::presets::json(name).unwrap();
        for (name, from, to) in [
            (
                "roberta-ViT-B-32",
                "\"roberta-base\"",
                "\"FacebookAI/roberta-base\"",
            ),
            (
                "convnext_base",
                "\"timm_pool\": \"\"",
                "\"timm_pool\": \"avg\"",
            ),
        ] {
            let json = preset(name);
            assert!(json.contains(from), "{json}");
            let spelled = config(&json.replacen(from, to, 1));
            assert_eq!(config(json).differences(&spelled), [], "{name}");
        }
    }

    #[test]
    fn weights_are_fitted_to_another_size_and_loss() {
        let preset = |name| ClipConfig::load(name).unwrap();
        let [vit, larger] = ["ViT-L-14", "ViT-L-14-336"].map(preset);
        let siglip = ["ViT-B-16-SigLIP", "ViT-B-16-SigLIP-256"].map(preset);
        let mut sigmoid = vit.clone();
        sigmoid.init_logit_bias = Some(-10.0);
        for (a, b) in [(&vit, &larger), (&siglip[0], &siglip[1]), (&vit, &sigmoid)] {
            let differences = a.differences(b);
            assert!(!differences.is_empty());
            assert!(
                differences.iter().all(Difference::is_fitted),
                "{differences:?}"
            );
        }
        let other = siglip[0].differences(&preset("ViT-L-16-SigLIP-256"));
        assert!(!other.iter().all(Difference::is_fitted), "{other:?}");
    }
}
