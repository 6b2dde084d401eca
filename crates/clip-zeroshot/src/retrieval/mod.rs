//! Retrieval of captions by images and of images by captions.

mod report;
mod scores;

use std::{collections::HashMap, sync::Mutex};

use burn::tensor::Tensor;
pub use report::RetrievalReport;
use scores::{Place, Scores, TileSize};

use crate::{TiedRank, ZeroShotError};

/// A tile's scores are 2 MB, which stay in a core's cache until they are counted, and a product large enough to run at
/// full speed. A tile of captions is normalised once for 8,192 images instead of for each 512.
const TILE: TileSize = TileSize {
    images: 512,
    captions: 1024,
    images_at_once: 16,
};

/// A retrieval's figures, and where each query stands in them.
#[derive(Clone, Debug, PartialEq)]
pub struct Retrieval {
    /// The figures of all queries.
    pub report: RetrievalReport,
    /// For each image, where its best caption is among all captions.
    pub images: Vec<TiedRank>,
    /// For each caption, where its image is among all images.
    pub captions: Vec<TiedRank>,
}

/// Ranks all captions for each image and all images for each caption, by cosine.
///
/// An image with several captions counts as found when one of them is. Ties neither help nor hurt: see
/// [`TiedRank`]. Similarities are computed tile by tile on all processors, so that the memory beyond the features and
/// ranks is some megabytes for each: features in f16 are compared in f32, and take half the memory.
///
/// # Shapes
/// - `image_features`: `[images, embed_dim]`, normalised or not
/// - `text_features`: `[captions, embed_dim]`, normalised or not, on the same device
/// - `image_of_text`: for each caption the row of its image; any order
///
/// # Errors
/// [`ZeroShotError::NoSamples`], [`ZeroShotError::CaptionOfNoImage`],
/// [`ZeroShotError::ImageWithoutCaption`], [`ZeroShotError::NotFinite`], or [`ZeroShotError::Shape`] when
/// the features don't fit each other.
pub fn retrieve(
    image_features: Tensor<2>,
    text_features: Tensor<2>,
    image_of_text: &[usize],
) -> Result<Retrieval, ZeroShotError> {
    retrieve_in_tiles(image_features, text_features, image_of_text, TILE)
}

fn retrieve_in_tiles(
    image_features: Tensor<2>,
    text_features: Tensor<2>,
    image_of_text: &[usize],
    size: TileSize,
) -> Result<Retrieval, ZeroShotError> {
    let [images, embed_dim] = image_features.dims();
    let captions = image_of_text.len();
    if text_features.dims() != [captions, embed_dim] {
        return Err(ZeroShotError::Shape {
            what: "caption features for the image features".to_owned(),
            expected: [captions, embed_dim],
            got: text_features.dims(),
        });
    }
    check_pairs(images, image_of_text)?;
    let scores = Scores {
        images: image_features,
        captions: text_features,
        size,
    };
    scores.check_finite()?;

    let own = own_scores(&scores, image_of_text)?;
    let mut best = vec![f32::NEG_INFINITY; images];
    for (&image, &score) in image_of_text.iter().zip(&own) {
        best[image] = best[image].max(score);
    }
    let mut relevant = vec![0usize; images];
    for (&image, &score) in image_of_text.iter().zip(&own) {
        relevant[image] += usize::from(score >= best[image]);
    }

    let counts = Mutex::new((Counts::none(images), Counts::none(captions)));
    scores.each(
        |_| true,
        |place, scores| {
            let own = &own[place.captions.clone()];
            let (rows, columns) = count(scores, &best[place.images.clone()], own);
            // invariant: a thread only adds.
            let mut counts = counts.lock().expect("invariant: no panic in an addition");
            counts.0.add(place.images.start, &rows);
            counts.1.add(place.captions.start, &columns);
        },
    )?;
    // invariant: as above.
    let counts = counts.into_inner();
    let (of_images, of_captions) = counts.expect("invariant: no panic in an addition");
    let images = of_images.ranks(relevant);
    let captions = of_captions.ranks(vec![1; captions]);
    Ok(Retrieval {
        report: report(&images, &captions),
        images,
        captions,
    })
}

