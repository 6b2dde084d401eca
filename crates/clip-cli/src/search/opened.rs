//! An index as queries need it, and its model.

use std::path::Path;

use anyhow::{Result, ensure};
use clip_zeroshot::{
    ApproximateIndex, ClipEncoders, EncodeTexts, Found, ImageIndex, IndexedImage, ZeroShotError,
};

use crate::{
    device::{self, DeviceName},
    weights,
};

/// An index for queries.
pub(crate) enum Index {
    /// All features in memory.
    Exact(ImageIndex),
    /// Their codes in memory.
    Approximate(Box<ApproximateIndex>),
}

impl Index {
    /// Opens an index by its codes, if it has some and no exact search is asked for.
    pub(super) fn open(file: &Path, exact: bool) -> Result<Self> {
        exists(file)?;
        let approximate = (!exact).then(|| ApproximateIndex::open(file)).transpose()?;
        Ok(match approximate.flatten() {
            Some(index) => Self::Approximate(Box::new(index)),
            None => Self::Exact(ImageIndex::load(file)?),
        })
    }

    fn model(&self) -> &str {
        match self {
            Self::Exact(index) => index.model(),
            Self::Approximate(index) => index.model(),
        }
    }

    fn is_of(&self, model_sha256: &str) -> bool {
        match self {
            Self::Exact(index) => index.is_of(model_sha256),
            Self::Approximate(index) => index.is_of(model_sha256),
        }
    }

    pub(crate) fn images(&self) -> &[IndexedImage] {
        match self {
            Self::Exact(index) => index.images(),
            Self::Approximate(index) => index.images(),
        }
    }

    /// The `k` images nearest to a feature, or nearly so.
    pub(crate) fn search(&self, feature: &[f32], k: usize) -> Result<Vec<Found>> {
        match self {
            Self::Exact(index) => Ok(index.search(feature, k)),
            Self::Approximate(index) => Ok(index.search(feature, k)?),
        }
    }
}

pub(super) fn exists(file: &Path) -> Result<()> {
    ensure!(
        file.is_file(),
        "there is no index {}: make one with `clip search index`",
        file.display()
    );
    Ok(())
}

/// Opens an index and loads its model; refuses a model that has changed since.
pub(crate) fn open(
    file: &Path,
    exact: bool,
    model: Option<&str>,
    device: Option<DeviceName>,
) -> Result<(Index, ClipEncoders)> {
    let index = Index::open(file, exact)?;
    let started = device::open(device)?;
    let encoders = weights::encoders(model.unwrap_or(index.model()), &started.device)?;
    if !index.is_of(&encoders.model_hash()) {
        let (path, model) = (file.to_owned(), index.model().to_owned());
        return Err(ZeroShotError::StaleIndex { path, model }.into());
    }
    Ok((index, encoders))
}
