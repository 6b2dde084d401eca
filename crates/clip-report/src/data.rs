use std::path::Path;

use clip_files::IoError;
use clip_metrics::{Direction, Measured};

use crate::{Curves, Picture, page};

/// Everything on the page. What a run doesn't have stays empty, and its section is left out.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The page's heading; the preset's name when empty.
    pub title: String,
    /// What the run was.
    pub facts: Facts,
    /// How its numbers moved.
    pub curves: Curves,
    /// Retrieval on each validation set.
    pub retrieval: Vec<RetrievalSet>,
    /// Zero-shot classification on each labelled set.
    pub zeroshot: Vec<ZeroShotSet>,
    /// Test images with what the model says of them.
    pub predictions: Vec<Pictured>,
    /// Shards with samples that couldn't be used.
    pub bad_samples: Vec<BadShard>,
    /// The resolved configuration, as TOML.
    pub config: Option<String>,
    /// The trained model's directory, for the commands that use it.
    pub model_dir: Option<String>,
}

/// The run in short.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Name of the preset, or the file that held the model's configuration.
    pub preset: Option<String>,
    /// Parameters of the model.
    pub parameters: Option<u64>,
    /// Weights that it began with, as given.
    pub init: Option<String>,
    /// The model that it learned from beside the captions, as given.
    pub teacher: Option<String>,
    /// Training data, as given.
    pub train_data: Option<String>,
    /// Validation data, as given.
    pub val_data: Option<String>,
    /// The run's seed.
    pub seed: Option<u64>,
    /// Steps done.
    pub steps: Option<u64>,
    /// Steps planned, where the run isn't finished.
    pub total_steps: Option<u64>,
    /// Epochs done.
    pub epochs: Option<f64>,
    /// Samples seen.
    pub samples: Option<u64>,
    /// Samples read from the training shards, those left out included.
    pub samples_read: Option<u64>,
    /// Captions drawn that were longer than the model's context, and lost their ends.
    pub truncated_captions: Option<u64>,
    /// Pairs in a batch.
    pub batch: Option<usize>,
    /// What a model loses that only guesses, in nats.
    pub loss_of_guessing: Option<f64>,
    /// Where `exp(logit_scale)` is clamped.
    pub max_logit_scale: Option<f64>,
    /// Training throughput, in images/s.
    pub images_per_s: Option<f64>,
    /// Backend and device.
    pub backend: Option<String>,
    /// Wall time, in seconds.
    pub wall_s: Option<f64>,
    /// Peak resident memory of a process of the run, in bytes.
    pub peak_memory: Option<u64>,
    /// The program's version.
    pub version: Option<String>,
}

/// Retrieval on one set of images and captions.
#[derive(Debug, Clone, Default)]
pub struct RetrievalSet {
    /// Name of the set.
    pub dataset: String,
    /// Images in it.
    pub images: usize,
    /// Captions in it; an image may have several.
    pub captions: usize,
    /// What was measured: recalls, such as `i2t_r1`, and ranks.
    pub values: Vec<Measured>,
}

impl RetrievalSet {
    /// The share of queries with a right answer among the first `k`, if it was measured.
    pub(crate) fn recall(&self, direction: Direction, k: usize) -> Option<f64> {
        let key = direction.recall(k);
        let found = self.values.iter().find(|found| found.key == key);
        found.map(|found| found.value)
    }
}

/// Zero-shot classification on one labelled set.
#[derive(Debug, Clone, Default)]
pub struct ZeroShotSet {
    /// Name of the set.
    pub dataset: String,
    /// Images classified.
    pub images: usize,
    /// Classes to choose from.
    pub classes: usize,
    /// Prompt templates ensembled in each class's head.
    pub templates: usize,
    /// Share of images whose first guess is right.
    pub top1: f64,
    /// The 95% confidence interval of `top1`.
    pub top1_ci95: Option<(f64, f64)>,
    /// Share of images with the right class among the first five guesses.
    pub top5: Option<f64>,
    /// The 95% confidence interval of `top5`.
    pub top5_ci95: Option<(f64, f64)>,
    /// Accuracy of each class.
    pub per_class: Vec<ClassRow>,
}

