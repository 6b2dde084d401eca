use std::path::Path;

use clip_model::ClipConfig;
use serde::Deserialize;
use toml::{Table, Value};

use super::RunConfig;
use crate::{OptimizerKind, TrainError, optimizer::adam_constants};

/// Settings laid over each other, later ones above earlier ones.
#[derive(Clone, Debug, Default)]
pub struct ConfigLayers(Table);

impl ConfigLayers {
    /// Lays the settings of a TOML text over what is there; `origin` names it in errors.
    ///
    /// # Errors
    /// [`TrainError::Config`] with the line, for broken TOML, unknown keys and values of the wrong kind.
    pub fn text(mut self, text: &str, origin: &str) -> Result<Self, TrainError> {
        let refused = |error: toml::de::Error| TrainError::Config {
            origin: origin.to_owned(),
            reason: error.to_string().trim_end().to_owned(),
        };
        // Read as a whole configuration first: only here are lines known.
        toml::from_str::<RunConfig>(text).map_err(refused)?;
        merge(&mut self.0, toml::from_str(text).map_err(refused)?);
        Ok(self)
    }

    /// Lays the settings of a TOML file over what is there.
    ///
    /// # Errors
    /// As [`text`](Self::text), and [`TrainError::Io`].
    pub fn file(self, path: &Path) -> Result<Self, TrainError> {
        let text = std::fs::read_to_string(path).map_err(clip_files::io("read", path))?;
        self.text(&text, &path.display().to_string())
    }

    /// Lays one setting over what is there: `optimizer.weight_decay=0.1`. A value that isn't TOML is a string.
    ///
    /// # Errors
    /// [`TrainError::Config`] for a setting without `=`, an unknown key, or a value of the wrong kind.
    pub fn set(self, setting: &str) -> Result<Self, TrainError> {
        self.set_all(&[setting])
    }

    /// Lays settings over what is there that need each other, in any order: `schedule.kind=constant-cooldown` and
    /// `schedule.steps=100`.
    ///
    /// # Errors
    /// As [`set`](Self::set), of the first without which the others are right, or of the last.
    pub fn set_all(self, settings: &[impl AsRef<str>]) -> Result<Self, TrainError> {
        let mut together = Table::new();
        for setting in settings {
            merge(&mut together, parse(setting.as_ref())?);
        }
        let error = match self.clone().over(together) {
            Ok(layers) => return Ok(layers),
            Err(error) => error,
        };
        let right_without = |left_out: usize| {
            let mut others = Table::new();
            for (at, setting) in settings.iter().enumerate() {
                if at != left_out {
                    merge(&mut others, parse(setting.as_ref())?);
                }
            }
            self.clone().over(others)
        };
        let wrong = (0..settings.len()).find(|at| right_without(*at).is_ok());
        let wrong = wrong.map_or(settings.last(), |at| settings.get(at));
        let wrong = wrong.map_or("", AsRef::as_ref);
        Err(error.of(&format!("--set {wrong}")))
    }

    /// Lays one value over what is there, under a key with dots.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn value(
        self,
        key: &str,
        value: impl Into<Value>,
        origin: &str,
    ) -> Result<Self, TrainError> {
        let laid = self.over(nested(key, value.into()));
        laid.map_err(|error| error.of(origin))
    }

    /// Lays a table over what is there, which must make a configuration.
    fn over(mut self, table: Table) -> Result<Self, TrainError> {
        merge(&mut self.0, table);
        self.resolve()?;
        Ok(self)
    }

    /// Whether something was set under a key, which may have dots.
    pub fn sets(&self, key: &str) -> bool {
        let mut parts = key.split('.');
        let outermost = parts.next().and_then(|part| self.0.get(part));
        parts
            .fold(outermost, |table, part| table?.get(part))
            .is_some()
    }

    /// Whether a table of settings (none, or such as `optimizer`, before a dot) has a key of that name. Of `schedule`, whose
    /// keys depend on its `kind`, it may have any.
    pub fn knows(key: &str) -> bool {
        // Of this value a key that is there refuses the kind, if anything, not the name.
        let refused = Self::default().value(key, Value::Array(vec![Value::Array(Vec::new())]), "");
        match refused {
            Err(TrainError::Config { reason, .. }) => !reason.contains("unknown field"),
            _ => true,
        }
    }

    /// Forgets what was set under a top-level key.
    pub fn without(mut self, key: &str) -> Self {
        self.0.remove(key);
        self
    }

    /// The configuration, with defaults where nothing was set.
    ///
    /// # Errors
    /// [`TrainError::Config`] for values that don't fit.
    pub fn resolve(&self) -> Result<RunConfig, TrainError> {
        let config = RunConfig::deserialize(self.0.clone());
        config.map_err(|error| TrainError::Config {
            origin: "the configuration".to_owned(),
            reason: error.to_string().trim_end().replace('\n', " "),
        })
    }

    /// Sets what has a default by the model, where these layers, of which `config` was made, say nothing: Adam's constants.
    pub fn complete(&self, config: &mut RunConfig, preset: &ClipConfig) {
        let optimizer = &mut config.optimizer;
        if optimizer.kind != OptimizerKind::AdamW {
            return;
        }
        let (beta_2, epsilon) = adam_constants(&config.preset, preset);
        if !self.sets("optimizer.beta_2") {
            optimizer.beta_2 = beta_2;
        }
        if !self.sets("optimizer.epsilon") {
            optimizer.epsilon = epsilon;
        }
    }
}

