use clip_metrics::{Kind, Measured};

/// The figures of a retrieval. Recalls are fractions between 0 and 1, ranks count from 1.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct RetrievalReport {
    /// Share of images with one of their captions in first place.
    pub i2t_r1: f64,
    /// Share of images with one of their captions among the first 5.
    pub i2t_r5: f64,
    /// Share of images with one of their captions among the first 10.
    pub i2t_r10: f64,
    /// Share of captions with their image in first place.
    pub t2i_r1: f64,
    /// Share of captions with their image among the first 5.
    pub t2i_r5: f64,
    /// Share of captions with their image among the first 10.
    pub t2i_r10: f64,
    /// Median over images of the rank of their best caption, rounded down as in OpenCLIP.
    pub i2t_median_rank: f64,
    /// Median over captions of their image's rank, rounded down as in OpenCLIP.
    pub t2i_median_rank: f64,
    /// Mean over images of the rank of their best caption.
    pub i2t_mean_rank: f64,
    /// Mean over captions of their image's rank.
    pub t2i_mean_rank: f64,
    /// How many images.
    pub images: usize,
    /// How many captions.
    pub captions: usize,
}

/// A figure that a run is followed by: its key, what it is, and where it stands.
type Figure = (&'static str, Kind, fn(&RetrievalReport) -> f64);

/// In the order of files. A key is its field's name.
const FIGURES: [Figure; 8] = [
    ("i2t_r1", Kind::Share, |report| report.i2t_r1),
    ("i2t_r5", Kind::Share, |report| report.i2t_r5),
    ("i2t_r10", Kind::Share, |report| report.i2t_r10),
    ("t2i_r1", Kind::Share, |report| report.t2i_r1),
    ("t2i_r5", Kind::Share, |report| report.t2i_r5),
    ("t2i_r10", Kind::Share, |report| report.t2i_r10),
    ("i2t_median_rank", Kind::Rank, |report| {
        report.i2t_median_rank
    }),
    ("t2i_median_rank", Kind::Rank, |report| {
        report.t2i_median_rank
    }),
];

impl RetrievalReport {
    /// The keys of what [`named`](Self::named) gives, and what each is.
    pub fn keys() -> impl Iterator<Item = (&'static str, Kind)> {
        FIGURES.into_iter().map(|(key, kind, _)| (key, kind))
    }

    /// The figures that a run is followed by, under their keys: recalls and median ranks.
    pub fn named(&self) -> Vec<Measured> {
        let figures = FIGURES.into_iter();
        figures
            .map(|(key, kind, figure)| Measured::new(key, kind, figure(self)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use clip_metrics::{Direction, RECALLED_AT};

    use super::*;

    #[test]
    fn a_figure_stands_under_its_fields_name_and_its_key_tells_its_kind() {
        let report = RetrievalReport {
            i2t_r1: 0.1,
            i2t_r5: 0.2,
            i2t_r10: 0.3,
            t2i_r1: 0.4,
            t2i_r5: 0.5,
            t2i_r10: 0.6,
            i2t_median_rank: 7.0,
            t2i_median_rank: 8.0,
            i2t_mean_rank: 9.0,
            t2i_mean_rank: 10.0,
            images: 11,
            captions: 12,
        };
        let fields = serde_json::to_value(&report).unwrap();
        let named = report.named();
        for Measured { key, kind, value } in &named {
            assert_eq!(fields[key], *value, "{key}");
            assert_eq!(Kind::of_key(key), Some(*kind), "{key}");
        }
        for direction in Direction::BOTH {
            for key in RECALLED_AT.map(|k| direction.recall(k)) {
                assert!(named.iter().any(|measured| measured.key == key), "{key}");
            }
        }
    }
}
