//! An index of images that stays on disk: candidates by codes in memory, then their features from the file.

use std::path::{Path, PathBuf};

use crate::{
    IndexedImage, ZeroShotError,
    codes::Codes,
    image_index::{About, FEATURES, FORMAT, normalised},
    nearest::{Found, before, dot},
    tensor_file::{self, Fault, Part, Rows},
};

/// Candidates for each image asked for, and the least number of them. What that finds of the
/// nearest ten is in docs/benchmarks.md; reading so many takes less time than comparing the codes of 100,000 images.
const CANDIDATES_PER_RESULT: usize = 40;
const LEAST_CANDIDATES: usize = 400;
/// How far rounding may take the square of a normalised feature's length from 1.
const NORM_TOLERANCE: f32 = 1e-3;

/// The index that [`ImageIndex::save`](crate::ImageIndex::save) wrote with codes, for queries that need not be exact. In memory
/// are the codes, a sixteenth of the features, and the images' paths. Cosines are those of the features themselves.
#[derive(Debug)]
pub struct ApproximateIndex {
    path: PathBuf,
    about: About,
    codes: Codes,
    features: Rows,
}

impl ApproximateIndex {
    /// Opens an index, or nothing if it was written without codes. What is read is checked against its checksum.
    ///
    /// # Errors
    /// [`ZeroShotError::Io`], or [`ZeroShotError::CorruptIndex`].
    pub fn open(path: &Path) -> Result<Option<Self>, ZeroShotError> {
        let corrupt = |reason: String| ZeroShotError::CorruptIndex {
            path: path.to_owned(),
            reason,
        };
        let part =
            tensor_file::open::<About>(path, FORMAT, FEATURES).map_err(|fault| match fault {
                Fault::Io(error) => clip_files::io("read", path)(error).into(),
                Fault::Content(reason) => corrupt(reason),
            })?;
        let Some(Part { about, codes, rows }) = part else {
            return Ok(None);
        };
        if rows.shape() != [about.images.len(), about.embed_dim] || about.embed_dim == 0 {
            let reason = "its features are not those of its images";
            return Err(corrupt(reason.to_owned()));
        }
        Ok(Some(Self {
            path: path.to_owned(),
            codes: Codes::from_bytes(&codes, rows.shape()).map_err(corrupt)?,
            features: rows,
            about,
        }))
    }

    /// How the model was named.
    pub fn model(&self) -> &str {
        &self.about.model
    }

    /// Whether the features are those of a model, given its hash.
    pub fn is_of(&self, model_sha256: &str) -> bool {
        self.about.model_sha256 == model_sha256
    }

    /// The images, sorted by path.
    pub fn images(&self) -> &[IndexedImage] {
        &self.about.images
    }

    /// Some `k` images of nearly the highest cosines with a query, the highest first; of equal ones the first by path.
    ///
    /// # Errors
    /// [`ZeroShotError::NotFinite`] of a query that isn't, [`ZeroShotError::Io`] or [`ZeroShotError::CorruptIndex`] when the
    /// file is damaged.
    ///
    /// # Panics
    /// If the query has another length than `embed_dim`.
    pub fn search(&self, query: &[f32], k: usize) -> Result<Vec<Found>, ZeroShotError> {
        let width = self.about.embed_dim;
        assert_eq!(query.len(), width, "numbers in the query");
        let k = k.min(self.images().len());
        if k == 0 {
            return Ok(Vec::new());
        }
        let query = normalised(query);
        let candidates = k
            .saturating_mul(CANDIDATES_PER_RESULT)
            .max(LEAST_CANDIDATES);
        let candidates = self
            .codes
            .nearest(&query, candidates.min(self.images().len()))?;
        let features = self.features.read(&candidates);
        let features = features.map_err(clip_files::io("read", &self.path))?;
        let mut found = Vec::with_capacity(candidates.len());
        for (position, feature) in candidates.into_iter().zip(features.chunks_exact(width)) {
            self.check(position, feature)?;
            let cosine = dot(feature, &query);
            found.push(Found { position, cosine });
        }
        found.sort_unstable_by(before);
        found.truncate(k);
        Ok(found)
    }

