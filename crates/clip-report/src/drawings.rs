//! What an evaluation's page draws, which can be files too.

use crate::{
    Confusion, FewShotCurve, Pictured, Reliability,
    drawing::Drawing,
    html::{escape, percent, push},
};

/// More classes than this leave no room for their names beside a matrix.
const MATRIX_CLASSES: usize = 40;
/// Side of the square drawings, in their own units, and the room for labels at their left and below.
const SIDE: f64 = 340.0;
const MARGIN: f64 = 100.0;
/// For the right half of the last label below, and the upper half of the first at the left.
const RIGHT: f64 = 20.0;
const TOP: f64 = 12.0;

/// Of the grid of images: three in a row, each beside five lines.
const COLUMNS: usize = 3;
const THUMB: f64 = 112.0;
const LINE: f64 = 19.0;
const CARD_WIDTH: f64 = 340.0;
const CARD_HEIGHT: f64 = 116.0;
const GAP: f64 = 20.0;

fn square(title: String, summary: String, elements: String) -> Drawing {
    Drawing {
        title,
        summary,
        width: SIDE + MARGIN + RIGHT,
        height: SIDE + MARGIN + TOP,
        elements: format!("<g transform=\"translate(0 {TOP})\">{elements}</g>"),
    }
}

/// A square for each label and predicted class, as dark as it is frequent; `None` of too many classes.
pub(crate) fn confusion(confusion: &Confusion) -> Option<Drawing> {
    let classes = confusion.classes.len();
    if classes == 0 || classes > MATRIX_CLASSES {
        return None;
    }
    let mut sums = vec![0; classes];
    for (label, _, count) in &confusion.counts {
        sums[*label] += count;
    }
    let cell = SIDE / classes as f64;
    let title = escape(&confusion.dataset);
    let mut html = String::new();
    for (label, predicted, count) in &confusion.counts {
        let share = *count as f64 / sums[*label] as f64;
        let class = if label == predicted { "right" } else { "wrong" };
        push(
            &mut html,
            format_args!(
                "<rect class=\"cell {class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{cell:.2}\" \
                 height=\"{cell:.2}\" fill-opacity=\"{:.3}\"><title>{} taken for {}: {count}, {}</title></rect>",
                MARGIN + *predicted as f64 * cell,
                *label as f64 * cell,
                // The square root keeps rare confusions visible.
                share.sqrt(),
                escape(&confusion.classes[*label]),
                escape(&confusion.classes[*predicted]),
                percent(share)
            ),
        );
    }
    let font = (0.75 * cell).clamp(5.0, 12.0);
    for (at, class) in confusion.classes.iter().enumerate() {
        let short: String = class.chars().take(16).collect();
        let (short, middle) = (escape(&short), (at as f64 + 0.5) * cell);
        let (x, y) = (MARGIN + middle, SIDE + 6.0);
        push(
            &mut html,
            format_args!(
                "<text style=\"font-size:{font:.1}px\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{short}</text>\
                 <text style=\"font-size:{font:.1}px\" transform=\"translate({x:.1} {y:.1}) rotate(-60)\" \
                 text-anchor=\"end\" dominant-baseline=\"middle\">{short}</text>",
                MARGIN - 5.0,
                middle + 0.35 * font
            ),
        );
    }
    let summary = format!("Confusions of {classes} classes");
    Some(square(title, summary, html))
}

/// Lines at every fifth of a square from 0 to 100%, with their labels: across and upwards.
fn percent_grid(html: &mut String, across: bool) {
    for tick in 0..=5 {
        let share = f64::from(tick) / 5.0;
        let y = (1.0 - share) * SIDE;
        push(
            html,
            format_args!(
                "<path class=\"grid\" d=\"M{MARGIN} {y:.1}H{:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{:.0}%</text>",
                MARGIN + SIDE,
                MARGIN - 6.0,
                y + 4.0,
                100.0 * share
            ),
        );
        if across {
            push(
                html,
                format_args!(
                    "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{:.0}%</text>",
                    MARGIN + share * SIDE,
                    SIDE + 18.0,
                    100.0 * share
                ),
            );
        }
    }
}

fn axis(html: &mut String, label: &str) {
    let x = MARGIN + 0.5 * SIDE;
    let y = SIDE + 40.0;
    push(
        html,
        format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{label}</text>"),
    );
}

/// Accuracy over confidence, with the diagonal of a model that is right as often as it says.
pub(crate) fn reliability(reliability: &Reliability) -> Drawing {
    let name = escape(&reliability.dataset);
    let title = format!("{name}: calibration error {}", percent(reliability.ece));
    let mut html = String::new();
    percent_grid(&mut html, true);
    axis(&mut html, "confidence; upwards: share that is right");
    let right = MARGIN + SIDE;
    push(
        &mut html,
        format_args!("<path class=\"reference\" d=\"M{MARGIN} {SIDE}L{right} 0\"/>"),
    );
    let place = |x: f64, y: f64| (MARGIN + x * SIDE, (1.0 - y) * SIDE);
    let path: Vec<String> = reliability
        .bins
        .iter()
        .map(|(confidence, accuracy, _)| {
            let (x, y) = place(*confidence, *accuracy);
            format!("{x:.1} {y:.1}")
        })
        .collect();
    push(
        &mut html,
        format_args!("<path class=\"line s0\" d=\"M{}\"/>", path.join("L")),
    );
    let all: usize = reliability.bins.iter().map(|(_, _, count)| count).sum();
    for (confidence, accuracy, count) in &reliability.bins {
        let (x, y) = place(*confidence, *accuracy);
        let radius = 2.0 + 12.0 * (*count as f64 / all.max(1) as f64).sqrt();
        push(
            &mut html,
            format_args!(
                "<circle class=\"s0\" fill-opacity=\"0.6\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\">\
                 <title>confidence {}, right {}, {count} images</title></circle>",
                percent(*confidence),
                percent(*accuracy)
            ),
        );
    }
    square(title.clone(), title, html)
}

