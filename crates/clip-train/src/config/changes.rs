use serde_json::Value;

use super::RunConfig;

/// How a configuration differs from the one that a run began with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// `key: old -> new` of settings that may change between the parts of a run.
    pub harmless: Vec<String>,
    /// The same of settings on which the order of samples or the weights' meaning rest.
    pub corrupting: Vec<String>,
}

/// Keys that decide which samples a position means, or what the weights are, each with all that is under it. Not where the
/// data are, which may have moved: a position knows its data.
const FIXED: [&str; 12] = [
    "preset",
    "init",
    "preprocess",
    "loss",
    "optimizer.kind",
    "lora",
    "seed",
    "batch",
    "data.shuffle_buffer",
    "data.crop_scale",
    "data.with_replacement",
    "data.augment",
];

/// Keys that decide which matrices have adapters, in a run that has some.
const FIXED_WITH_ADAPTERS: [&str; 4] = [
    "lock_image",
    "lock_image_unlocked_groups",
    "lock_text",
    "lock_text_unlocked_layers",
];

impl Changes {
    /// What `new` changes in `old`.
    pub fn between(old: &RunConfig, new: &RunConfig) -> Self {
        let has_adapters = old.lora.is_some();
        let [old, new] = [old, new].map(|config| {
            // invariant: a configuration is a tree of plain values under string keys.
            serde_json::to_value(config).expect("invariant: plain values")
        });
        let mut changes = Self::default();
        differences("", &old, &new, &mut |path, change| {
            let decides = has_adapters && FIXED_WITH_ADAPTERS.contains(&path);
            if decides || FIXED.iter().any(|key| is_in(path, key)) {
                changes.corrupting.push(change);
            } else {
                changes.harmless.push(change);
            }
        });
        changes
    }
}

/// Whether a key is `table`, or one in that table.
fn is_in(key: &str, table: &str) -> bool {
    let rest = key.strip_prefix(table);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Tells `found` of every value that differs, with its path and as `path: old -> new`.
pub(crate) fn differences(
    path: &str,
    old: &Value,
    new: &Value,
    found: &mut impl FnMut(&str, String),
) {
    if let (Value::Object(old), Value::Object(new)) = (old, new) {
        let absent = old.keys().filter(|key| !new.contains_key(*key));
        for key in new.keys().chain(absent) {
            let path = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            let [old, new] = [old, new].map(|side| side.get(key).unwrap_or(&Value::Null));
            differences(&path, old, new, found);
        }
    } else if old != new {
        found(path, format!("{path}: {old} -> {new}"));
    }
}

#[cfg(test)]
mod tests {
    use clip_model::Preprocess;

    use super::*;
    use crate::LoraConfig;

    #[test]
    fn which_matrices_have_adapters_may_not_change() {
        let old = RunConfig::default();
        let locked = RunConfig {
            lock_text: true,
            ..old.clone()
        };
        assert_eq!(Changes::between(&old, &locked).corrupting.len(), 0);
        let with_adapters = |config: &RunConfig| RunConfig {
            lora: Some(LoraConfig::default()),
            ..config.clone()
        };
        let [adapted, locked] = [&old, &locked].map(with_adapters);
        let changes = Changes::between(&adapted, &locked).corrupting;
        assert_eq!(changes, ["lock_text: false -> true"]);
        // To begin or to end with adapters changes what all weights are.
        for changes in [
            Changes::between(&old, &adapted),
            Changes::between(&adapted, &old),
        ] {
            assert_eq!(changes.corrupting.len(), 1, "{changes:?}");
        }
        let mut wider = adapted.clone();
        wider.lora = Some(LoraConfig {
            rank: 16,
            ..LoraConfig::default()
        });
        let changes = Changes::between(&adapted, &wider).corrupting;
        assert_eq!(changes, ["lora.rank: 8 -> 16"]);
    }

    #[test]
    fn what_images_look_like_to_the_model_may_not_change() {
        let old = RunConfig {
            preprocess: Some(Preprocess::default()),
            ..RunConfig::default()
        };
        let mut new = old.clone();
        new.preprocess = Some(Preprocess {
            mean: [0.5; 3],
            ..Preprocess::default()
        });
        new.data.augment.flip_prob = 0.5;
        let changes = Changes::between(&old, &new);
        let keys = changes.corrupting.iter();
        let keys: Vec<_> = keys.filter_map(|change| change.split(':').next()).collect();
        assert_eq!(keys, ["preprocess.mean", "data.augment.flip_prob"]);
        assert!(changes.harmless.is_empty(), "{changes:?}");
        new = old.clone();
        new.preprocess = None;
        assert_eq!(Changes::between(&old, &new).corrupting.len(), 1);
        assert!(!is_in("losses", "loss"));
    }

    #[test]
    fn the_order_of_samples_may_not_change_and_the_length_may() {
        let old = RunConfig::default();
        let mut new = old.clone();
        assert_eq!(Changes::between(&old, &new), Changes::default());
        new.batch = 128;
        new.steps = Some(10);
        new.data.workers = 3;
        let changes = Changes::between(&old, &new);
        assert_eq!(changes.corrupting, ["batch: 256 -> 128"]);
        assert_eq!(
            changes.harmless,
            ["steps: null -> 10", "data.workers: 0 -> 3"]
        );
    }
}
