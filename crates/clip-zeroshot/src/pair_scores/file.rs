use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{
    ZeroShotError,
    tensor_file::{self, Fault, Matrix},
};

/// Of the safetensors files.
const FORMAT: &str = "clip-pair-scores-1";
const SCORES: &str = "scores";

/// What a file holds besides tensors.
#[derive(Debug, Default, Deserialize, PartialEq, Serialize)]
pub(super) struct About {
    /// Hash of the model.
    pub(super) model: String,
    /// The shard's name.
    pub(super) shard: String,
    /// A hash that tells whether the shard has changed; `None` of one on a server.
    pub(super) state: Option<String>,
    /// Of each image.
    pub(super) keys: Vec<String>,
    /// Of each image with its captions.
    pub(super) pairs: Vec<u64>,
    /// For each caption the row of its image, where features are kept.
    pub(super) image_of_caption: Vec<usize>,
    /// Samples that could not be used.
    pub(super) bad: u64,
}

/// Writes matrices beside what is known about them.
pub(super) fn save(
    path: &Path,
    mut matrices: Vec<Matrix<'_>>,
    about: &About,
) -> Result<(), ZeroShotError> {
    matrices.sort_by(|a, b| a.name.cmp(&b.name));
    tensor_file::save(path, FORMAT, &matrices, None, about)
}

pub(super) fn scores_matrix(scores: &[f32]) -> Matrix<'_> {
    Matrix {
        name: SCORES.to_owned(),
        shape: [scores.len(), 1],
        values: scores.into(),
    }
}

/// The scores of a shard, in the order of its keys.
pub(super) fn load(path: &Path) -> Result<(Vec<f32>, About), ZeroShotError> {
    let corrupt = |reason: String| ZeroShotError::CorruptScores {
        path: path.to_owned(),
        reason,
    };
    let (matrices, about) = match tensor_file::load::<About>(path, FORMAT) {
        Ok(loaded) => loaded,
        Err(Fault::Io(error)) => return Err(clip_files::io("read", path)(error).into()),
        Err(Fault::Content(reason)) => return Err(corrupt(reason)),
    };
    let scores = matrices.into_iter().find(|matrix| matrix.name == SCORES);
    let scores = scores.map(|matrix| matrix.values.into_owned());
    match scores.filter(|scores| scores.len() == about.pairs.len()) {
        Some(scores) => Ok((scores, about)),
        None => Err(corrupt("it has no score of each pair".to_owned())),
    }
}
