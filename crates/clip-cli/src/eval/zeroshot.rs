//! `clip eval zeroshot`.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use clip_data::EvalNeeds;
use clip_zeroshot::{
    Bootstrap, ClassNames, LabelSource, ShardFeatures, ZeroShotEvaluator, ZeroShotReport,
    evaluate_zeroshot,
};
use serde::Serialize;

use crate::{
    classes::{self, TemplateArgs},
    device::DeviceName,
    model::{ModelArgs, ShardArgs},
    output,
};

/// Confusions that the table shows.
const CONFUSIONS: usize = 5;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    shards: ShardArgs,
    /// The classes' names, one a line, or a Python or JSON list; a sample's class is a position in it, from 0. May
    /// be left out with `--labels-from caption`: then every distinct caption is a class.
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "labels_from",
        required_if_eq("labels_from", "cls")
    )]
    classes: Option<PathBuf>,
    /// Let two classes have the same name, as some published lists need.
    #[arg(long)]
    allow_duplicates: bool,
    #[command(flatten)]
    templates: TemplateArgs,
    /// Where a sample's class is written: its number in `.cls`, or its name as the first caption.
    #[arg(long, value_name = "WHERE")]
    labels_from: Option<LabelsFrom>,
    /// Keep classifier heads in this folder and use them again.
    #[arg(long, value_name = "DIR")]
    head_cache: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum LabelsFrom {
    /// The number in `.cls`.
    Cls,
    /// The first caption, which is a class name.
    #[value(alias = "txt")]
    Caption,
}

#[derive(Serialize)]
struct Found {
    #[serde(flatten)]
    report: ZeroShotReport,
    /// Samples that could not be used.
    skipped: u64,
}

pub(crate) fn run(args: &Args, device: Option<DeviceName>) -> Result<()> {
    // Files with names are read before the model, which takes longer.
    let templates = args.templates.read()?;
    let named = args.classes.as_deref();
    let named = named.map(|path| classes::read_names(path, args.allow_duplicates));
    let named = named.transpose()?;
    let (source, needs) = match args.labels_from {
        None | Some(LabelsFrom::Cls) => (LabelSource::Class, EvalNeeds::Classes),
        Some(LabelsFrom::Caption) => (LabelSource::Caption, EvalNeeds::Captions),
    };
    let shards = args.shards.find()?;
    let encoders = args.model.load(device)?;
    let features = args.shards.encode(shards, &encoders, needs)?;
    let names = named.map_or_else(|| names_of(&features), Ok)?;
    let cache = args.head_cache.as_deref();
    let classifier = classes::classifier(&encoders, &names, &templates, cache)?;
    let evaluator = evaluate_zeroshot(&features, &classifier, source, Bootstrap::default())?;
    let report = evaluator.report()?;
    if args.json {
        let skipped = features.faults.bad();
        return output::line(&serde_json::to_string(&Found { report, skipped })?);
    }
    print(&report, &evaluator, &names)
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

fn print(report: &ZeroShotReport, evaluator: &ZeroShotEvaluator, names: &ClassNames) -> Result<()> {
    let row = |name: &str, share: f64, [low, high]: [f64; 2]| {
        let [share, low, high] = [share, low, high].map(|share| 100.0 * share);
        [
            name.to_owned(),
            format!("{share:.1}%"),
            format!("95% of resamples: {low:.1}% to {high:.1}%"),
        ]
    };
    output::line(&format!(
        "{} samples, {} classes",
        report.samples,
        names.len()
    ))?;
    output::table(&[
        row("top-1", report.top1, report.ci95),
        row("top-5", report.top5, report.top5_ci95),
        row(
            "mean of classes",
            report.mean_per_class,
            report.mean_per_class_ci95,
        ),
    ])?;
    let name = |class: usize| names.as_slice()[class].as_str();
    for (label, predicted, count) in evaluator.confusion().worst().into_iter().take(CONFUSIONS) {
        let (label, predicted) = (name(label), name(predicted));
        output::line(&format!("{count} x {label} taken for {predicted}"))?;
    }
    Ok(())
}
