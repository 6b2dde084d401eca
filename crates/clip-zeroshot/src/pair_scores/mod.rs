//! How well captions fit their images, by a model: what sets of the web are filtered by.
//!
//! A folder holds `scores.json`, which says by which model and of which shards they are, and a safetensors file a shard,
//! written when the shard is done: an interrupted pass goes on with the next one.
//!
//! # References
//! Schuhmann et al. 2021, [LAION-400M](https://arxiv.org/abs/2111.02114), which keeps pairs from a cosine of 0.3 on; Gadre et
//! al. 2023, [DataComp](https://arxiv.org/abs/2304.14108), which keeps the best 30%.

mod kept;
mod scoring;

pub use kept::{PairScores, ShardScores};
pub use scoring::{ScoreConfig, ScoredShard, score_shards};

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{ZeroShotError, tensor_file};

const INDEX: &str = "scores.json";
/// Of the safetensors files.
const FORMAT: &str = "clip-pair-scores-1";
const SCORES: &str = "scores";

/// What a folder's scores are of.
#[derive(Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
struct Index {
    /// Hash of the model.
    model: String,
    /// Whether features are kept beside the scores.
    features: bool,
    /// Names of the shards; the parts of a table or folder share one.
    shards: Vec<String>,
}

impl Index {
    fn path(folder: &Path) -> PathBuf {
        folder.join(INDEX)
    }

    /// Where the scores of a shard are.
    fn file(folder: &Path, shard: usize) -> PathBuf {
        folder.join(format!("{shard:06}.safetensors"))
    }

    fn read(folder: &Path) -> Result<Self, ZeroShotError> {
        let path = Self::path(folder);
        let text = std::fs::read(&path).map_err(ZeroShotError::io("read", &path))?;
        serde_json::from_slice(&text).map_err(|error| ZeroShotError::CorruptScores {
            path,
            reason: error.to_string(),
        })
    }
}

/// What a file holds besides tensors.
#[derive(Debug, Deserialize, Serialize)]
struct About {
    /// Of each image.
    keys: Vec<String>,
    /// For each caption the row of its image, where features are kept.
    image_of_caption: Vec<usize>,
    /// Samples that could not be used.
    bad: u64,
}

/// The scores of a shard, in the order of its keys. `None` if it isn't scored yet.
fn load(path: &Path) -> Result<Option<(Vec<f32>, About)>, ZeroShotError> {
    if !path.exists() {
        return Ok(None);
    }
    let corrupt = |reason: String| ZeroShotError::CorruptScores {
        path: path.to_owned(),
        reason,
    };
    let (matrices, about) = match tensor_file::load::<About>(path, FORMAT) {
        Ok(loaded) => loaded,
        Err(tensor_file::Fault::Io(error)) => return Err(ZeroShotError::io("read", path)(error)),
        Err(tensor_file::Fault::Content(reason)) => return Err(corrupt(reason)),
    };
    let scores = matrices.into_iter().find(|matrix| matrix.name == SCORES);
    let scores = scores.map(|matrix| matrix.values.into_owned());
    match scores.filter(|scores| scores.len() == about.keys.len()) {
        Some(scores) => Ok(Some((scores, about))),
        None => Err(corrupt("it has no score of each key".to_owned())),
    }
}
