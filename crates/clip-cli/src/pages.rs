//! What pages show of an evaluation: its figures, and images from all over a set.

use anyhow::Result;
use burn::data::dataloader::DataLoader;
use clip_data::EvalLoader;
use clip_report::{ClassRow, Picture, ZeroShotSet};
use clip_zeroshot::ZeroShotReport;

/// The figures of a labelled set, as a page has them: without the classes that no sample is of. `templates` are those of
/// each class's head.
pub(crate) fn zeroshot_set(
    dataset: &str,
    templates: usize,
    report: &ZeroShotReport,
) -> ZeroShotSet {
    let interval = |[low, high]: [f64; 2]| Some((low, high));
    let per_class = report.per_class.iter().filter_map(|class| {
        Some(ClassRow {
            name: class.name.clone(),
            images: class.samples,
            top1: class.accuracy?,
        })
    });
    ZeroShotSet {
        dataset: dataset.to_owned(),
        images: report.samples,
        classes: report.per_class.len(),
        templates,
        top1: report.top1,
        top1_ci95: interval(report.ci95),
        top5: Some(report.top5),
        top5_ci95: interval(report.top5_ci95),
        per_class: per_class.collect(),
    }
}

/// At most `count` places among so many, evenly from the first on.
pub(crate) fn spread(count: usize, among: usize) -> Vec<usize> {
    let count = count.min(among);
    (0..count).map(|place| place * among / count).collect()
}

/// The images at rising places of a set, as the model saw them.
pub(crate) fn at_places(loader: &EvalLoader, places: &[usize]) -> Result<Vec<Picture>> {
    let mut pictures = Vec::with_capacity(places.len());
    let mut before = 0;
    for batch in loader.iter() {
        let batch = batch?;
        let bytes = batch.image_size * batch.image_size * 3;
        let within = before..before + batch.batch;
        for place in places.iter().filter(|place| within.contains(*place)) {
            let start = (place - before) * bytes;
            pictures.push(Picture {
                width: batch.image_size as u32,
                height: batch.image_size as u32,
                rgb: batch.images[start..start + bytes].to_vec(),
            });
        }
        before = within.end;
        if pictures.len() == places.len() {
            break;
        }
    }
    Ok(pictures)
}

#[cfg(test)]
mod tests {
    use clip_zeroshot::ClassAccuracy;

    use super::*;

    #[test]
    fn places_are_spread_over_all() {
        assert_eq!(spread(4, 10), [0, 2, 5, 7]);
        assert_eq!(spread(4, 3), [0, 1, 2]);
        assert!(spread(4, 0).is_empty());
    }

    #[test]
    fn a_class_without_images_is_one_to_choose_from_and_has_no_row() {
        let class = |name: &str, accuracy, samples| ClassAccuracy {
            name: name.to_owned(),
            accuracy,
            samples,
        };
        let report = ZeroShotReport {
            top1: 0.75,
            top5: 1.0,
            mean_per_class: 0.75,
            ci95: [0.5, 0.9],
            top5_ci95: [0.9, 1.0],
            mean_per_class_ci95: [0.5, 0.9],
            samples: 4,
            per_class: vec![class("cat", Some(0.75), 4), class("dog", None, 0)],
        };
        let set = zeroshot_set("pets", 80, &report);
        let cat = ClassRow {
            name: "cat".to_owned(),
            images: 4,
            top1: 0.75,
        };
        assert_eq!((set.classes, set.per_class), (2, vec![cat]));
        assert_eq!((set.top1_ci95, set.top5), (Some((0.5, 0.9)), Some(1.0)));
    }
}
