//! Images by their features: exact search, brought up to date by path, size and time of change.

use std::{
    borrow::Cow,
    collections::HashMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    ZeroShotError,
    codes::Codes,
    nearest::{Found, dot, nearest},
    tensor_file::{self, Fault, Matrix},
};

pub(crate) const FORMAT: &str = "clip-image-index-1";
/// The name of the matrix in the file.
pub(crate) const FEATURES: &str = "features";

/// An image file as it was when it was encoded.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IndexedImage {
    /// Relative to the folder indexed, with `/` between its parts.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since 1970 at which it was changed.
    pub changed: u64,
}

/// What an update has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct IndexChanges {
    /// Images that are as they were.
    pub kept: usize,
    /// Images that are new or changed.
    pub encoded: usize,
    /// Images that are gone.
    pub removed: usize,
}

/// The normalised features of a folder's images.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageIndex {
    about: About,
    /// `[images, embed_dim]`, normalised.
    features: Vec<f32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct About {
    pub(crate) model_sha256: String,
    /// How the model was named, to name it again.
    pub(crate) model: String,
    pub(crate) embed_dim: usize,
    pub(crate) images: Vec<IndexedImage>,
    /// Whether the file has codes beside the features.
    #[serde(default)]
    pub(crate) approximate: bool,
}

impl ImageIndex {
    /// An index without images, of a model by its hash and its name.
    pub fn new(model_sha256: String, model: String, embed_dim: usize) -> Self {
        Self {
            about: About {
                model_sha256,
                model,
                embed_dim,
                images: Vec::new(),
                approximate: false,
            },
            features: Vec::new(),
        }
    }

    /// How the model was named.
    pub fn model(&self) -> &str {
        &self.about.model
    }

    /// Whether the features are those of a model, given its hash.
    pub fn is_of(&self, model_sha256: &str) -> bool {
        self.about.model_sha256 == model_sha256
    }

    /// Whether [`save`](Self::save) writes codes beside the features, for an [`ApproximateIndex`](crate::ApproximateIndex).
    pub fn is_approximate(&self) -> bool {
        self.about.approximate
    }

    /// Says whether to write codes.
    pub fn set_approximate(&mut self, approximate: bool) {
        self.about.approximate = approximate;
    }

    /// The images, sorted by path.
    pub fn images(&self) -> &[IndexedImage] {
        &self.about.images
    }

