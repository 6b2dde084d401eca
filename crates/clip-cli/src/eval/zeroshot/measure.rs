//! The evaluation of one set.

use std::path::Path;

use anyhow::{Result, ensure};
use clip_report::Pictured;
use clip_zeroshot::{
    AblationReport, Bootstrap, Calibration, CalibrationReport, ClassNames, Classifier,
    ClipEncoders, ConfusionMatrix, CorruptionKind, GroupReport, ImagePass, ReferenceLine,
    ShardFeatures, TemplateAblation, ZeroShotReport, evaluate_zeroshot,
};
use serde::Serialize;

use super::{Extras, Set, page, severities};
use crate::{classes, model::ReadingArgs};

/// Images whose logits exist at once: of 1,000 classes, 4 MB a template.
const ROWS: usize = 1024;

#[derive(Serialize)]
pub(super) struct Found {
    pub(super) set: String,
    #[serde(flatten)]
    pub(super) report: ZeroShotReport,
    /// Samples that could not be used.
    pub(super) skipped: u64,
    /// Counts of (label, predicted class) that are not zero.
    #[serde(serialize_with = "entries")]
    pub(super) confusion: ConfusionMatrix,
    pub(super) calibration: CalibrationReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ablation: Option<AblationReport>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) groups: Vec<GroupReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) robustness: Option<Robustness>,
    /// Test images with the likeliest classes, for the page.
    #[serde(skip)]
    pub(super) pictured: Vec<Pictured>,
    #[serde(skip)]
    pub(super) templates: usize,
    /// Against the set that this one is a shift of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) shift: Option<Shift>,
}

/// How much corruptions cost.
#[derive(Serialize)]
pub(super) struct Robustness {
    pub(super) corruptions: Vec<CorruptedAccuracy>,
    /// Over all corruptions and severities.
    pub(super) mean_top1: f64,
    /// Top-1 of the clean images less that.
    pub(super) gap: f64,
    #[serde(rename = "effective_robustness")]
    pub(super) effective: Option<f64>,
}

#[derive(Serialize)]
pub(super) struct CorruptedAccuracy {
    pub(super) corruption: CorruptionKind,
    /// Of severities 1 to 5.
    pub(super) top1: Vec<f64>,
    pub(super) mean: f64,
}

#[derive(Serialize)]
pub(super) struct Shift {
    pub(super) of: String,
    pub(super) gap: f64,
    #[serde(rename = "effective_robustness")]
    pub(super) effective: Option<f64>,
}

fn entries<S: serde::Serializer>(
    confusion: &ConfusionMatrix,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(confusion.entries())
}

pub(super) fn measure(
    set: &Set,
    encoders: &ClipEncoders,
    reading: &ReadingArgs,
    head_cache: Option<&Path>,
    extras: &Extras,
) -> Result<Found> {
    let labels_from = set.labels_from.source();
    let encode = |pass| reading.encode(set.shards.clone(), encoders, set.labels_from.needs(), pass);
    let features = encode(ImagePass::default())?;
    let names = set.names.clone();
    let names = names.map_or_else(|| names_of(&features), Ok)?;
    let classifier = classes::classifier(encoders, &names, &set.templates, head_cache)?;
    let bootstrap = Bootstrap::default();
    let evaluator = evaluate_zeroshot(&features, &classifier, labels_from, bootstrap)?;
    let report = evaluator.report()?;
    let labels = features.labels(names.as_slice(), labels_from)?;

    let mut calibration = Calibration::default();
    for start in (0..labels.len()).step_by(ROWS) {
        let end = labels.len().min(start + ROWS);
        let images = features.images.clone().slice(start..end);
        calibration.add(classifier.probabilities(images)?, &labels[start..end])?;
    }
    let ablation = extras
        .ablation
        .then(|| ablation(set, encoders, &names, &features, &labels))
        .transpose()?;
    let levels = set.groups.iter();
    let levels = levels.flat_map(|votes| votes.levels(names.as_slice()));
    let groups = levels.filter_map(|level| level.report(evaluator.confusion()));
    let groups = groups.collect();
    let mut corruptions = Vec::new();
    for &kind in &extras.corruptions {
        corruptions.push(corrupted(kind, &encode, &classifier, set)?);
    }
    Ok(Found {
        set: set.name.clone(),
        robustness: robustness(corruptions, report.top1, extras.reference),
        report,
        skipped: features.faults.bad(),
        confusion: evaluator.confusion().clone(),
        calibration: calibration.report(),
        pictured: if extras.pictured {
            page::pictured(set, encoders, reading, &features, &classifier, &labels)?
        } else {
            Vec::new()
        },
        templates: set.templates.as_slice().len(),
        ablation,
        groups,
        shift: None,
    })
}

