//! The figures as a page.

use anyhow::Result;
use burn::tensor::Tensor;
use clip_report::{Candidate, Confusion, Evaluation, Pictured, Reliability};
use clip_zeroshot::{Classifier, ClipEncoders, ShardFeatures};

use super::{Set, measure::Found};
use crate::{
    model::ReadingArgs,
    pages::{at_places, spread, zeroshot_set},
};

/// Images shown of each set.
const SHOWN: usize = 12;
/// Classes shown of each, as in the paper's figure 21.
const CANDIDATES: usize = 5;

pub(super) fn page(model: &str, found: &[Found]) -> Evaluation {
    let classes = |one: &Found| -> Vec<String> {
        let classes = one.report.per_class.iter();
        classes.map(|class| class.name.clone()).collect()
    };
    Evaluation {
        title: model.to_owned(),
        zeroshot: found
            .iter()
            .map(|one| zeroshot_set(&one.set, one.templates, &one.report))
            .collect(),
        confusions: found
            .iter()
            .map(|one| Confusion {
                dataset: title(&one.set),
                classes: classes(one),
                counts: one.confusion.entries().collect(),
            })
            .collect(),
        reliability: found
            .iter()
            .map(|one| Reliability {
                dataset: title(&one.set),
                ece: one.calibration.ece,
                bins: one
                    .calibration
                    .bins
                    .iter()
                    .map(|bin| (bin.confidence, bin.accuracy, bin.samples))
                    .collect(),
            })
            .collect(),
        few_shot: None,
        predictions: found.iter().flat_map(|one| one.pictured.clone()).collect(),
    }
}

/// A set's name above a drawing, where a whole path has no room.
fn title(set: &str) -> String {
    let several = set.contains("::");
    let name = set.rsplit('/').next().filter(|_| !several);
    name.unwrap_or(set).to_owned()
}

/// Some images of a set, evenly among all, with the classes that the model finds likeliest.
pub(super) fn pictured(
    set: &Set,
    encoders: &ClipEncoders,
    reading: &ReadingArgs,
    features: &ShardFeatures,
    classifier: &Classifier,
    labels: &[u32],
) -> Result<Vec<Pictured>> {
    let places = spread(SHOWN, features.keys.len());
    let rows = places
        .iter()
        .map(|&at| features.images.clone().narrow(0, at, 1));
    let found = classifier.top_k(Tensor::cat(rows.collect(), 0), CANDIDATES)?;
    let loader = reading.loader(set.shards.clone(), encoders, set.labels_from.needs())?;
    let pictures = at_places(&loader, &places)?;
    let names = classifier.head().names();
    let predictions = places.iter().zip(pictures).zip(found);
    let predictions = predictions.map(|((&place, image), found)| {
        let label = labels[place] as usize;
        Pictured {
            key: features.keys[place].clone(),
            image,
            truth: Some(names[label].clone()),
            rank: None,
            among: Some(names.len()),
            candidates: found
                .into_iter()
                .map(|found| Candidate {
                    right: found.class == label,
                    probability: f64::from(found.probability),
                    text: found.name,
                })
                .collect(),
        }
    });
    Ok(predictions.collect())
}