/// A caption's score with its own image, from the very product that the others come from: equal features must tie,
/// which a dot product of another shape does not guarantee.
fn own_scores(scores: &Scores, image_of_text: &[usize]) -> Result<Vec<f32>, ZeroShotError> {
    let mut pairs: HashMap<[usize; 2], Vec<usize>> = HashMap::new();
    for (text, &image) in image_of_text.iter().enumerate() {
        let tile = [image / scores.size.images, text / scores.size.captions];
        pairs.entry(tile).or_default().push(text);
    }
    let own = Mutex::new(vec![0f32; image_of_text.len()]);
    scores.each(
        |tile| pairs.contains_key(&tile),
        |Place {
             tile,
             images,
             captions,
         },
         scores| {
            // invariant: the row and column of a pair are those of its tile.
            let mut own = own.lock().expect("invariant: a pair is in its tile");
            for &text in &pairs[tile] {
                let (row, column) = (image_of_text[text] - images.start, text - captions.start);
                own[text] = scores[row * captions.len() + column];
            }
        },
    )?;
    // invariant: as above.
    Ok(own.into_inner().expect("invariant: a pair is in its tile"))
}

fn check_pairs(images: usize, image_of_text: &[usize]) -> Result<(), ZeroShotError> {
    if images == 0 || image_of_text.is_empty() {
        return Err(ZeroShotError::NoSamples);
    }
    let mut captioned = vec![false; images];
    for (caption, &image) in image_of_text.iter().enumerate() {
        *captioned
            .get_mut(image)
            .ok_or(ZeroShotError::CaptionOfNoImage {
                caption,
                image,
                images,
            })? = true;
    }
    match captioned.iter().position(|captioned| !captioned) {
        Some(image) => Err(ZeroShotError::ImageWithoutCaption { image }),
        None => Ok(()),
    }
}

/// For some queries, the candidates above, and at or above, their best right answer.
struct Counts {
    above: Vec<u32>,
    at_least: Vec<u32>,
}

impl Counts {
    fn none(queries: usize) -> Self {
        Self {
            above: vec![0; queries],
            at_least: vec![0; queries],
        }
    }

    /// Adds what was counted of the queries from `first` on.
    fn add(&mut self, first: usize, counted: &Self) {
        let pairs = [
            (&mut self.above, &counted.above),
            (&mut self.at_least, &counted.at_least),
        ];
        for (all, counted) in pairs {
            for (all, counted) in all[first..].iter_mut().zip(counted) {
                *all += counted;
            }
        }
    }

    /// The ranks, given how many right answers each query has.
    fn ranks(self, relevant: Vec<usize>) -> Vec<TiedRank> {
        let counts = self.above.into_iter().zip(self.at_least).zip(relevant);
        counts
            .map(|((above, at_least), relevant)| TiedRank {
                better: above as usize,
                tied: (at_least - above) as usize,
                relevant,
            })
            .collect()
    }
}

/// Counts a tile's scores against the right answers of its rows (images) and of its columns (captions).
fn count(scores: &[f32], best: &[f32], own: &[f32]) -> (Counts, Counts) {
    let (mut rows, mut columns) = (Counts::none(best.len()), Counts::none(own.len()));
    for (row, (scores, &best)) in scores.chunks_exact(own.len()).zip(best).enumerate() {
        let (mut above, mut at_least) = (0, 0);
        let columns = columns.above.iter_mut().zip(&mut columns.at_least);
        for ((&score, &own), (column_above, column_at_least)) in scores.iter().zip(own).zip(columns)
        {
            above += u32::from(score > best);
            at_least += u32::from(score >= best);
            *column_above += u32::from(score > own);
            *column_at_least += u32::from(score >= own);
        }
        rows.above[row] = above;
        rows.at_least[row] = at_least;
    }
    (rows, columns)
}

