//! Image encoders that timm has a name for.

use serde_json::Value;

use super::{Tower, VisionConfig, invalid, unsupported};
use crate::{
    ModelError,
    encoder::{
        TimmProjection, convnext::ConvNeXtShape, eva::EvaShape, fastvit::FastVitShape,
        siglip::SiglipShape, timm_vit::TimmVitShape, vitamin::ViTaminShape,
    },
};

/// What a `ConvNeXt` divides a side by: 4 in its stem, 2 in three stages.
const SMALLEST_CONVNEXT: usize = 32;

impl VisionConfig {
    /// The image encoder that timm has a name for.
    pub(super) fn timm_tower(&self, name: &str) -> Option<Tower> {
        let projection = match self.timm_proj.as_deref() {
            Some("mlp") => TimmProjection::Mlp,
            _ => TimmProjection::Linear,
        };
        let siglip = SiglipShape::by_timm_name(name).map(Tower::Siglip);
        siglip
            .or_else(|| ConvNeXtShape::by_timm_name(name, projection).map(Tower::ConvNeXt))
            .or_else(|| EvaShape::by_timm_name(name).map(Tower::Eva))
            .or_else(|| FastVitShape::by_timm_name(name).map(Tower::FastVit))
            .or_else(|| TimmVitShape::by_timm_name(name).map(Tower::TimmVit))
            .or_else(|| ViTaminShape::by_timm_name(name, projection).map(Tower::ViTamin))
    }