/// How often one class is recognised.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClassRow {
    /// The class's name.
    pub name: String,
    /// Its images.
    pub images: usize,
    /// Share of them whose first guess is right.
    pub top1: f64,
}

/// A test image and the captions or classes that the model finds likeliest.
#[derive(Debug, Clone, Default)]
pub struct Pictured {
    /// The sample's key.
    pub key: String,
    /// The image as the model's evaluation saw it.
    pub image: Picture,
    /// The likeliest ones, best first.
    pub candidates: Vec<Candidate>,
    /// A right caption, shown where none of `candidates` is right.
    pub truth: Option<String>,
    /// The rank of the best right caption, from 1.
    pub rank: Option<usize>,
    /// How many captions there were to choose from.
    pub among: Option<usize>,
}

/// A caption that an image may have.
#[derive(Debug, Clone, Default)]
pub struct Candidate {
    /// The caption or class.
    pub text: String,
    /// Its probability among all that there were to choose from.
    pub probability: f64,
    /// Whether it is the image's own.
    pub right: bool,
}

/// What was wrong with a shard.
#[derive(Debug, Clone, Default)]
pub struct BadShard {
    /// Path or address.
    pub shard: String,
    /// Samples left out.
    pub bad: u64,
    /// How many of each kind.
    pub kinds: Vec<(String, u64)>,
    /// Keys of some of them.
    pub examples: Vec<String>,
}

impl Report {
    /// A report with the curves of a run's `metrics.jsonl`, and the facts that can be read there.
    ///
    /// # Errors
    ///
    /// The file can't be read; the message names it.
    pub fn from_metrics_jsonl(path: &Path) -> Result<Self, IoError> {
        let curves = Curves::from_jsonl(path)?;
        let facts = Facts {
            steps: curves.last("step").map(|steps| steps as u64),
            samples: curves.last("samples").map(|samples| samples as u64),
            epochs: curves.last("epoch"),
            batch: curves.last("batch").map(|batch| batch as usize),
            images_per_s: curves.median("images_per_s"),
            ..Facts::default()
        };
        Ok(Self {
            facts,
            curves,
            ..Self::default()
        })
    }

    /// The page.
    pub fn to_html(&self) -> String {
        page::page(self)
    }

    /// Writes the page to `path`, which holds the old page until the new one is complete.
    ///
    /// # Errors
    ///
    /// The file can't be written; the message names it.
    pub fn write(&self, path: &Path) -> Result<(), IoError> {
        clip_files::replace(path, self.to_html().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_come_from_the_metrics_where_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let lines = concat!(
            r#"{"step":1,"samples":256,"epoch":0.5,"loss":5.5,"images_per_s":10,"batch":256}"#,
            "\n",
            r#"{"step":2,"samples":512,"epoch":1.0,"loss":5.4,"images_per_s":80,"batch":256}"#,
            "\n",
            r#"{"step":3,"samples":768,"epoch":1.5,"loss":5.3,"images_per_s":82,"batch":256}"#,
            "\n",
            r#"{"step":4,"samp"#,
        );
        std::fs::write(&path, lines).unwrap();
        let facts = Report::from_metrics_jsonl(&path).unwrap().facts;
        assert_eq!(facts.steps, Some(3));
        assert_eq!(facts.samples, Some(768));
        assert_eq!(facts.batch, Some(256));
        assert_eq!(facts.images_per_s, Some(80.0));
    }

    #[test]
    fn a_missing_metrics_file_is_named() {
        let error = Report::from_metrics_jsonl(Path::new("gone/metrics.jsonl")).unwrap_err();
        assert!(error.to_string().contains("gone/metrics.jsonl"), "{error}");
    }
}