/// The key of the one table whose other keys are those of its `kind`.
const SCHEDULE: &str = "schedule";

/// `a.b` and a value as `{ a = { b = value } }`.
fn nested(key: &str, value: Value) -> Table {
    let (outermost, inner) = match key.split_once('.') {
        Some((outermost, rest)) => (outermost, Value::Table(nested(rest, value))),
        None => (key, value),
    };
    Table::from_iter([(outermost.to_owned(), inner)])
}

fn parse(setting: &str) -> Result<Table, TrainError> {
    let Some((key, value)) = setting.split_once('=') else {
        return Err(TrainError::Config {
            origin: format!("--set {setting}"),
            reason: "expected KEY=VALUE, such as optimizer.weight_decay=0.1".to_owned(),
        });
    };
    let value = value.trim();
    let value = value
        .parse::<Value>()
        .unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok(nested(key.trim(), value))
}

impl TrainError {
    /// The same of settings that came from elsewhere.
    fn of(self, place: &str) -> Self {
        match self {
            Self::Config { reason, .. } => Self::Config {
                origin: place.to_owned(),
                reason,
            },
            other => other,
        }
    }
}

fn merge(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            // What belongs to another kind is none of this one's.
            (Some(Value::Table(under)), Value::Table(over))
                if key == SCHEDULE && changes_kind(under, &over) =>
            {
                *under = over;
            }
            (Some(Value::Table(under)), Value::Table(over)) => merge(under, over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

fn changes_kind(under: &Table, over: &Table) -> bool {
    let kinds = (under.get("kind"), over.get("kind"));
    matches!(kinds, (Some(before), Some(now)) if before != now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_set_in_any_order_and_changed_as_a_whole() {
        let cooldown = ["schedule.kind=constant-cooldown", "schedule.steps=3"];
        let schedule = |layers: &ConfigLayers| layers.resolve().unwrap().schedule;
        let layers = ConfigLayers::default;
        let set = layers().set_all(&cooldown).unwrap();
        assert!(matches!(
            schedule(&set),
            crate::Decay::ConstantCooldown { steps: 3, .. }
        ));
        let cosine = layers().set("schedule.kind=cosine").unwrap();
        for under in [layers(), cosine] {
            let turned = under.set_all(&[cooldown[1], cooldown[0]]).unwrap();
            assert_eq!(schedule(&turned), schedule(&set));
        }
        let power = set.clone().set("schedule.power=2").unwrap();
        assert!(matches!(
            schedule(&power),
            crate::Decay::ConstantCooldown { steps: 3, .. }
        ));
        // What is left of the other kind is in nobody's way.
        let back = power.set("schedule.kind=cosine").unwrap();
        assert_eq!(schedule(&back), RunConfig::default().schedule);

        let lone = layers().set_all(&["lr=1", "schedule.steps=3"]).unwrap_err();
        assert!(
            lone.to_string().starts_with("--set schedule.steps=3: "),
            "{lone}"
        );
        let typo = [cooldown[0], cooldown[1], "optimizer.beta=1"];
        let typo = layers().set_all(&typo).unwrap_err().to_string();
        assert!(typo.starts_with("--set optimizer.beta=1: "), "{typo}");
    }

    #[test]
    fn later_settings_lie_above_earlier_ones() {
        let config = ConfigLayers::default()
            .text("lr = 1e-3\n[optimizer]\nbeta_2 = 0.95\n", "recipe")
            .and_then(|layers| layers.set("optimizer.weight_decay=0.1"))
            .and_then(|layers| layers.set("preset = ViT-B-32"))
            .and_then(|layers| layers.value("lr", 2e-3, "--lr"))
            .and_then(|layers| layers.set("loss=siglip"))
            .and_then(|layers| layers.set("precision=bf16"))
            .and_then(|layers| layers.set("duplicates=positives"))
            .and_then(|layers| layers.resolve())
            .unwrap();
        assert!((config.lr - 2e-3).abs() < 1e-12);
        assert_eq!(config.preset, "ViT-B-32");
        assert_eq!(config.loss, super::super::Loss::SigLip);
        assert_eq!(config.precision, clip_model::Precision::Bf16);
        assert_eq!(config.duplicates, super::super::Duplicates::Positives);
        let expected = crate::OptimizerConfig {
            beta_2: 0.95,
            weight_decay: 0.1,
            ..crate::OptimizerConfig::default()
        };
        assert_eq!(config.optimizer, expected);
        assert_eq!(config.batch, RunConfig::default().batch);
    }

    #[test]
    fn adams_constants_are_the_models_where_none_are_set() {
        let constants = |settings: &[&str]| {
            let layers = settings
                .iter()
                .try_fold(ConfigLayers::default(), |layers, setting| {
                    layers.set(setting)
                });
            let layers = layers.unwrap();
            let mut config = layers.resolve().unwrap();
            let preset = ClipConfig::load(&config.preset).unwrap();
            layers.complete(&mut config, &preset);
            let saved = ConfigLayers::default().text(&config.to_toml().unwrap(), "saved");
            // What a run began with stays.
            let mut resumed = saved.as_ref().unwrap().resolve().unwrap();
            saved
                .unwrap()
                .complete(&mut resumed, &ClipConfig::load("ViT-Nano-6-36").unwrap());
            assert_eq!(resumed, config);
            (config.optimizer.beta_2, config.optimizer.epsilon)
        };
        let (of_transformers, of_others) = ((0.98, 1e-6), (0.999, 1e-8));
        assert_eq!(constants(&[]), of_transformers);
        for preset in ["ViT-B-32", "xlm-roberta-base-ViT-B-32", "ViTamin-S"] {
            assert_eq!(constants(&[&format!("preset={preset}")]), of_transformers);
        }
        for preset in ["RN50", "convnext_base", "EVA02-B-16", "coca_base"] {
            assert_eq!(constants(&[&format!("preset={preset}")]), of_others);
        }
        let set = ["preset=RN50", "optimizer.beta_2=0.95"];
        assert_eq!(constants(&set), (0.95, 1e-8));
        let lion = ["preset=RN50", "optimizer.kind=lion"];
        assert_eq!(constants(&lion), of_transformers);
    }

    #[test]
    fn adams_constants_of_a_file_are_those_of_its_image_encoder() {
        let folder = tempfile::tempdir().unwrap();
        for (preset, expected) in [("RN50", (0.999, 1e-8)), ("EVA02-B-16", (0.98, 1e-6))] {
            let file = folder.path().join("ViT-like.json");
            std::fs::write(&file, clip_model::presets::json(preset).unwrap()).unwrap();
            let name = file.display().to_string();
            let found = adam_constants(&name, &ClipConfig::load(&name).unwrap());
            assert_eq!(found, expected, "{preset}");
        }
    }

    #[test]
    fn keys_are_known_where_they_have_no_default_too() {
        for key in [
            "precision",
            "warmup_steps",
            "data.zeroshot",
            "lora.rank",
            "preprocess.mean",
            "checkpoint.best",
            "optimizer.grad_clip_norm",
            "schedule.kind",
        ] {
            assert!(ConfigLayers::knows(key), "{key}");
        }
        for key in [
            "",
            "grad_clip_norm",
            "optimizer.beta",
            "lora.rang",
            "none.rank",
        ] {
            assert!(!ConfigLayers::knows(key), "{key}");
        }
    }

    #[test]
    fn every_recipe_can_be_run() {
        let datasets = concat!(env!("CARGO_MANIFEST_DIR"), "/../../datasets");
        let recipes = [datasets, &format!("{datasets}/shapes")].map(std::fs::read_dir);
        let mut read = 0;
        for entry in recipes.into_iter().flat_map(Result::unwrap) {
            let path = entry.unwrap().path();
            if path
                .extension()
                .is_some_and(|extension| extension == "toml")
            {
                let config = ConfigLayers::default().file(&path).unwrap();
                config.resolve().unwrap().validate().unwrap();
                read += 1;
            }
        }
        assert!(read >= 7, "{read}");
    }

    #[test]
    fn a_resolved_configuration_reads_back() {
        let mut config = RunConfig::default();
        config.data.zeroshot.push(super::super::LabelledSet {
            name: "seen".to_owned(),
            ..Default::default()
        });
        let layers = ConfigLayers::default().text(&config.to_toml().unwrap(), "saved");
        assert_eq!(layers.unwrap().resolve().unwrap(), config);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let layers = ConfigLayers::default;
        let error = layers()
            .text("lr = 1\nleraning = 2\n", "a.toml")
            .unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("a.toml") && error.contains("leraning") && error.contains('2'),
            "{error}"
        );
        let error = layers().set("optimizer.beta=1").unwrap_err().to_string();
        assert!(error.contains("--set optimizer.beta=1"), "{error}");
        let error = layers().set("batch").unwrap_err().to_string();
        assert!(error.contains("KEY=VALUE"), "{error}");
        let error = layers().set("memory=8").unwrap_err().to_string();
        assert!(
            error.contains("--set memory=8:") && error.contains("such as \"8GiB\""),
            "{error}"
        );
        for key in ["preprocess.size=224", "preprocess.maen=[0.5, 0.5, 0.5]"] {
            let error = layers().set(key).unwrap_err().to_string();
            assert!(
                error.contains(&format!("--set {key}:")) && error.contains("unknown field"),
                "{error}"
            );
        }
        let error = layers().set("batch=many").unwrap_err().to_string();
        assert!(error.contains("batch"), "{error}");
    }
}