    /// The images of a folder that have no feature yet, or one of an older file.
    pub fn missing<'a>(&self, present: &'a [IndexedImage]) -> Vec<&'a IndexedImage> {
        let known: HashMap<&str, &IndexedImage> = self.by_path().collect();
        present
            .iter()
            .filter(|image| known.get(image.path.as_str()) != Some(image))
            .collect()
    }

    fn by_path(&self) -> impl Iterator<Item = (&str, &IndexedImage)> {
        let images = self.about.images.iter();
        images.map(|image| (image.path.as_str(), image))
    }

    /// Makes the index that of the images `present`: those that are gone are dropped, and the features of `encoded`
    /// come in. An image that is neither known nor encoded is left out, as one that can't be read.
    ///
    /// # Shapes
    /// - `encoded`: for each image its feature, `[embed_dim]`, normalised or not
    ///
    /// # Panics
    /// If a feature has another length than `embed_dim`.
    pub fn update(
        &mut self,
        mut present: Vec<IndexedImage>,
        encoded: HashMap<IndexedImage, Vec<f32>>,
    ) -> IndexChanges {
        let width = self.about.embed_dim;
        let rows: HashMap<&str, usize> = self.by_path().map(|(path, _)| path).zip(0..).collect();
        present.sort_by(|a, b| a.path.cmp(&b.path));
        let mut changes = IndexChanges::default();
        let (mut images, mut features) = (Vec::new(), Vec::new());
        for image in present {
            let row = rows.get(image.path.as_str()).copied();
            let row = row.filter(|&row| self.about.images[row] == image);
            if let Some(row) = row {
                features.extend_from_slice(&self.features[row * width..][..width]);
                changes.kept += 1;
            } else if let Some(feature) = encoded.get(&image) {
                assert_eq!(feature.len(), width, "numbers in a feature");
                let squares: f32 = feature.iter().map(|value| value * value).sum();
                let norm = squares.sqrt().max(crate::features::SMALLEST_NORM);
                features.extend(feature.iter().map(|value| value / norm));
                changes.encoded += 1;
            } else {
                continue;
            }
            images.push(image);
        }
        let paths: std::collections::HashSet<&str> =
            images.iter().map(|image| image.path.as_str()).collect();
        changes.removed = self
            .by_path()
            .filter(|(path, _)| !paths.contains(path))
            .count();
        self.about.images = images;
        self.features = features;
        changes
    }

    /// The `k` images of the highest cosine with a query, the highest first; of equal ones the first by path.
    ///
    /// Every image is compared, in f32, on as many threads as there are processors.
    ///
    /// # Panics
    /// If the query has another length than `embed_dim`.
    pub fn search(&self, query: &[f32], k: usize) -> Vec<Found> {
        assert_eq!(query.len(), self.about.embed_dim, "numbers in the query");
        let query = normalised(query);
        nearest(self.about.images.len(), k, |row| {
            dot(self.feature(row), &query)
        })
    }

    /// An image's feature, `[embed_dim]`, normalised.
    ///
    /// # Panics
    /// If there is no image at that position.
    pub fn feature(&self, position: usize) -> &[f32] {
        &self.features[position * self.about.embed_dim..][..self.about.embed_dim]
    }

    /// Writes the index, whole or not at all, with codes if it [is approximate](Self::is_approximate).
    ///
    /// # Errors
    /// [`ZeroShotError::Io`] when the folder can't be written, [`ZeroShotError::Codes`] when features can't be coded.
    pub fn save(&self, path: &Path) -> Result<(), ZeroShotError> {
        let codes = self.about.approximate;
        let codes = codes.then(|| Codes::new(&self.features, self.about.embed_dim));
        let codes = codes.transpose()?.map(|codes| codes.to_bytes());
        let features = Matrix {
            name: FEATURES.to_owned(),
            shape: [self.about.images.len(), self.about.embed_dim],
            values: Cow::Borrowed(&self.features),
        };
        tensor_file::save(path, FORMAT, &[features], codes.as_deref(), &self.about)
    }

    /// Reads an index that [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// [`ZeroShotError::Io`], or [`ZeroShotError::CorruptIndex`].
    pub fn load(path: &Path) -> Result<Self, ZeroShotError> {
        let corrupt = |reason: String| ZeroShotError::CorruptIndex {
            path: PathBuf::from(path),
            reason,
        };
        let loaded = tensor_file::load::<About>(path, FORMAT);
        let (matrices, about) = loaded.map_err(|fault| match fault {
            Fault::Io(error) => clip_files::io("read", path)(error).into(),
            Fault::Content(reason) => corrupt(reason),
        })?;
        let shape = [about.images.len(), about.embed_dim];
        match matrices.into_iter().next() {
            Some(matrix) if matrix.shape == shape && about.embed_dim > 0 => Ok(Self {
                about,
                features: matrix.values.into_owned(),
            }),
            _ => Err(corrupt(
                "its features are not those of its images".to_owned(),
            )),
        }
    }
}

