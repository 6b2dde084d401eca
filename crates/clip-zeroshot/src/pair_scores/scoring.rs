use std::path::Path;

use burn::tensor::{DType, Int, Tensor, TensorData};
use clip_data::{EvalNeeds, LoaderConfig, ShardSet};
use clip_model::{l2_normalize, weights::write_atomically};

use super::{About, FORMAT, Index, SCORES, load};
use crate::{
    ClipEncoders, PROMPT_BATCH, ShardFeatures, TextEncoder, ZeroShotError, encode_all,
    features::finite_rows,
    tensor_file::{self, Matrix},
};

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
    pub kept: bool,
}

/// Scores each pair of the shards, into a folder; shards that it has are not scored again. `told` gets each shard in their
/// order.
///
/// # Errors
/// [`ZeroShotError::OtherScores`] if the folder's are by another model or of other shards; those of
/// [`ClipEncoders::encode_shards`]; [`ZeroShotError::Io`] and [`ZeroShotError::Model`] where the folder can't be written, and
/// [`ZeroShotError::CorruptScores`].
pub fn score_shards(
    encoders: &ClipEncoders,
    shards: &ShardSet,
    config: &ScoreConfig,
    folder: &Path,
    mut told: impl FnMut(usize, &ScoredShard),
) -> Result<(), ZeroShotError> {
    let index = Index {
        model: encoders.model_hash(),
        features: config.features,
        shards: (0..shards.len()).map(|shard| shards.name(shard)).collect(),
    };
    begin(folder, &index)?;
    for shard in 0..shards.len() {
        let path = Index::file(folder, shard);
        let scored = match load(&path)? {
            Some((scores, about)) => ScoredShard {
                scores,
                bad: about.bad,
                kept: true,
            },
            None => score(encoders, shards.only(shard), config, &path)?,
        };
        told(shard, &scored);
    }
    Ok(())
}

/// Takes a new folder, or one that has the same scores.
fn begin(folder: &Path, index: &Index) -> Result<(), ZeroShotError> {
    let path = Index::path(folder);
    if path.exists() {
        let there = Index::read(folder)?;
        let other = [
            (there.model != index.model, "by another model"),
            (there.shards != index.shards, "of other shards"),
            (there.features && !index.features, "kept with features"),
            (index.features && !there.features, "kept without features"),
        ];
        return match other.iter().find(|(differs, _)| *differs) {
            None => Ok(()),
            Some((_, how)) => Err(ZeroShotError::OtherScores {
                folder: folder.to_owned(),
                how,
            }),
        };
    }
    std::fs::create_dir_all(folder).map_err(ZeroShotError::io("create", folder))?;
    // invariant: strings always have a JSON form.
    let text = serde_json::to_vec_pretty(index).expect("invariant: it has a JSON form");
    Ok(write_atomically(&path, &text)?)
}

fn score(
    encoders: &ClipEncoders,
    shard: ShardSet,
    config: &ScoreConfig,
    path: &Path,
) -> Result<ScoredShard, ZeroShotError> {
    let config_of_loader = LoaderConfig {
        batch: config.batch,
        // What can't be used can't be scored, and nothing else follows from it.
        max_bad_share: 1.0,
        ..LoaderConfig::default()
    };
    let loader = encoders.loader(shard, EvalNeeds::Captions, config_of_loader)?;
    let found = match encoders.encode_shards(&loader) {
        Ok(features) => Some(features),
        Err(ZeroShotError::NoSamples) => None,
        Err(error) => return Err(error),
    };
    let bad = loader.faults().bad();
    let mut about = About {
        keys: Vec::new(),
        image_of_caption: Vec::new(),
        bad,
    };
    let mut scores = Vec::new();
    let mut kept = Vec::new();
    if let Some(features) = found {
        let [images, texts] = both(encoders, &features)?;
        scores = best_cosines(&images, &texts, &features)?;
        if config.features {
            kept = vec![
                matrix("image_features", images)?,
                matrix("text_features", texts)?,
            ];
            about.image_of_caption = features.image_of_caption;
        }
        about.keys = features.keys;
    }
    kept.push(Matrix {
        name: SCORES.to_owned(),
        shape: [scores.len(), 1],
        values: (&scores).into(),
    });
    kept.sort_by(|a, b| a.name.cmp(&b.name));
    tensor_file::save(path, FORMAT, &kept, None, &about)?;
    Ok(ScoredShard {
        scores,
        bad,
        kept: false,
    })
}

fn matrix(name: &str, rows: Tensor<2>) -> Result<Matrix<'static>, ZeroShotError> {
    Ok(Matrix {
        name: name.to_owned(),
        shape: rows.dims(),
        values: rows.try_into_vec_as::<f32>()?.into(),
    })
}

/// The features of images and captions, normalised.
fn both(
    encoders: &ClipEncoders,
    features: &ShardFeatures,
) -> Result<[Tensor<2>; 2], ZeroShotError> {
    let texts = encode_all(encoders, &features.captions, PROMPT_BATCH)?;
    Ok([features.images.clone(), texts].map(l2_normalize))
}

/// Of each image, the cosine of the caption that fits it best.
fn best_cosines(
    images: &Tensor<2>,
    texts: &Tensor<2>,
    features: &ShardFeatures,
) -> Result<Vec<f32>, ZeroShotError> {
    let rows: Vec<i64> = (features.image_of_caption.iter())
        .map(|&image| image as i64)
        .collect();
    let rows = TensorData::new(rows, [features.captions.len()]);
    let rows = Tensor::<1, Int>::from_data(rows, (&images.device(), DType::I64));
    let own = images.clone().select(0, rows);
    let cosines = (own * texts.clone()).sum_dim(1);
    let cosines = finite_rows(cosines, |caption| {
        format!("the cosine of `{}`", features.captions[caption])
    })?;
    let mut best = vec![f32::NEG_INFINITY; features.keys.len()];
    for (&image, cosine) in features.image_of_caption.iter().zip(cosines) {
        best[image] = best[image].max(cosine);
    }
    Ok(best)
}