/// Accuracy over the logarithm of examples a class.
pub(crate) fn few_shot(curve: &FewShotCurve) -> Drawing {
    let summary = match (curve.zero_shot, curve.break_even) {
        (Some(zero_shot), Some(shots)) => {
            // Fewer than were tried might do.
            let first = curve.points.first();
            let is_bound = first.is_some_and(|(_, accuracy)| *accuracy >= zero_shot);
            format!(
                "Zero-shot, {}, is matched by {}{shots:.1} examples a class.",
                percent(zero_shot),
                if is_bound { "at most " } else { "" }
            )
        }
        (Some(zero_shot), None) => format!(
            "Zero-shot, {}, is better than every probe on few examples.",
            percent(zero_shot)
        ),
        _ => String::new(),
    };
    let mut html = String::new();
    percent_grid(&mut html, false);
    axis(&mut html, "examples a class");
    let most = curve
        .points
        .iter()
        .map(|(shots, _)| *shots)
        .max()
        .unwrap_or(1);
    let across = |shots: usize| {
        let share = (shots as f64).ln() / (most as f64).ln().max(1e-9);
        MARGIN + share.min(1.0) * (SIDE - 12.0) + 6.0
    };
    for (value, label) in [
        (curve.zero_shot, "zero-shot"),
        (Some(curve.full), "all examples"),
    ] {
        let Some(value) = value else { continue };
        let (y, right) = ((1.0 - value) * SIDE, MARGIN + SIDE);
        push(
            &mut html,
            format_args!(
                "<path class=\"reference\" d=\"M{MARGIN} {y:.1}H{right}\"/><text class=\"reference\" \
                 x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                y - 4.0
            ),
        );
    }
    let mut points: Vec<String> = Vec::new();
    for (shots, accuracy) in &curve.points {
        let (x, y) = (across(*shots), (1.0 - accuracy) * SIDE);
        points.push(format!("{x:.1} {y:.1}"));
        push(
            &mut html,
            format_args!(
                "<circle class=\"s0\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"><title>{}</title></circle>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{shots}</text>",
                percent(*accuracy),
                SIDE + 18.0
            ),
        );
    }
    push(
        &mut html,
        format_args!("<path class=\"line s0\" d=\"M{}\"/>", points.join("L")),
    );
    square("Accuracy by examples a class".to_owned(), summary, html)
}

/// Images with their likeliest classes and their probabilities, in the manner of the paper's figure 21.
pub(crate) fn predictions(predictions: &[Pictured]) -> Drawing {
    let mut html = String::new();
    let mut rows = 0;
    for (at, prediction) in predictions.iter().enumerate() {
        let (column, row) = (at % COLUMNS, at / COLUMNS);
        rows = row + 1;
        let x = GAP + column as f64 * (CARD_WIDTH + GAP);
        let y = GAP + row as f64 * (CARD_HEIGHT + GAP);
        push(
            &mut html,
            format_args!("<g transform=\"translate({x:.0} {y:.0})\">"),
        );
        card(&mut html, prediction);
        html.push_str("</g>");
    }
    Drawing {
        title: "What it sees".to_owned(),
        summary: format!("{} images with their likeliest classes", predictions.len()),
        width: GAP + COLUMNS.min(predictions.len()) as f64 * (CARD_WIDTH + GAP),
        height: GAP + rows as f64 * (CARD_HEIGHT + GAP),
        elements: html,
    }
}

fn card(html: &mut String, prediction: &Pictured) {
    if let Some(url) = prediction.image.data_url() {
        push(
            html,
            format_args!("<image width=\"{THUMB}\" height=\"{THUMB}\" href=\"{url}\"/>"),
        );
    }
    let right = prediction.candidates.iter().find(|one| one.right);
    let truth = right.map(|one| &one.text).or(prediction.truth.as_ref());
    let left = THUMB + 10.0;
    push(
        html,
        format_args!(
            "<text class=\"truth\" x=\"{left}\" y=\"11\">{}</text>",
            short(truth.map_or("", String::as_str))
        ),
    );
    for (place, candidate) in prediction.candidates.iter().enumerate() {
        let y = 19.0 + place as f64 * LINE;
        let class = if candidate.right { "right" } else { "wrong" };
        let share = candidate.probability.clamp(0.0, 1.0);
        push(
            html,
            format_args!(
                "<rect class=\"bar {class}\" x=\"{left}\" y=\"{y}\" width=\"{:.1}\" height=\"{:.0}\"/>\
                 <text x=\"{:.0}\" y=\"{:.0}\">{}</text>\
                 <text x=\"{CARD_WIDTH}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>",
                share * (CARD_WIDTH - left),
                LINE - 3.0,
                left + 4.0,
                y + LINE - 7.0,
                short(&candidate.text),
                y + LINE - 7.0,
                percent(share)
            ),
        );
    }
}

/// As much of a name as there is room for.
fn short(name: &str) -> String {
    let mut short: String = name.chars().take(26).collect();
    if short.len() < name.len() {
        short.push('…');
    }
    escape(&short)
}
