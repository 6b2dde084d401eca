use std::collections::BTreeMap;

use serde::Serialize;

use super::Summary;
use crate::{FaultKind, faults::shards_with};

/// What [`examine`](fn@super::examine) found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diagnosis {
    /// Samples, good and bad.
    pub samples: u64,
    /// Samples that can't be used.
    pub bad: u64,
    /// Share of them, from 0 to 1.
    pub bad_share: f64,
    /// Bad samples by what is wrong.
    pub kinds: BTreeMap<FaultKind, u64>,
    /// Bad samples by shard and kind; sound shards aren't listed.
    pub shards: BTreeMap<String, BTreeMap<FaultKind, u64>>,
    /// Good samples with a class.
    pub classes: u64,
    /// The images of the good samples.
    pub images: ImageReport,
    /// Their captions.
    pub captions: CaptionReport,
    /// Images that come more than once.
    pub duplicates: DuplicateReport,
    /// The first bad samples of the set.
    pub bad_samples: Vec<BadSample>,
}

impl Diagnosis {
    /// The first shards by name that are damaged, or could not be read to their ends: each is one bad sample in the
    /// counts, and stands for any number of them.
    pub fn broken_shards(&self) -> Option<String> {
        shards_with(&self.shards, FaultKind::ends_its_shard)
    }
}

/// Sizes of images. A summary is `None` where there is no image.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ImageReport {
    /// In pixels.
    pub width: Option<Summary>,
    /// In pixels.
    pub height: Option<Summary>,
    /// In pixels: what a crop for training is enlarged from, if it is less than the model's image size.
    pub shorter_side: Option<Summary>,
    /// Encoded size, in bytes; the quantiles to the next 100.
    pub bytes: Option<Summary>,
}

/// Lengths of captions.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CaptionReport {
    /// All captions of all good samples.
    pub captions: u64,
    /// In tokens, with start and end of text.
    pub tokens: Option<Summary>,
    /// Tokens that a model sees.
    pub context_length: usize,
    /// Captions that are longer, and lose their end.
    pub truncated: u64,
    /// Share of them, from 0 to 1.
    pub truncated_share: f64,
}

/// Images of good samples that come more than once: after the first of its kind, each counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DuplicateReport {
    /// With the same bytes (SHA-256).
    pub exact: u64,
    /// With other bytes and nearly the same perceptual hash: at most 4 bits of 64 differ, or the two are joined through
    /// others that do.
    pub near: u64,
    /// The first exact ones, then the first near ones.
    pub twins: Vec<Twin>,
}

/// An image that comes again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Twin {
    /// The shard of the later one.
    pub shard: String,
    /// Its key.
    pub key: String,
    /// The shard of the first one.
    pub first_shard: String,
    /// Its key.
    pub first_key: String,
    /// Whether the bytes are the same.
    pub exact: bool,
}

/// A sample that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BadSample {
    /// Its shard.
    pub shard: String,
    /// Its key; empty where a damaged shard hides it.
    pub key: String,
    /// What is wrong.
    pub kind: FaultKind,
}
