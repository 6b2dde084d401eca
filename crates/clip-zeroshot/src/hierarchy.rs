use std::{collections::BTreeMap, fs::File, io::Read};

use clip_data::ShardSet;

use crate::{ClassAccuracy, ConfusionMatrix, ShardFeatures, ZeroShotError};

/// Longest `json` that is read: as much as a caption's page, far from a machine's memory.
const MAX_JSON_BYTES: u64 = 1 << 20;

/// The levels, from the widest.
const NAMES: [&str; 2] = ["group", "subgroup"];

/// A level above classes, as `group` and `subgroup` of the samples' `json` name it: for each class, its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    /// `group` or `subgroup`.
    pub name: &'static str,
    /// For each class its group, if any of its samples has one.
    pub groups: Vec<Option<String>>,
}

/// How often a classifier finds the group of a sample, whatever it thinks of the class.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct GroupReport {
    /// `group` or `subgroup`.
    pub level: &'static str,
    /// Share of samples whose predicted class lies in the sample's group.
    pub accuracy: f64,
    /// Accuracy of each group, sorted by name.
    pub per_group: Vec<ClassAccuracy>,
}

impl Level {
    /// Reads `group` and `subgroup` of shards, and gives each class what most of its samples have (the first by name, of
    /// equally many). A level that no sample has is left out.
    ///
    /// # Errors
    /// [`ZeroShotError::Io`] when a shard can't be read.
    pub fn read(
        shards: &ShardSet,
        features: &ShardFeatures,
        labels: &[u32],
        classes: usize,
    ) -> Result<Vec<Self>, ZeroShotError> {
        let label_of: BTreeMap<&str, u32> = features
            .keys
            .iter()
            .map(String::as_str)
            .zip(labels.iter().copied())
            .collect();
        let mut votes = NAMES.map(|_| vec![BTreeMap::<String, usize>::new(); classes]);
        each_json(shards, |key, json| {
            let Some(&label) = label_of.get(key) else {
                return;
            };
            for (name, votes) in NAMES.iter().zip(&mut votes) {
                if let Some(group) = json.get(name).and_then(serde_json::Value::as_str) {
                    let votes = &mut votes[label as usize];
                    *votes.entry(group.to_owned()).or_default() += 1;
                }
            }
        })?;
        let levels = NAMES.into_iter().zip(votes).map(|(name, votes)| Self {
            name,
            groups: votes.into_iter().map(most_frequent).collect(),
        });
        let known = |level: &Self| level.groups.iter().any(Option::is_some);
        Ok(levels.filter(known).collect())
    }

    /// How a classifier did at this level; `None` when no sample's class has a group.
    pub fn report(&self, confusion: &ConfusionMatrix) -> Option<GroupReport> {
        let mut groups = BTreeMap::<&str, (usize, usize)>::new();
        for (label, predicted, count) in confusion.entries() {
            if let Some(group) = &self.groups[label] {
                let (hits, samples) = groups.entry(group).or_default();
                *samples += count;
                if self.groups[predicted].as_ref() == Some(group) {
                    *hits += count;
                }
            }
        }
        let hits: usize = groups.values().map(|(hits, _)| hits).sum();
        let samples: usize = groups.values().map(|(_, samples)| samples).sum();
        (samples > 0).then(|| GroupReport {
            level: self.name,
            accuracy: hits as f64 / samples as f64,
            per_group: groups
                .into_iter()
                .map(|(name, (hits, samples))| ClassAccuracy {
                    name: name.to_owned(),
                    accuracy: Some(hits as f64 / samples as f64),
                    samples,
                })
                .collect(),
        })
    }
}

fn most_frequent(votes: BTreeMap<String, usize>) -> Option<String> {
    let most = votes.values().copied().max()?;
    votes
        .into_iter()
        .find(|(_, count)| *count == most)
        .map(|(group, _)| group)
}

/// Calls with key and content of each `json` of some shards; what isn't JSON was counted when the images were read.
fn each_json(
    shards: &ShardSet,
    mut each: impl FnMut(&str, &serde_json::Value),
) -> Result<(), ZeroShotError> {
    for path in shards.local_tars()? {
        let read = || ZeroShotError::io("read", path);
        let mut archive = tar::Archive::new(File::open(path).map_err(read())?);
        for entry in archive.entries_with_seek().map_err(read())? {
            let entry = entry.map_err(read())?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            // WebDataset's rule: the key ends at the first dot of the file name.
            let name = name.strip_prefix("./").unwrap_or(&name);
            let file = name.rfind('/').map_or(0, |slash| slash + 1);
            let Some(dot) = name[file..].find('.') else {
                continue;
            };
            let (key, extension) = name.split_at(file + dot);
            if !extension.eq_ignore_ascii_case(".json") || entry.size() > MAX_JSON_BYTES {
                continue;
            }
            let mut bytes = Vec::new();
            entry
                .take(MAX_JSON_BYTES)
                .read_to_end(&mut bytes)
                .map_err(read())?;
            if let Ok(json) = serde_json::from_slice(&bytes) {
                each(key, &json);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::{Bootstrap, ZeroShotEvaluator, features::from_host};

    #[test]
    fn a_wrong_class_of_the_right_group_counts_for_the_group() {
        let names = ["cat", "dog", "oak"].map(str::to_owned);
        let mut evaluator = ZeroShotEvaluator::new(&names, Bootstrap::default());
        // Taken for dog, cat and dog.
        let logits = vec![0., 1., 0., 1., 0., 0., 0., 1., 0.];
        let logits = from_host(logits, [3, 3], &Device::flex());
        evaluator.add(logits, &[0, 1, 2]).unwrap();
        let level = |groups: [Option<&str>; 3]| Level {
            name: "group",
            groups: groups.map(|group| group.map(str::to_owned)).to_vec(),
        };
        let report = level([Some("animal"), Some("animal"), Some("plant")])
            .report(evaluator.confusion())
            .unwrap();
        assert!((report.accuracy - 2.0 / 3.0).abs() < 1e-12);
        let groups: Vec<_> = report.per_group.iter().map(|group| &group.name).collect();
        assert_eq!(groups, ["animal", "plant"]);
        assert_eq!(report.per_group[1].accuracy, Some(0.0));
        assert_eq!(level([None; 3]).report(evaluator.confusion()), None);
    }
}
