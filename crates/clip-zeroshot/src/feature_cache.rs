//! Features of shards in a safetensors file: encoding the images is nearly all the time of an evaluation.

use std::{
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use burn::tensor::Device;
use clip_data::{DataError, EvalNeeds, FaultReport, LoaderConfig, ShardSet};
use clip_files::sha256::Parts;
use serde::{Deserialize, Serialize};

use crate::{
    ClipEncoders, EncodeTexts, ImagePass, ShardFeatures, ZeroShotError,
    features::{finite_rows, from_host},
    tensor_file::{self, Fault, Matrix},
};

/// Part of every key, so that files of other layouts are never read.
const FORMAT: &str = "clip-shard-features-1";
const IMAGES: &str = "images";
const UNPROJECTED: &str = "unprojected";

/// A folder of features. A file's name is the hash of all that its features depend on: the model, and path, length and
/// time of change of every shard. Files of before a change are left where they are.
#[derive(Clone, Debug)]
pub struct FeatureCache {
    folder: PathBuf,
}

/// What a file holds besides tensors.
#[derive(Serialize, Deserialize)]
struct About {
    keys: Vec<String>,
    captions: Vec<String>,
    image_of_caption: Vec<usize>,
    classes: Vec<Option<usize>>,
    faults: FaultReport,
}

impl FeatureCache {
    /// A cache in a folder, which is made when the first features are kept.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// The features of shards from the folder, or else from the model, then kept; says which. A damaged file is replaced.
    /// If they can't be kept, as on a full disk, they are returned all the same, with a warning.
    ///
    /// # Errors
    /// [`ZeroShotError::NotKept`] of shards that aren't tars on this machine, those of [`ClipEncoders::loader`] and
    /// [`ClipEncoders::encode_shards`], and [`ZeroShotError::Io`] when the folder can't be made.
    pub fn encode_shards(
        &self,
        encoders: &ClipEncoders,
        shards: ShardSet,
        needs: EvalNeeds,
        config: LoaderConfig,
        pass: ImagePass,
    ) -> Result<ShardFeatures, ZeroShotError> {
        let key = key(encoders, &shards, needs, config.max_bad_share, pass)?;
        let path = self.folder.join(format!("features-{key}.safetensors"));
        if let Some(features) = load(&path, encoders.device()) {
            log::info!("image features taken from {}", self.folder.display());
            return Ok(features);
        }
        // Before an encoding of hours.
        std::fs::create_dir_all(&self.folder).map_err(clip_files::io("create", &self.folder))?;
        let features = encoders.encode_shards_in(&encoders.loader(shards, needs, config)?, pass)?;
        match save(&path, &features) {
            Ok(()) => log::info!("image features kept in {}", self.folder.display()),
            Err(ZeroShotError::Io(error)) => {
                log::warn!(
                    "image features are not kept: {}",
                    clip_files::one_line(&error)
                );
            }
            Err(error) => return Err(error),
        }
        Ok(features)
    }
}

fn key(
    encoders: &ClipEncoders,
    shards: &ShardSet,
    needs: EvalNeeds,
    max_bad_share: f64,
    pass: ImagePass,
) -> Result<String, ZeroShotError> {
    let mut hash = Parts::default()
        .part(FORMAT.as_bytes())
        .part(encoders.model_hash().as_bytes())
        .part(format!("{needs:?} {max_bad_share} {pass:?}").as_bytes());
    let tars = shards.local_tars().map_err(|error| match error {
        DataError::NoLocalTar { name } => ZeroShotError::NotKept { name },
        other => other.into(),
    })?;
    for path in tars {
        let read = || clip_files::io("read", path);
        let whole = path.canonicalize().map_err(read())?;
        let about = path.metadata().map_err(read())?;
        let changed = about.modified().map_err(read())?;
        let changed = changed.duration_since(UNIX_EPOCH).unwrap_or_default();
        hash = hash
            .part(whole.as_os_str().as_encoded_bytes())
            .part(&about.len().to_le_bytes())
            .part(&changed.as_nanos().to_le_bytes());
    }
    Ok(hash.finish()[..32].to_owned())
}

fn save(path: &Path, features: &ShardFeatures) -> Result<(), ZeroShotError> {
    let mut matrices = Vec::new();
    let named = [
        (IMAGES, Some(&features.images)),
        (UNPROJECTED, features.unprojected.as_ref()),
    ];
    for (name, tensor) in named {
        let Some(tensor) = tensor else { continue };
        matrices.push(Matrix {
            name: name.to_owned(),
            shape: tensor.dims(),
            values: finite_rows(tensor.clone(), |row| format!("the feature of image {row}"))?
                .into(),
        });
    }
    let about = About {
        keys: features.keys.clone(),
        captions: features.captions.clone(),
        image_of_caption: features.image_of_caption.clone(),
        classes: features.classes.clone(),
        faults: features.faults.clone(),
    };
    tensor_file::save(path, FORMAT, &matrices, None, &about)
}

/// `None` for a file that is missing or damaged.
fn load(path: &Path, device: &Device) -> Option<ShardFeatures> {
    let (matrices, about) = match tensor_file::load::<About>(path, FORMAT) {
        Ok(loaded) => loaded,
        Err(Fault::Io(_)) => return None,
        Err(Fault::Content(reason)) => {
            log::warn!("{} is damaged: {reason}; encoding again", path.display());
            return None;
        }
    };
    let mut matrices = matrices
        .into_iter()
        .map(|matrix| from_host(matrix.values.into_owned(), matrix.shape, device));
    Some(ShardFeatures {
        images: matrices.next()?,
        unprojected: matrices.next(),
        keys: about.keys,
        captions: about.captions,
        image_of_caption: about.image_of_caption,
        classes: about.classes,
        faults: about.faults,
    })
}