    /// The features are too large to be checked against a checksum at every start, so each that is read is looked at.
    fn check(&self, position: usize, feature: &[f32]) -> Result<(), ZeroShotError> {
        let norm = dot(feature, feature);
        if norm == 0.0 || (norm - 1.0).abs() < NORM_TOLERANCE {
            return Ok(());
        }
        Err(ZeroShotError::CorruptIndex {
            path: self.path.clone(),
            reason: format!(
                "the feature of {} is damaged",
                self.about.images[position].path
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rand::{Rng, RngExt, SeedableRng};

    use super::*;
    use crate::ImageIndex;

    /// More than a part of what is coded at once would take too long here; this many are several blocks of codes.
    const ROWS: usize = 3000;
    /// No multiple of what codes are.
    const WIDTH: usize = 60;

    fn random(rng: &mut impl Rng) -> Vec<f32> {
        (0..WIDTH).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    /// An index of random features in clusters, with codes, in a file.
    fn index(dir: &Path) -> (ImageIndex, PathBuf) {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0);
        let centres: Vec<Vec<f32>> = (0..50).map(|_| random(&mut rng)).collect();
        let images: Vec<IndexedImage> = (0..ROWS)
            .map(|at| IndexedImage {
                path: format!("{at:06}"),
                size: 0,
                changed: 0,
            })
            .collect();
        let mut feature = |at: usize| -> Vec<f32> {
            let centre = centres[at % centres.len()].iter();
            centre.zip(random(&mut rng)).map(|(a, b)| a + b).collect()
        };
        let encoded: HashMap<_, _> = images
            .iter()
            .enumerate()
            .map(|(at, image)| (image.clone(), feature(at)))
            .collect();
        let mut index = ImageIndex::new("hash".into(), "model".into(), WIDTH);
        index.update(images, encoded);
        index.set_approximate(true);
        let path = dir.join("index");
        index.save(&path).unwrap();
        (index, path)
    }

    #[test]
    fn nearly_all_of_the_nearest_are_found_with_their_cosines() {
        let dir = tempfile::tempdir().unwrap();
        let (exact, path) = index(dir.path());
        let approximate = ApproximateIndex::open(&path).unwrap().unwrap();
        assert!(approximate.is_of("hash") && approximate.model() == "model");
        assert_eq!(approximate.images(), exact.images());
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let (mut hits, mut all) = (0, 0);
        for row in (0..ROWS).step_by(97) {
            let noise = random(&mut rng);
            let query: Vec<f32> = exact
                .feature(row)
                .iter()
                .zip(noise)
                .map(|(a, b)| a + b / 20.0)
                .collect();
            let nearest = exact.search(&query, 10);
            let found = approximate.search(&query, 10).unwrap();
            assert!(found.is_sorted_by(|a, b| a.cosine >= b.cosine));
            hits += nearest.iter().filter(|one| found.contains(one)).count();
            all += nearest.len();
        }
        // What the index promises; it finds 0.99 or more of these.
        assert!(hits as f64 >= 0.95 * all as f64, "{hits} of {all}");
    }

    #[test]
    fn asked_for_all_it_is_exact() {
        let dir = tempfile::tempdir().unwrap();
        let (exact, path) = index(dir.path());
        let approximate = ApproximateIndex::open(&path).unwrap().unwrap();
        let query = exact.feature(5);
        for k in [ROWS, usize::MAX] {
            assert_eq!(
                approximate.search(query, k).unwrap(),
                exact.search(query, k)
            );
        }
        assert_eq!(approximate.search(query, 0).unwrap(), []);
        assert_eq!(ImageIndex::load(&path).unwrap(), exact);
        let refused = approximate.search(&[f32::NAN; WIDTH], 1).unwrap_err();
        assert!(refused.to_string().contains("not finite"), "{refused}");
    }

    #[test]
    fn an_index_without_images_finds_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let mut empty = ImageIndex::new("hash".into(), "model".into(), WIDTH);
        empty.save(&path).unwrap();
        assert!(ApproximateIndex::open(&path).unwrap().is_none());
        empty.set_approximate(true);
        empty.save(&path).unwrap();
        let opened = ApproximateIndex::open(&path).unwrap().unwrap();
        assert_eq!(opened.search(&[1.0; WIDTH], 10).unwrap(), []);
    }

    #[test]
    fn damage_is_named_wherever_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (exact, path) = index(dir.path());
        let whole = std::fs::read(&path).unwrap();
        let refused = |bytes: &[u8]| -> String {
            std::fs::write(&path, bytes).unwrap();
            let opened = ApproximateIndex::open(&path);
            let searched = opened.and_then(|index| index.unwrap().search(exact.feature(0), ROWS));
            searched.unwrap_err().to_string()
        };
        for length in [0, 7, 40, whole.len() / 2, whole.len() - 1] {
            let error = refused(&whole[..length]);
            assert!(error.contains("is not a usable index"), "{length}: {error}");
        }
        // Header, features, images and codes; of a feature it is the exponent.
        for part in 0..16 {
            let mut bytes = whole.clone();
            let at = (part * (whole.len() - 4) / 15) | 3;
            bytes[at] ^= 0x40;
            let error = refused(&bytes);
            assert!(error.contains("is not a usable index"), "{at}: {error}");
        }
    }
}
