use std::{io, path::Path};

use super::{
    Prediction, ZeroShot,
    html::{caption, escape, percent, push, section, table},
    page::document,
    results,
};
use crate::progress::replace_file;

/// More classes than this leave no room for their names beside a matrix.
const MATRIX_CLASSES: usize = 40;
/// Confusions listed where the matrix is not drawn.
const CONFUSIONS_SHOWN: usize = 20;
/// Side of the square drawings, in their own units, and the room for labels at their left and below.
const SIDE: f64 = 340.0;
const MARGIN: f64 = 100.0;

/// An evaluation on one page that needs nothing else. What was not measured stays empty, and its section is left out.
#[derive(Debug, Clone, Default)]
pub struct Evaluation {
    /// The page's heading: the model.
    pub title: String,
    /// Zero-shot accuracy on each set.
    pub zeroshot: Vec<ZeroShot>,
    /// Which classes are taken for which, on each set.
    pub confusions: Vec<Confusion>,
    /// Whether the model is right as often as it says, on each set.
    pub reliability: Vec<Reliability>,
    /// Linear probes on few examples.
    pub few_shot: Option<FewShotCurve>,
    /// Test images with the classes that the model finds likeliest.
    pub predictions: Vec<Prediction>,
}

/// How often samples of one class were taken for another.
#[derive(Debug, Clone, Default)]
pub struct Confusion {
    /// Name of the set.
    pub dataset: String,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Label, predicted class and count, where it is not zero.
    pub counts: Vec<(usize, usize, usize)>,
}

/// Accuracy at rising confidence.
#[derive(Debug, Clone, Default)]
pub struct Reliability {
    /// Name of the set.
    pub dataset: String,
    /// Expected calibration error.
    pub ece: f64,
    /// Mean confidence, accuracy and number of predictions in each interval.
    pub bins: Vec<(f64, f64, usize)>,
}

/// Accuracy of linear probes by examples a class, against the zero-shot classifier.
#[derive(Debug, Clone, Default)]
pub struct FewShotCurve {
    /// Examples a class, and accuracy.
    pub points: Vec<(usize, f64)>,
    /// Accuracy of the probe that is fitted to all examples.
    pub full: f64,
    /// Accuracy of the zero-shot classifier, if it was measured.
    pub zero_shot: Option<f64>,
    /// Examples a class at which a probe matches it.
    pub break_even: Option<f64>,
}

impl Evaluation {
    /// The page.
    pub fn to_html(&self) -> String {
        let title = escape(&self.title);
        let mut body = format!(
            "<header><p class=\"eyebrow\">CLIP evaluation</p><h1>{title}</h1></header>\n<main>\n"
        );
        body += &results::zeroshot(&self.zeroshot);
        let drawn: String = self.confusions.iter().map(confusion).collect();
        if !drawn.is_empty() {
            let lead = "<p class=\"lead\">Rows are what a sample is, columns what it was taken for; \
                        each row adds up to 100%.</p>";
            body += &section("confusion", "Confusions", &format!("{lead}{drawn}"));
        }
        if let Some(curve) = &self.few_shot {
            body += &section(
                "few-shot",
                "Linear probes on few examples",
                &few_shot(curve),
            );
        }
        let drawn: String = self.reliability.iter().map(reliability).collect();
        if !drawn.is_empty() {
            let lead = "<p class=\"lead\">Of the predictions made with a probability, as many should be \
                        right: the diagonal. Circles are as large as the share of predictions.</p>";
            let drawn = format!("{lead}<div class=\"charts\">{drawn}</div>");
            body += &section("reliability", "Reliability", &drawn);
        }
        body += &results::predictions(&self.predictions);
        body += "</main>\n";
        document(&format!("{} · CLIP evaluation", self.title), &body, None)
    }

    /// Writes the page to `path`, which holds the old page until the new one is complete.
    ///
    /// # Errors
    ///
    /// The file can't be written; the message names it.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        replace_file(path, self.to_html().as_bytes())
    }
}

/// Begins a figure with a square drawing; the caller closes both.
fn square(title: &str, summary: &str) -> String {
    let size = SIDE + MARGIN;
    format!(
        "<figure class=\"chart\"><figcaption><h3>{title}</h3></figcaption><div class=\"plot\">\
         <svg viewBox=\"0 0 {:.0} {size:.0}\" role=\"img\" aria-label=\"{summary}\">",
        size + 12.0
    )
}