/// The captions as class names.
fn names_of(features: &ShardFeatures) -> Result<ClassNames> {
    let captions = features.distinct_captions();
    ensure!(
        captions.len() > 1,
        "all captions are the same, so there is nothing to tell apart: give the class names with --classes"
    );
    Ok(ClassNames::from_list(&captions, "the shards' captions")?)
}

fn ablation(
    set: &Set,
    encoders: &ClipEncoders,
    names: &ClassNames,
    features: &ShardFeatures,
    labels: &[u32],
) -> Result<AblationReport> {
    let factor = encoders.temperature_factor();
    let bootstrap = Bootstrap::default();
    let mut ablation = TemplateAblation::new(encoders, names, &set.templates, factor, bootstrap)?;
    for start in (0..labels.len()).step_by(ROWS) {
        let end = labels.len().min(start + ROWS);
        ablation.add(
            features.images.clone().slice(start..end),
            &labels[start..end],
        )?;
    }
    Ok(ablation.report()?)
}

fn corrupted(
    kind: CorruptionKind,
    encode: &impl Fn(ImagePass) -> Result<ShardFeatures>,
    classifier: &Classifier,
    set: &Set,
) -> Result<CorruptedAccuracy> {
    let mut top1 = Vec::new();
    for corruption in severities(kind) {
        let features = encode(ImagePass {
            corruption: Some(corruption),
            ..ImagePass::default()
        })?;
        // Intervals are those of the clean images.
        let bootstrap = Bootstrap {
            resamples: 1,
            ..Bootstrap::default()
        };
        let labels = set.labels_from.source();
        let evaluator = evaluate_zeroshot(&features, classifier, labels, bootstrap)?;
        top1.push(evaluator.report()?.top1);
        log::info!("{kind}: {} severities done", top1.len());
    }
    Ok(CorruptedAccuracy {
        corruption: kind,
        mean: top1.iter().sum::<f64>() / top1.len() as f64,
        top1,
    })
}

fn robustness(
    corruptions: Vec<CorruptedAccuracy>,
    clean: f64,
    reference: Option<ReferenceLine>,
) -> Option<Robustness> {
    if corruptions.is_empty() {
        return None;
    }
    let sum: f64 = corruptions.iter().map(|one| one.mean).sum();
    let mean_top1 = sum / corruptions.len() as f64;
    Some(Robustness {
        corruptions,
        mean_top1,
        gap: clean - mean_top1,
        effective: reference.map(|line| line.effective_robustness(clean, mean_top1)),
    })
}

/// Compares the sets that are shifts with the sets that they are shifts of.
pub(super) fn shifts(found: &mut [Found], sets: &[Set], reference: Option<ReferenceLine>) {
    for at in 0..found.len() {
        let Some(of) = &sets[at].shift_of else {
            continue;
        };
        let clean = found.iter().find(|one| &one.set == of);
        let Some(clean) = clean.map(|one| one.report.top1) else {
            continue;
        };
        let shifted = found[at].report.top1;
        found[at].shift = Some(Shift {
            of: of.clone(),
            gap: clean - shifted,
            effective: reference.map(|line| line.effective_robustness(clean, shifted)),
        });
    }
}
