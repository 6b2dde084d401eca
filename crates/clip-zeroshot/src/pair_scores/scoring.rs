use std::{
    error::Error,
    ops::Range,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use burn::{
    data::dataloader::DataLoader,
    tensor::{DType, Int, Tensor, TensorData},
};
use clip_data::{DataError, EvalBatch, EvalNeeds, FaultKind, LoaderConfig, ShardItem, ShardSet};
use clip_files::sha256::Parts;
use clip_model::l2_normalize;

use super::{
    file::{self, About, scores_matrix},
    folder::{Index, ScoreFolder},
};
use crate::{
    ClipEncoders, EncodeTexts, PROMPT_BATCH, ZeroShotError, encode_all, features::finite_rows,
    tensor_file::Matrix,
};

/// Parts of a table or folder whose scores are one file: they have a hundred samples each.
const PARTS: usize = 100;

/// How pairs are scored.
#[derive(Clone, Debug)]
pub struct ScoreConfig {
    /// Images encoded at once.
    pub batch: usize,
    /// Whether `image_features` and `text_features` are kept too, L2-normalised, in f32.
    pub features: bool,
}

/// A shard that has its scores.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredShard {
    /// Of each image that could be used: the cosine of its feature with that of the caption which fits it best.
    pub scores: Vec<f32>,
    /// Samples that could not be used.
    pub bad: u64,
    /// Whether an earlier pass had scored it.
    pub was_there: bool,
}

/// Scores each pair of the shards, into a folder; shards that it has are not scored again, unless they have changed
/// since: a tar by its length or its time, a table or a folder by its samples, which are read for that. What is on a
/// server is taken to be as it was. `told` gets each shard's number, how many there are, and its scores.
///
/// # Errors
/// [`ZeroShotError::OtherScores`] and [`ZeroShotError::NoScoreFolder`] if the folder's are by another model or of other shards,
/// or it has something else; [`ZeroShotError::ScoresBusy`]; [`ZeroShotError::Unread`] at the end, if shards could not be read to
/// theirs; those of the encoders; and [`ZeroShotError::Io`] where the folder can't be written.
pub fn score_shards(
    encoders: &ClipEncoders,
    shards: &ShardSet,
    config: &ScoreConfig,
    folder: &Path,
    mut told: impl FnMut(usize, usize, &ScoredShard),
) -> Result<(), ZeroShotError> {
    let groups = groups(shards);
    let index = Index {
        model: encoders.model_hash(),
        features: config.features,
        shards: (groups.iter().map(|group| shards.name(group.start))).collect(),
    };
    let folder = ScoreFolder::take(folder, index)?;
    let mut unread = Vec::new();
    for (number, group) in groups.iter().enumerate() {
        let set = shards.only(group.clone());
        let state = state(&set)?;
        let scored = match known(&folder, number, state.as_deref()) {
            Some(scored) => Some(scored),
            None => score(encoders, set, config, &folder, (number, state))?,
        };
        match scored {
            Some(scored) => told(number, groups.len(), &scored),
            None => unread.push(folder.index.shards[number].clone()),
        }
    }
    if unread.is_empty() {
        Ok(())
    } else {
        Err(ZeroShotError::Unread { shards: unread })
    }
}

/// The shards that have a file together: one, but of a table or folder several parts.
fn groups(shards: &ShardSet) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    for shard in 0..shards.len() {
        match groups.last_mut() {
            Some(group)
                if group.len() < PARTS && shards.name(group.start) == shards.name(shard) =>
            {
                group.end += 1;
            }
            _ => groups.push(shard..shard + 1),
        }
    }
    groups
}

/// What a shard is known by: a tar by its length and the time of its change, a table or folder by its samples. `None` of
/// what is on a server, from which nothing should come twice.
fn state(set: &ShardSet) -> Result<Option<String>, ZeroShotError> {
    if (0..set.len()).any(|shard| set.name(shard).contains("://")) {
        return Ok(None);
    }
    let mut hash = Parts::default();
    if let Ok(tars) = set.local_tars() {
        for path in tars {
            let about = path.metadata().map_err(clip_files::io("read", path))?;
            let changed = about.modified().map_err(clip_files::io("read", path))?;
            let changed = changed.duration_since(UNIX_EPOCH).unwrap_or_default();
            hash = hash
                .part(&about.len().to_le_bytes())
                .part(&changed.as_nanos().to_le_bytes());
        }
        return Ok(Some(hash.finish()));
    }
    for shard in 0..set.len() {
        for item in set.open(shard)? {
            hash = match item {
                ShardItem::Sample(sample) => {
                    let pair = sample.pair_id().to_le_bytes();
                    hash.part(sample.key.as_bytes()).part(&pair)
                }
                ShardItem::Fault(kind, key) => hash
                    .part(key.as_bytes())
                    .part(format!("{kind:?}").as_bytes()),
            };
        }
    }
    Ok(Some(hash.finish()))
}