fn confusion(confusion: &Confusion) -> String {
    let name = escape(&confusion.dataset);
    let classes = confusion.classes.len();
    if classes == 0 || classes > MATRIX_CLASSES {
        return confusion_table(confusion, &name);
    }
    let mut sums = vec![0; classes];
    for (label, _, count) in &confusion.counts {
        sums[*label] += count;
    }
    let cell = SIDE / classes as f64;
    let mut html = square(&name, &format!("Confusions of {classes} classes"));
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
    html + "</svg></div></figure>\n"
}

fn confusion_table(confusion: &Confusion, name: &str) -> String {
    let mut wrong: Vec<_> = confusion
        .counts
        .iter()
        .filter(|(label, predicted, _)| label != predicted)
        .collect();
    wrong.sort_by_key(|(_, _, count)| std::cmp::Reverse(*count));
    let rows: Vec<Vec<String>> = wrong
        .into_iter()
        .take(CONFUSIONS_SHOWN)
        .map(|(label, predicted, count)| {
            let class = |at: usize| caption(&confusion.classes[at]);
            vec![class(*label), class(*predicted), count.to_string()]
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let title = format!("{name}: most frequent confusions");
    table(&title, &["Class", "Taken for", "Images"], &rows)
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

fn reliability(reliability: &Reliability) -> String {
    let name = escape(&reliability.dataset);
    let title = format!("{name}: calibration error {}", percent(reliability.ece));
    let mut html = square(&title, &title);
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
    html + "</svg></div></figure>\n"
}

fn few_shot(curve: &FewShotCurve) -> String {
    let summary = match (curve.zero_shot, curve.break_even) {
        (Some(zero_shot), Some(shots)) => format!(
            "Zero-shot, {}, is matched by {shots:.1} examples a class.",
            percent(zero_shot)
        ),
        (Some(zero_shot), None) => format!(
            "Zero-shot, {}, is better than every probe on few examples.",
            percent(zero_shot)
        ),
        _ => String::new(),
    };
    let mut html = format!(
        "<p class=\"lead\">{summary} Fitted to all examples: {}.</p>",
        percent(curve.full)
    );
    html += &square("Accuracy by examples a class", &summary);
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
    html + "</svg></div></figure>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation() -> Evaluation {
        Evaluation {
            title: "<model>".into(),
            confusions: vec![Confusion {
                dataset: "set".into(),
                classes: vec!["cat".into(), "<dog>".into()],
                counts: vec![(0, 0, 3), (0, 1, 1), (1, 1, 2)],
            }],
            reliability: vec![Reliability {
                dataset: "set".into(),
                ece: 0.125,
                bins: vec![(0.55, 0.5, 4), (0.9, 1.0, 2)],
            }],
            few_shot: Some(FewShotCurve {
                points: vec![(1, 0.2), (16, 0.6)],
                full: 0.8,
                zero_shot: Some(0.4),
                break_even: Some(4.0),
            }),
            ..Evaluation::default()
        }
    }

    #[test]
    fn a_page_shows_what_was_measured_and_nothing_else() {
        let html = evaluation().to_html();
        for part in [
            "cat taken for &lt;dog&gt;: 1, 25.0%",
            "calibration error 12.5%",
            "is matched by 4.0 examples a class",
            "&lt;model&gt;",
        ] {
            assert!(html.contains(part), "{part}");
        }
        assert_eq!(html.matches("<script").count(), 1, "only the page's own");
        assert!(!html.contains("id=\"zeroshot\"") && !html.contains("id=\"predictions\""));
        assert!(!Evaluation::default().to_html().contains("<section"));
    }

    #[test]
    fn many_classes_are_a_list_of_their_confusions() {
        let mut evaluation = evaluation();
        let confusion = &mut evaluation.confusions[0];
        confusion.classes = (0..=MATRIX_CLASSES)
            .map(|at| format!("class {at}"))
            .collect();
        let html = evaluation.to_html();
        assert!(html.contains("most frequent confusions"));
        assert!(!html.contains("<rect"));
    }
}
