//! The figures as tables.

use anyhow::Result;
use clip_metrics::percent;

use super::measure::{Found, Robustness};
use crate::output;

/// Confusions that the table shows.
const CONFUSIONS: usize = 5;

/// Points of a hundred, with their sign.
fn points(share: f64) -> String {
    format!("{:+.1}", 100.0 * share)
}

/// A line a set.
pub(super) fn overview(found: &[Found]) -> Result<()> {
    let head = [
        "set",
        "samples",
        "classes",
        "top-1",
        "95% of resamples",
        "top-5",
        "mean of classes",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    for one in found {
        let report = &one.report;
        let [low, high] = report.ci95.map(percent);
        rows.push([
            one.set.clone(),
            report.samples.to_string(),
            report.per_class.len().to_string(),
            percent(report.top1),
            format!("{low} to {high}"),
            percent(report.top5),
            percent(report.mean_per_class),
        ]);
    }
    output::table(&rows)
}

/// All about one set; `among` others, whose overview was printed.
pub(super) fn details(found: &Found, among: bool) -> Result<()> {
    let report = &found.report;
    if among {
        output::line("")?;
        output::line(&found.set)?;
    } else {
        output::line(&format!(
            "{} samples, {} classes",
            report.samples,
            report.per_class.len()
        ))?;
        let row = |name: &str, share: f64, interval: [f64; 2]| {
            let [low, high] = interval.map(percent);
            let interval = format!("95% of resamples: {low} to {high}");
            [name.to_owned(), percent(share), interval]
        };
        let per_class = report.mean_per_class;
        output::table(&[
            row("top-1", report.top1, report.ci95),
            row("top-5", report.top5, report.top5_ci95),
            row("mean of classes", per_class, report.mean_per_class_ci95),
        ])?;
    }
    let name = |class: usize| report.per_class[class].name.as_str();
    for (label, predicted, count) in found.confusion.worst().into_iter().take(CONFUSIONS) {
        let (label, predicted) = (name(label), name(predicted));
        output::line(&format!("{count} x {label} taken for {predicted}"))?;
    }
    for group in &found.groups {
        output::line(&format!(
            "{} found: {} ({} of them)",
            group.level,
            percent(group.accuracy),
            group.per_group.len()
        ))?;
    }
    if let Some(shift) = &found.shift {
        let effective = effective(shift.effective);
        let gap = points(-shift.gap);
        output::line(&format!("{gap} points against {}{effective}", shift.of))?;
    }
    if let Some(ablation) = &found.ablation {
        output::line(&format!(
            "{} templates together {}, alone {} on average; {} points against the best alone",
            ablation.templates.len(),
            percent(ablation.ensemble.top1),
            percent(ablation.mean_single_top1),
            points(ablation.gain_over_best)
        ))?;
        let rows: Vec<_> = ablation
            .templates
            .iter()
            .map(|score| [percent(score.top1), score.template.clone()])
            .collect();
        output::table(&rows)?;
    }
    match &found.robustness {
        Some(robustness) => corruptions(robustness),
        None => Ok(()),
    }
}

fn corruptions(robustness: &Robustness) -> Result<()> {
    let head = ["corruption", "1", "2", "3", "4", "5", "mean"].map(str::to_owned);
    let mut rows = vec![head.to_vec()];
    for one in &robustness.corruptions {
        let shares = one.top1.iter().chain([&one.mean]);
        let mut row = vec![one.corruption.to_string()];
        row.extend(shares.map(|&share| percent(share)));
        rows.push(row);
    }
    output::table(&rows)?;
    output::line(&format!(
        "top-1 under corruptions: {}, {} points against clean images{}",
        percent(robustness.mean_top1),
        points(-robustness.gap),
        effective(robustness.effective)
    ))
}

fn effective(robustness: Option<f64>) -> String {
    robustness.map_or(String::new(), |robustness| {
        let points = points(robustness);
        format!("; effective robustness {points} points")
    })
}