fn report(images: &[TiedRank], captions: &[TiedRank]) -> RetrievalReport {
    let recall = |ranks: &[TiedRank], k| {
        ranks.iter().map(|rank| rank.recall_at(k)).sum::<f64>() / ranks.len() as f64
    };
    let mean =
        |ranks: &[TiedRank]| ranks.iter().map(|rank| rank.rank()).sum::<f64>() / ranks.len() as f64;
    RetrievalReport {
        i2t_r1: recall(images, 1),
        i2t_r5: recall(images, 5),
        i2t_r10: recall(images, 10),
        t2i_r1: recall(captions, 1),
        t2i_r5: recall(captions, 5),
        t2i_r10: recall(captions, 10),
        i2t_median_rank: median(images),
        t2i_median_rank: median(captions),
        i2t_mean_rank: mean(images),
        t2i_mean_rank: mean(captions),
        images: images.len(),
        captions: captions.len(),
    }
}

/// OpenCLIP's `floor(median(rank from 0)) + 1`.
fn median(ranks: &[TiedRank]) -> f64 {
    let mut ranks: Vec<f64> = ranks.iter().map(|rank| rank.rank()).collect();
    ranks.sort_by(f64::total_cmp);
    let (low, high) = (ranks[(ranks.len() - 1) / 2], ranks[ranks.len() / 2]);
    f64::midpoint(low, high).floor()
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, Distribution};

    use super::*;
    use crate::features::from_host;

    fn random(rows: usize, columns: usize, seed: u64) -> Tensor<2> {
        use rand::{RngExt, SeedableRng};
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let values = (0..rows * columns).map(|_| rng.random_range(-1.0..1.0));
        from_host(values.collect(), [rows, columns], &Device::flex())
    }

    fn close(got: f64, expected: f64) {
        assert!(
            (got - expected).abs() < 1e-9,
            "got {got}, expected {expected}"
        );
    }

    #[test]
    fn figures_are_those_counted_by_hand() {
        // Cosines of captions (columns) with images (rows), made by one-hot captions:
        //   image 0: 0.9 0.1 0.3   its captions: 0, 2
        //   image 1: 0.8 0.2 0.4   its caption: 1
        let image = |a: f32, b: f32, c: f32| [a, b, c, (1.0 - a * a - b * b - c * c).sqrt()];
        let images = [image(0.9, 0.1, 0.3), image(0.8, 0.2, 0.4)].concat();
        let images = from_host(images, [2, 4], &Device::flex());
        let texts = Tensor::<2>::eye(4, &Device::flex()).slice(0..3);
        let Retrieval { report, .. } = retrieve(images, texts, &[0, 1, 0]).unwrap();
        // Image 0 finds caption 0 at once; image 1 finds caption 1 third.
        close(report.i2t_r1, 0.5);
        close(report.i2t_r5, 1.0);
        close(report.i2t_mean_rank, 2.0);
        close(report.i2t_median_rank, 2.0);
        // Captions 0 and 1 find their images first, caption 2 second.
        close(report.t2i_r1, 2.0 / 3.0);
        close(report.t2i_mean_rank, 4.0 / 3.0);
        close(report.t2i_median_rank, 1.0);
        assert_eq!((report.images, report.captions), (2, 3));
    }

    #[test]
    fn a_model_that_knows_nothing_scores_chance() {
        let device = Device::flex();
        let constant = |rows| Tensor::<2>::ones([rows, 33], &device) * 0.3;
        let image_of_text: Vec<usize> = (0..500).map(|text| text / 5).collect();
        let Retrieval { report, .. } = retrieve_in_tiles(
            constant(100),
            constant(500),
            &image_of_text,
            TileSize {
                images: 37,
                captions: 129,
                images_at_once: 2,
            },
        )
        .unwrap();
        // Five of 500 captions are right; k drawn at random miss them all with C(495, k) / C(500, k).
        let missed = |k: u32| {
            (0..k)
                .map(|at| f64::from(495 - at) / f64::from(500 - at))
                .product::<f64>()
        };
        close(report.i2t_r1, 0.01);
        close(report.i2t_r5, 1.0 - missed(5));
        close(report.i2t_r10, 1.0 - missed(10));
        close(report.t2i_r1, 0.01);
        close(report.t2i_r5, 0.05);
        close(report.t2i_r10, 0.1);
        close(report.i2t_mean_rank, 501.0 / 6.0);
        close(report.t2i_mean_rank, 50.5);
    }

    #[test]
    fn tiles_change_nothing() {
        let (images, texts) = (random(150, 16, 1), random(2000, 16, 2));
        let image_of_text: Vec<usize> = (0..2000).map(|text| (text * 7) % 150).collect();
        let whole = retrieve(images.clone(), texts.clone(), &image_of_text).unwrap();
        let tiled = retrieve_in_tiles(
            images,
            texts,
            &image_of_text,
            TileSize {
                images: 16,
                captions: 48,
                images_at_once: 3,
            },
        )
        .unwrap();
        assert_eq!(whole, tiled);
    }

    #[test]
    fn half_precision_features_are_compared_without_loss_of_their_own() {
        let (images, texts) = (random(40, 8, 6), random(120, 8, 7));
        let image_of_text: Vec<usize> = (0..120).map(|text| text / 3).collect();
        let (images, texts) = (images.cast(DType::F16), texts.cast(DType::F16));
        let half = retrieve(images.clone(), texts.clone(), &image_of_text).unwrap();
        let (images, texts) = (images.cast(DType::F32), texts.cast(DType::F32));
        assert_eq!(half, retrieve(images, texts, &image_of_text).unwrap());
    }

    #[test]
    fn reordering_captions_changes_no_figure_and_scaling_features_none_either() {
        let (images, texts) = (random(40, 8, 3), random(120, 8, 4));
        let image_of_text: Vec<usize> = (0..120).map(|text| text / 3).collect();
        let expected = retrieve(images.clone(), texts.clone(), &image_of_text).unwrap();
        let reversed: Vec<usize> = image_of_text.iter().rev().copied().collect();
        let mut got = retrieve(images * 4.0, texts.flip([0]), &reversed).unwrap();
        got.captions.reverse();
        assert_eq!(got.images, expected.images);
        assert_eq!(got.captions, expected.captions);
    }

    #[test]
    fn perfect_features_find_everything() {
        let texts = random(30, 16, 5);
        let image_of_text: Vec<usize> = (0..30).collect();
        let Retrieval { report, .. } = retrieve(texts.clone(), texts, &image_of_text).unwrap();
        close(report.i2t_r1, 1.0);
        close(report.t2i_r1, 1.0);
        close(report.t2i_mean_rank, 1.0);
    }

    #[test]
    fn what_cannot_be_ranked_is_refused_by_place() {
        let features =
            |rows| Tensor::<2>::random([rows, 4], Distribution::Default, &Device::flex());
        let error = |images, texts, pairs: &[usize]| {
            retrieve(images, texts, pairs).unwrap_err().to_string()
        };
        let orphan = error(features(2), features(3), &[0, 1, 2]);
        assert!(orphan.contains("caption 2 belongs to image 2"), "{orphan}");
        let bare = error(features(2), features(2), &[0, 0]);
        assert!(bare.contains("image 1 has no caption"), "{bare}");
        let nan = from_host(
            vec![1.0, 0.0, 0.0, 0.0, f32::NAN, 0.0, 0.0, 0.0],
            [2, 4],
            &Device::flex(),
        );
        let nan = error(nan, features(2), &[0, 1]);
        assert!(
            nan.contains("the feature of image 1 is not finite"),
            "{nan}"
        );
        assert!(error(features(2), features(3), &[0, 1]).contains("expected shape [2, 4]"));
        assert!(error(features(0), features(0), &[]).contains("no samples"));
    }
}
