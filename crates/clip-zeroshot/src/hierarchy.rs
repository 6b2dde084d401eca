use std::collections::BTreeMap;

use clip_data::{RawSample, ShardItem, ShardSet};

use crate::{ClassAccuracy, ConfusionMatrix, LabelSource, ZeroShotError};

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

/// How often each label's samples name each group, for every level.
///
/// It is read from the shards before the images are encoded, and needs no class names: those may be the captions, which
/// are known afterwards.
#[derive(Clone, Debug)]
pub struct GroupVotes {
    labels: LabelSource,
    votes: [BTreeMap<Label, Votes>; NAMES.len()],
}

type Votes = BTreeMap<String, usize>;

/// A sample's label as its shard has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Class(usize),
    Caption(String),
}

impl Label {
    fn of(sample: &RawSample, source: LabelSource) -> Option<Self> {
        match source {
            LabelSource::Class => sample.class.map(Self::Class),
            LabelSource::Caption => {
                let first = sample.captions.first()?;
                Some(Self::Caption(first.trim().to_owned()))
            }
        }
    }
}

impl GroupVotes {
    /// Reads `group` and `subgroup` of every labelled sample, whatever the shards are. Samples that can't be used are
    /// passed over here: they are counted where the images are read.
    ///
    /// # Errors
    /// [`ZeroShotError::Data`] when a shard can't be opened.
    pub fn read(shards: &ShardSet, labels: LabelSource) -> Result<Self, ZeroShotError> {
        let mut votes = NAMES.map(|_| BTreeMap::<Label, Votes>::new());
        for shard in 0..shards.len() {
            for item in shards.open(shard)? {
                let ShardItem::Sample(sample) = item else {
                    continue;
                };
                let json = serde_json::from_slice::<serde_json::Value>(&sample.json);
                let (Ok(json), Some(label)) = (json, Label::of(&sample, labels)) else {
                    continue;
                };
                for (name, votes) in NAMES.iter().zip(&mut votes) {
                    if let Some(group) = json.get(name).and_then(serde_json::Value::as_str) {
                        let votes = votes.entry(label.clone()).or_default();
                        *votes.entry(group.to_owned()).or_default() += 1;
                    }
                }
            }
        }
        Ok(Self { labels, votes })
    }

    /// Whether no sample names a group.
    pub fn is_empty(&self) -> bool {
        self.votes.iter().all(BTreeMap::is_empty)
    }

    /// Gives each class what most of its samples name (the first by name, of equally many). A level that no class has is
    /// left out.
    pub fn levels(&self, names: &[String]) -> Vec<Level> {
        let label = |(class, name): (usize, &String)| match self.labels {
            LabelSource::Class => Label::Class(class),
            LabelSource::Caption => Label::Caption(name.clone()),
        };
        let levels = NAMES.into_iter().zip(&self.votes).map(|(name, votes)| {
            let of_class = |class| votes.get(&label(class)).and_then(most_frequent);
            Level {
                name,
                groups: names.iter().enumerate().map(of_class).collect(),
            }
        });
        let known = |level: &Level| level.groups.iter().any(Option::is_some);
        levels.filter(known).collect()
    }
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

fn most_frequent(votes: &Votes) -> Option<String> {
    let most = votes.values().max()?;
    let mut votes = votes.iter();
    let (group, _) = votes.find(|(_, count)| *count == most)?;
    Some(group.clone())
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
    /// Sample `n` of a folder has class `n` and the `n`th of `groups`.
    fn folder(root: &std::path::Path, name: &str, first: usize, groups: &[&str]) -> String {
        let dir = root.join(name);
        std::fs::create_dir(&dir).unwrap();
        for (at, group) in groups.iter().enumerate() {
            let json = format!(
                r#"{{"caption": " class {} ", "group": "{group}"}}"#,
                first + at
            );
            let files = [
                ("png", "never decoded"),
                ("json", &json),
                ("cls", &(first + at).to_string()),
            ];
            for (extension, body) in files {
                std::fs::write(dir.join(format!("{at:06}.{extension}")), body).unwrap();
            }
        }
        dir.display().to_string()
    }

    #[test]
    fn equal_keys_of_two_shards_vote_for_their_own_classes() {
        let root = tempfile::tempdir().unwrap();
        let first = folder(root.path(), "first", 0, &["animal", "plant"]);
        let second = folder(root.path(), "second", 2, &["plant", "animal"]);
        let shards = ShardSet::parse(&format!("{first}::{second}")).unwrap();
        let expected = [
            Some("animal"),
            Some("plant"),
            Some("plant"),
            Some("animal"),
            None,
        ];
        for source in [LabelSource::Class, LabelSource::Caption] {
            let votes = GroupVotes::read(&shards, source).unwrap();
            assert!(!votes.is_empty());
            let names: Vec<String> = (0..5).map(|at| format!("class {at}")).collect();
            let levels = votes.levels(&names);
            assert_eq!(levels.len(), 1);
            let groups = levels[0].groups.iter().map(Option::as_deref);
            assert!(groups.eq(expected), "{source:?}: {levels:?}");
        }
    }

    #[test]
    fn a_class_is_in_the_group_that_most_of_its_samples_name() {
        let votes = |votes: &[(&str, usize)]| {
            let votes = votes
                .iter()
                .map(|(name, count)| ((*name).to_owned(), *count));
            most_frequent(&votes.collect())
        };
        assert_eq!(votes(&[("a", 1), ("b", 3), ("c", 3)]).as_deref(), Some("b"));
        assert_eq!(votes(&[]), None);
    }
}