/// What an earlier pass found, unless the shard has changed since.
fn known(folder: &ScoreFolder, shard: usize, state: Option<&str>) -> Option<ScoredShard> {
    if !folder.file(shard).exists() {
        return None;
    }
    match folder.finished(shard) {
        Ok((scores, about)) if about.state.as_deref() == state => Some(ScoredShard {
            scores,
            bad: about.bad,
            was_there: true,
        }),
        Ok(_) => {
            log::warn!(
                "{} has changed: scoring it again",
                folder.index.shards[shard]
            );
            None
        }
        Err(error) => {
            log::warn!("{}; scoring it again", clip_files::one_line(&error));
            None
        }
    }
}

/// Scores a shard; `None` if it could not be read to its end.
fn score(
    encoders: &ClipEncoders,
    set: ShardSet,
    config: &ScoreConfig,
    folder: &ScoreFolder,
    (shard, state): (usize, Option<String>),
) -> Result<Option<ScoredShard>, ZeroShotError> {
    let config_of_loader = LoaderConfig {
        batch: config.batch,
        // What can't be used can't be scored, and nothing else follows from it.
        max_bad_share: 1.0,
        ..LoaderConfig::default()
    };
    // A loader counts a shard before it reads it.
    let copy = ShardCopy(folder.copy());
    let set = set.copied_to(&copy.0)?.unwrap_or(set);
    let loader = encoders.loader(set, EvalNeeds::Pairs, config_of_loader)?;
    let mut found = Found::default();
    let mut about = About {
        model: folder.index.model.clone(),
        shard: folder.index.shards[shard].clone(),
        state,
        ..About::default()
    };
    for batch in loader.iter() {
        let batch = match batch.map_err(ZeroShotError::from) {
            Ok(batch) => batch,
            Err(error) if has_nothing_usable(&error) => break,
            Err(error) => return Err(error),
        };
        found.add(encoders, batch, config.features, &mut about)?;
    }
    let faults = loader.faults();
    if faults.kinds().contains_key(&FaultKind::UnreadableShard) {
        return Ok(None);
    }
    about.bad = faults.bad();
    if config.features {
        let matrices = found.features(encoders.config().embed_dim);
        file::save(&folder.features_file(shard), matrices, &about)?;
    }
    file::save(
        &folder.file(shard),
        vec![scores_matrix(&found.scores)],
        &about,
    )?;
    Ok(Some(ScoredShard {
        scores: found.scores,
        bad: about.bad,
        was_there: false,
    }))
}

/// The folder of a shard's copy, which goes with it.
struct ShardCopy(PathBuf);

impl Drop for ShardCopy {
    fn drop(&mut self) {
        // It is often not there, and one that stays is written over.
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// Whether a shard was read to its end, and had nothing.
fn has_nothing_usable(error: &ZeroShotError) -> bool {
    let ZeroShotError::Loader(error) = error else {
        return false;
    };
    let source = error.source().and_then(|source| source.downcast_ref());
    matches!(source, Some(DataError::NothingUsable { .. }))
}

/// What a shard's pairs come to.
#[derive(Default)]
struct Found {
    scores: Vec<f32>,
    /// Row by row, where they are kept.
    image_features: Vec<f32>,
    text_features: Vec<f32>,
}

impl Found {
    fn add(
        &mut self,
        encoders: &ClipEncoders,
        batch: EvalBatch,
        keep: bool,
        about: &mut About,
    ) -> Result<(), ZeroShotError> {
        let first = about.keys.len();
        let images = l2_normalize(encoders.encode_images(batch.images));
        let rows = batch.captions.iter().enumerate();
        let rows: Vec<usize> = rows
            .flat_map(|(row, own)| own.iter().map(move |_| row))
            .collect();
        let captions = batch.captions.concat();
        let texts = l2_normalize(encode_all(encoders, &captions, PROMPT_BATCH)?);
        let own: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        let own = TensorData::new(own, [rows.len()]);
        let own = Tensor::<1, Int>::from_data(own, (&images.device(), DType::I64));
        let cosines = (images.clone().select(0, own) * texts.clone()).sum_dim(1);
        let cosines = finite_rows(cosines, |row| format!("the cosine of `{}`", captions[row]))?;
        self.scores.resize(first + batch.batch, f32::NEG_INFINITY);
        for (&row, cosine) in rows.iter().zip(cosines) {
            let best = &mut self.scores[first + row];
            *best = best.max(cosine);
        }
        about.keys.extend(batch.keys);
        about.pairs.extend(batch.pair_ids);
        if keep {
            about
                .image_of_caption
                .extend(rows.iter().map(|row| first + row));
            self.image_features.extend(images.try_into_vec_as::<f32>()?);
            self.text_features.extend(texts.try_into_vec_as::<f32>()?);
        }
        Ok(())
    }

    fn features(&self, width: usize) -> Vec<Matrix<'_>> {
        let named = [
            ("image_features", &self.image_features),
            ("text_features", &self.text_features),
        ];
        let matrices = named.map(|(name, values)| Matrix {
            name: name.to_owned(),
            shape: [values.len() / width, width],
            values: values.into(),
        });
        matrices.into()
    }
}