/// A query of length one.
pub(crate) fn normalised(query: &[f32]) -> Vec<f32> {
    let norm = dot(query, query).sqrt().max(crate::features::SMALLEST_NORM);
    query.iter().map(|value| value / norm).collect()
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn image(path: &str, changed: u64) -> IndexedImage {
        IndexedImage {
            path: path.to_owned(),
            size: 10,
            changed,
        }
    }

    fn index(images: &[(&str, [f32; 2])]) -> ImageIndex {
        let mut index = ImageIndex::new("hash".into(), "model".into(), 2);
        let present = images.iter().map(|(path, _)| image(path, 1)).collect();
        let encoded = images
            .iter()
            .map(|(path, feature)| (image(path, 1), feature.to_vec()))
            .collect();
        index.update(present, encoded);
        index
    }

    fn paths(index: &ImageIndex, query: [f32; 2], k: usize) -> Vec<String> {
        let found = index.search(&query, k).into_iter();
        found
            .map(|found| index.images()[found.position].path.clone())
            .collect()
    }

    #[test]
    fn the_nearest_by_angle_come_first_whatever_their_length() {
        let index = index(&[("b", [0.1, 0.1]), ("a", [9.0, 0.0]), ("c", [0.0, 2.0])]);
        assert_eq!(paths(&index, [5.0, 4.9], 2), ["b", "a"]);
        assert_eq!(paths(&index, [0.0, 1.0], 9), ["c", "b", "a"]);
        assert_eq!(paths(&index, [1.0, 0.0], 0), [] as [&str; 0]);
        assert_eq!(paths(&index, [1.0, 0.0], usize::MAX).len(), 3);
    }

    #[test]
    fn an_update_encodes_what_has_changed_and_drops_what_is_gone() {
        let mut index = index(&[("a", [1.0, 0.0]), ("b", [0.0, 1.0]), ("c", [1.0, 1.0])]);
        let present = vec![image("d", 1), image("c", 2), image("a", 1), image("bad", 1)];
        let missing: Vec<_> = index.missing(&present).into_iter().cloned().collect();
        assert_eq!(missing, [image("d", 1), image("c", 2), image("bad", 1)]);
        let encoded = HashMap::from([
            (image("d", 1), vec![-1.0, 0.0]),
            (image("c", 2), vec![0.0, -3.0]),
        ]);
        let changes = index.update(present, encoded);
        let expected = IndexChanges {
            kept: 1,
            encoded: 2,
            removed: 1,
        };
        assert_eq!(changes, expected);
        assert_eq!(paths(&index, [0.0, -1.0], 1), ["c"]);
        assert_eq!(paths(&index, [1.0, 0.1], 9), ["a", "c", "d"]);
    }

    #[test]
    fn threads_find_what_a_plain_loop_finds() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let (rows, width) = (2 * crate::nearest::ROWS_PER_THREAD + 77, 35);
        let features: Vec<f32> = (0..rows * width)
            .map(|_| rng.random_range(-1.0..1.0))
            .collect();
        let images = (0..rows).map(|at| image(&format!("{at:06}"), 0));
        let images: Vec<IndexedImage> = images.collect();
        let mut index = ImageIndex::new(String::new(), String::new(), width);
        let encoded = images
            .iter()
            .cloned()
            .zip(features.chunks(width).map(<[f32]>::to_vec));
        index.update(images.clone(), encoded.collect());
        let query: Vec<f32> = (0..width).map(|_| rng.random_range(-1.0..1.0)).collect();
        let cosine = |row: &[f32]| -> f64 {
            let product = |a: &[f32], b: &[f32]| -> f64 {
                a.iter()
                    .zip(b)
                    .map(|(a, b)| f64::from(*a) * f64::from(*b))
                    .sum()
            };
            product(row, &query) / (product(row, row) * product(&query, &query)).sqrt()
        };
        let mut expected: Vec<(usize, f64)> =
            features.chunks(width).map(cosine).enumerate().collect();
        expected.sort_by(|a, b| b.1.total_cmp(&a.1));
        for (found, expected) in index.search(&query, 10).iter().zip(&expected) {
            assert_eq!(found.position, expected.0);
            assert!((f64::from(found.cosine) - expected.1).abs() < 1e-5);
        }
    }

    #[test]
    fn an_index_survives_a_file_and_damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let index = index(&[("a", [1.0, 0.0]), ("b", [0.6, 0.8])]);
        index.save(&path).unwrap();
        assert_eq!(ImageIndex::load(&path).unwrap(), index);
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let error = ImageIndex::load(&path).unwrap_err().to_string();
        assert!(error.contains("is not a usable index"), "{error}");
    }
}
