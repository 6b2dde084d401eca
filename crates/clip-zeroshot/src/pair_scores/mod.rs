//! How well captions fit their images, by a model: what sets of the web are filtered by.
//!
//! A folder holds `scores.json`, which says by which model and of which shards they are, and a safetensors file a shard,
//! written when the shard is done: an interrupted pass goes on with the next one. A score belongs to what was scored, an image's
//! file with its captions ([`RawSample::pair_id`](clip_data::RawSample::pair_id)), wherever that is by now.
//!
//! # References
//! Schuhmann et al. 2021, [LAION-400M](https://arxiv.org/abs/2111.02114), which keeps pairs from a cosine of 0.3 on; Gadre et
//! al. 2023, [DataComp](https://arxiv.org/abs/2304.14108), which keeps the best 30%.

mod file;
mod folder;
mod scoring;

pub use scoring::{ScoreConfig, ScoredShard, score_shards};

use std::path::PathBuf;

use crate::ZeroShotError;

use folder::ScoreFolder;

/// The scores of one or several folders.
#[derive(Debug)]
pub struct PairScores {
    /// Of each pair, sorted by its number: 16 bytes a pair.
    scores: Vec<(u64, f32)>,
}

impl PairScores {
    /// Reads folders that [`score_shards`] filled.
    ///
    /// # Errors
    /// [`ZeroShotError::Unscored`] of a folder without scores, [`ZeroShotError::UnfinishedScores`] of one that lacks some,
    /// [`ZeroShotError::OtherScores`] if they are by different models; [`ZeroShotError::Io`] and
    /// [`ZeroShotError::CorruptScores`].
    pub fn read(folders: &[PathBuf]) -> Result<Self, ZeroShotError> {
        let mut model = None;
        let mut scores = Vec::new();
        for path in folders {
            let folder = ScoreFolder::open(path)?;
            if *model.get_or_insert_with(|| folder.index.model.clone()) != folder.index.model {
                return Err(ZeroShotError::OtherScores {
                    folder: path.clone(),
                    how: "by another model than the first folder's",
                });
            }
            for shard in 0..folder.index.shards.len() {
                let (values, about) = folder.finished(shard)?;
                scores.extend(about.pairs.into_iter().zip(values));
            }
        }
        scores.sort_unstable_by_key(|(pair, _)| *pair);
        // A pair that is there twice has one score.
        scores.dedup_by_key(|(pair, _)| *pair);
        Ok(Self { scores })
    }

    /// The score of a pair, a cosine; `None` if it could not be used when it was scored, or was not there.
    pub fn get(&self, pair: u64) -> Option<f32> {
        let at = self.scores.binary_search_by_key(&pair, |(pair, _)| *pair);
        at.ok().map(|at| self.scores[at].1)
    }

    /// The least score of the best `share` of all pairs, `0 < share <= 1`; `None` without any.
    pub fn least_of_best(&self, share: f64) -> Option<f32> {
        let mut scores: Vec<f32> = self.scores.iter().map(|(_, score)| *score).collect();
        least_of_best(&mut scores, share)
    }
}

/// The least of the best `share` of scores, `0 < share <= 1`, which are left in another order; `None` without any.
pub fn least_of_best(scores: &mut [f32], share: f64) -> Option<f32> {
    let best = ((scores.len() as f64 * share).round() as usize).max(1);
    if scores.len() < best {
        return None;
    }
    let (_, least, _) = scores.select_nth_unstable_by(best - 1, |a, b| b.total_cmp(a));
    Some(*least)
}
