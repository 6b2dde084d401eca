//! Features in a few bits a number: so small that all of them can be compared, to find those worth comparing in full.

use turbovec::TurboQuantIndex;

use crate::ZeroShotError;

/// Bits a number: a sixteenth of f32. With four, half as many candidates would do for the same recall, but comparing takes
/// twice the time and memory.
const BITS: usize = 2;
/// What the width of codes is a multiple of; features are filled up with zeros, which change no product.
const WIDTH_UNIT: usize = 8;

/// The codes of a matrix, by `TurboQuant`: each row is rotated at random, after which its numbers have a known distribution
/// whatever they were, and so a known best set of four levels. They depend on their row alone.
///
/// # References
/// Zandieh et al. 2025, `TurboQuant`: *Online Vector Quantization with Near-optimal Distortion Rate*
#[derive(Debug)]
pub(crate) struct Codes {
    index: TurboQuantIndex,
    /// Numbers of a feature.
    width: usize,
}

impl Codes {
    /// # Shapes
    /// - `features`: `[rows, width]`
    pub(crate) fn new(features: &[f32], width: usize) -> Result<Self, ZeroShotError> {
        let coded = width.next_multiple_of(WIDTH_UNIT);
        let refused = |reason: String| ZeroShotError::Codes { reason };
        let mut index =
            TurboQuantIndex::new(coded, BITS).map_err(|error| refused(error.to_string()))?;
        // In parts, so that no second copy of all features is in memory.
        for rows in features.chunks(width * 65_536) {
            let filled = fill_up(rows, width, coded);
            let added = index.add_2d(filled.as_deref().unwrap_or(rows), coded);
            added.map_err(|error| refused(error.to_string()))?;
        }
        Ok(Self { index, width })
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.index.to_bytes()
    }

    /// The codes of so many rows and columns, or what is wrong with the bytes.
    pub(crate) fn from_bytes(bytes: &[u8], [rows, width]: [usize; 2]) -> Result<Self, String> {
        let index = TurboQuantIndex::from_bytes(bytes).map_err(|error| error.to_string())?;
        let coded = width.next_multiple_of(WIDTH_UNIT);
        if index.len() != rows || index.dim_opt() != Some(coded) {
            return Err("its codes are not those of its features".to_owned());
        }
        index.prepare();
        Ok(Self { index, width })
    }

    /// Some `k` rows whose product with a query is among the highest, by their codes, the highest first.
    pub(crate) fn nearest(&self, query: &[f32], k: usize) -> Result<Vec<usize>, ZeroShotError> {
        if self.index.is_empty() || k == 0 {
            return Ok(Vec::new());
        }
        let filled = fill_up(query, self.width, self.width.next_multiple_of(WIDTH_UNIT));
        let found = self.index.try_search(filled.as_deref().unwrap_or(query), k);
        // Of its refusals the only one that a query of the right width can cause.
        let found = found.map_err(|_| ZeroShotError::NotFinite {
            what: "the query's feature".to_owned(),
        })?;
        // invariant: they are positions of rows.
        Ok(found.indices.into_iter().map(|row| row as usize).collect())
    }
}

/// Rows of another width, if they need it.
fn fill_up(rows: &[f32], width: usize, coded: usize) -> Option<Vec<f32>> {
    let wider = |row: &[f32]| -> Vec<f32> {
        let zeros = std::iter::repeat_n(0.0, coded - width);
        row.iter().copied().chain(zeros).collect()
    };
    (width != coded).then(|| rows.chunks_exact(width).flat_map(wider).collect())
}