    pub(super) fn validate_timm(
        &self,
        name: &str,
        embed_dim: usize,
        origin: &str,
    ) -> Result<(), ModelError> {
        let Some(tower) = self.timm_tower(name) else {
            return Err(unsupported(
                "vision_cfg.timm_model_name",
                &name.into(),
                origin,
            ));
        };
        let (pools, projections): (&[_], &[_]) = match tower {
            Tower::Siglip(_) => (&[Some("map")], &[Some("none")]),
            Tower::Eva(shape) if shape.pools_by_attention() => (&[Some("map")], &[None]),
            Tower::Eva(_) | Tower::TimmVit(_) => (&[Some("token")], &[None]),
            Tower::FastVit(_) => (&[Some("avg")], &[None]),
            _ => (&[Some(""), Some("avg")], &[Some("linear"), Some("mlp")]),
        };
        let text = |value: &Option<String>| value.clone().map_or(Value::Null, Value::String);
        for (key, value, implemented) in [
            ("vision_cfg.timm_pool", &self.timm_pool, pools),
            ("vision_cfg.timm_proj", &self.timm_proj, projections),
        ] {
            if !implemented.contains(&value.as_deref()) {
                return Err(unsupported(key, &text(value), origin));
            }
        }
        let drop_path = self.timm_drop_path.unwrap_or(0.0);
        let may_skip = matches!(
            tower,
            Tower::ConvNeXt(_) | Tower::TimmVit(_) | Tower::ViTamin(_)
        );
        for (key, value, implemented) in [
            ("vision_cfg.patch_dropout", self.patch_dropout, false),
            ("vision_cfg.timm_drop_path", drop_path, may_skip),
        ] {
            if value != 0.0 && !implemented {
                return Err(unsupported(key, &value.into(), origin));
            }
        }
        if !(0.0..1.0).contains(&drop_path) {
            let reason = format!(
                "`vision_cfg.timm_drop_path` {drop_path} is a share of images, at least 0 and below 1"
            );
            return Err(invalid(reason, origin));
        }
        let (image_size, width) = match tower {
            Tower::Siglip(shape) => (shape.image_size, shape.width),
            Tower::Eva(shape) => (shape.image_size, embed_dim),
            Tower::TimmVit(shape) => (shape.image_size, embed_dim),
            // Its convolutions are padded, so that something is left of any image.
            Tower::FastVit(_) => return Ok(()),
            Tower::ViTamin(shape) => match shape.image_size {
                Some(image_size) => (image_size, embed_dim),
                None => return Ok(()),
            },
            _ if self.image_size < SMALLEST_CONVNEXT => {
                let reason = format!(
                    "`vision_cfg.image_size` {} leaves nothing of an image: `{name}` divides it by {SMALLEST_CONVNEXT}",
                    self.image_size
                );
                return Err(invalid(reason, origin));
            }
            _ => return Ok(()),
        };
        for (key, got, expected) in [
            ("vision_cfg.image_size", self.image_size, image_size),
            ("embed_dim", embed_dim, width),
        ] {
            if got != expected {
                let reason = format!("`{key}` {got} does not fit `{name}`, which has {expected}");
                return Err(invalid(reason, origin));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::ClipConfig;

    #[test]
    fn what_a_mobile_clip_has_not_is_refused() {
        let fastvit = r#"{"embed_dim": 512, "vision_cfg": {"image_size": 256, "timm_model_name": "fastvit_mci0",
            "timm_pool": "avg", "timm_proj": null}, "text_cfg": {"width": 8, "heads": 1, "layers": 1}}"#;
        let vit = fastvit
            .replace("fastvit_mci0", "vit_base_mci_224")
            .replace("256", "224")
            .replace("avg", "token");
        // Padded convolutions take any size.
        let small = fastvit.replace("256", "20");
        let skipping = vit.replace("null", "null, \"timm_drop_path\": 0.1");
        for json in [fastvit, &vit, &small, &skipping] {
            assert!(ClipConfig::from_json(json, "x.json").is_ok());
        }
        for (json, from, to, refusal) in [
            (
                fastvit,
                "avg",
                "token",
                "`vision_cfg.timm_pool` = \"token\"",
            ),
            (&vit, "token", "avg", "`vision_cfg.timm_pool` = \"avg\""),
            (
                fastvit,
                "null",
                "\"linear\"",
                "`vision_cfg.timm_proj` = \"linear\"",
            ),
            (
                fastvit,
                "null",
                "null, \"timm_drop_path\": 0.1",
                "`vision_cfg.timm_drop_path` = 0.1",
            ),
            (
                fastvit,
                "null",
                "null, \"patch_dropout\": 0.5",
                "`vision_cfg.patch_dropout` = 0.5",
            ),
            (
                &skipping,
                "0.1",
                "1.0",
                "`vision_cfg.timm_drop_path` 1 is a share",
            ),
            (
                &vit,
                "224,",
                "256,",
                "`vision_cfg.image_size` 256 does not fit",
            ),
        ] {
            let json = json.replacen(from, to, 1);
            let error = ClipConfig::from_json(&json, "x.json")
                .unwrap_err()
                .to_string();
            assert!(error.contains(refusal), "{refusal}: {error}");
        }
    }

    #[test]
    fn what_a_vitamin_has_not_is_refused() {
        let json = r#"{"embed_dim": 512, "vision_cfg": {"image_size": 224, "timm_model_name": "vitamin_base_224",
            "timm_pool": "", "timm_drop_path": 0.1}, "text_cfg": {"width": 8, "heads": 1, "layers": 1}}"#;
        // Without positions, any size will do.
        let unplaced = json.replace("vitamin_base_224", "vitamin_xlarge_384");
        for json in [json, &unplaced, &json.replace("\"\"", "\"avg\"")] {
            assert!(ClipConfig::from_json(json, "x.json").is_ok());
        }
        for (from, to, refusal) in [
            ("\"\"", "\"token\"", "`vision_cfg.timm_pool` = \"token\""),
            ("224,", "256,", "`vision_cfg.image_size` 256 does not fit"),
            ("base_224", "base_256", "`vision_cfg.timm_model_name` = "),
            (
                "0.1",
                "0.1, \"timm_proj\": \"none\"",
                "`vision_cfg.timm_proj` = \"none\"",
            ),
            (
                "0.1",
                "0.1, \"patch_dropout\": 0.5",
                "`vision_cfg.patch_dropout` = 0.5",
            ),
        ] {
            let json = json.replacen(from, to, 1);
            let error = ClipConfig::from_json(&json, "x.json")
                .unwrap_err()
                .to_string();
            assert!(error.contains(refusal), "{refusal}: {error}");
        }
    }

    #[test]
    fn what_an_eva_has_not_is_refused() {
        let json = r#"{"embed_dim": 512, "vision_cfg": {"image_size": 224, "timm_model_name": "eva02_base_patch16_clip_224",
            "timm_pool": "token", "timm_proj": null}, "text_cfg": {"width": 8, "heads": 1, "layers": 1}}"#;
        let config = ClipConfig::from_json(json, "x.json").unwrap();
        // OpenCLIP takes one that is left out for `linear`.
        assert!(
            serde_json::to_string(&config)
                .unwrap()
                .contains("\"timm_proj\":null")
        );
        for (from, to, refusal) in [
            (
                "token",
                "avg",
                "`vision_cfg.timm_pool` = \"avg\" is not implemented",
            ),
            (
                "token",
                "map",
                "`vision_cfg.timm_pool` = \"map\" is not implemented",
            ),
            (
                ", \"timm_proj\": null",
                "",
                "`vision_cfg.timm_proj` = \"linear\" is not implemented",
            ),
            (
                "\"image_size\": 224",
                "\"image_size\": 336",
                "`vision_cfg.image_size` 336",
            ),
            (
                "null",
                "null, \"timm_drop_path\": 0.1",
                "`vision_cfg.timm_drop_path` = 0.1",
            ),
            (
                "null",
                "null, \"patch_dropout\": 0.5",
                "`vision_cfg.patch_dropout` = 0.5",
            ),
            (
                "eva02_base_patch16_clip_224",
                "eva02_base_patch14_224",
                "`vision_cfg.timm_model_name` = \"eva02_base_patch14_224\"",
            ),
        ] {
            let json = json.replacen(from, to, 1);
            let error = ClipConfig::from_json(&json, "x.json")
                .unwrap_err()
                .to_string();
            assert!(error.contains(refusal), "{refusal}: {error}");
        }
    }
}
