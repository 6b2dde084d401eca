use std::{fs, path::Path};

use clip_files::IoError;

use crate::{
    Pictured, ZeroShotSet,
    drawing::Drawing,
    drawings::{confusion, few_shot, predictions, reliability},
    html::{caption, escape, percent, section, table},
    page::document,
    results,
};

/// Confusions listed where the matrix is not drawn.
const CONFUSIONS_SHOWN: usize = 20;

/// An evaluation on one page that needs nothing else. What was not measured stays empty, and its section is left out.
#[derive(Debug, Clone, Default)]
pub struct Evaluation {
    /// The page's heading: the model.
    pub title: String,
    /// Zero-shot accuracy on each set.
    pub zeroshot: Vec<ZeroShotSet>,
    /// Which classes are taken for which, on each set.
    pub confusions: Vec<Confusion>,
    /// Whether the model is right as often as it says, on each set.
    pub reliability: Vec<Reliability>,
    /// Linear probes on few examples.
    pub few_shot: Option<FewShotCurve>,
    /// Test images with the classes that the model finds likeliest.
    pub predictions: Vec<Pictured>,
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
        let drawn: String = self.confusions.iter().map(confusion_or_table).collect();
        if !drawn.is_empty() {
            let lead = "<p class=\"lead\">Rows are what a sample is, columns what it was taken for; \
                        each row adds up to 100%.</p>";
            body += &section("confusion", "Confusions", &format!("{lead}{drawn}"));
        }
        if let Some(curve) = &self.few_shot {
            body += &section(
                "few-shot",
                "Linear probes on few examples",
                &few_shot_section(curve),
            );
        }
        let drawn = self.reliability.iter().map(reliability);
        let drawn: String = drawn.map(|drawing| drawing.figure()).collect();
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
    pub fn write(&self, path: &Path) -> Result<(), IoError> {
        clip_files::replace(path, self.to_html().as_bytes())
    }

    /// The page's drawings, each as an SVG file that needs nothing else, with the file's name.
    ///
    /// A set of too many classes has no drawing of its confusions. Of several sets, the names hold place and name.
    pub fn drawings(&self) -> Vec<(String, String)> {
        let mut drawn = Vec::new();
        let mut add = |name: String, drawing: Drawing| {
            drawn.push((format!("{name}.svg"), drawing.file()));
        };
        for (at, set) in self.confusions.iter().enumerate() {
            if let Some(drawing) = confusion(set) {
                add(
                    of_set("confusion", at, self.confusions.len(), &set.dataset),
                    drawing,
                );
            }
        }
        for (at, set) in self.reliability.iter().enumerate() {
            let name = of_set("reliability", at, self.reliability.len(), &set.dataset);
            add(name, reliability(set));
        }
        if let Some(curve) = &self.few_shot {
            add("few-shot".to_owned(), few_shot(curve));
        }
        if !self.predictions.is_empty() {
            add("predictions".to_owned(), predictions(&self.predictions));
        }
        drawn
    }

    /// Writes the [`drawings`](Self::drawings) into a folder, which is made if it is missing. Returns how many.
    ///
    /// # Errors
    ///
    /// The folder or a file can't be written; the message names it.
    pub fn write_drawings(&self, folder: &Path) -> Result<usize, IoError> {
        fs::create_dir_all(folder).map_err(clip_files::io("create", folder))?;
        let drawings = self.drawings();
        for (name, drawing) in &drawings {
            clip_files::replace(&folder.join(name), drawing.as_bytes())?;
        }
        Ok(drawings.len())
    }
}

/// The name of a set's drawing: with the set's where there are several.
fn of_set(what: &str, at: usize, sets: usize, set: &str) -> String {
    if sets == 1 {
        return what.to_owned();
    }
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let set: String = set.chars().take(40).map(plain).collect();
    format!("{what}-{}-{set}", at + 1)
}

fn confusion_or_table(set: &Confusion) -> String {
    match confusion(set) {
        Some(drawing) => drawing.figure(),
        None => confusion_table(set, &escape(&set.dataset)),
    }
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

fn few_shot_section(curve: &FewShotCurve) -> String {
    let drawing = few_shot(curve);
    format!(
        "<p class=\"lead\">{} Fitted to all examples: {}.</p>{}",
        drawing.summary,
        percent(curve.full),
        drawing.figure()
    )
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
    fn what_the_fewest_examples_match_is_a_bound() {
        let mut evaluation = evaluation();
        let matched = |evaluation: &Evaluation, words: &str| {
            let html = evaluation.to_html();
            assert!(
                html.contains(&format!("is matched by {words} examples")),
                "{html}"
            );
        };
        matched(&evaluation, "4.0");
        let curve = evaluation.few_shot.as_mut().unwrap();
        (curve.points[0].1, curve.break_even) = (0.5, Some(1.0));
        matched(&evaluation, "at most 1.0");
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
    fn drawings_are_files_of_their_own() {
        let mut evaluation = evaluation();
        let names = |evaluation: &Evaluation| -> Vec<String> {
            let drawings = evaluation.drawings().into_iter();
            drawings.map(|(name, _)| name).collect()
        };
        assert_eq!(
            names(&evaluation),
            ["confusion.svg", "reliability.svg", "few-shot.svg"]
        );
        for (name, svg) in evaluation.drawings() {
            assert!(
                svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\""),
                "{name}"
            );
            assert!(svg.ends_with("</svg>\n"), "{name}");
            assert!(
                !svg.contains("var(") && !svg.contains("<dog>"),
                "{name}: {svg}"
            );
        }
        let mut other = evaluation.confusions[0].clone();
        other.dataset = "../b".into();
        evaluation.confusions.push(other);
        assert_eq!(
            names(&evaluation)[..2],
            ["confusion-1-set.svg", "confusion-2----b.svg"]
        );
    }

    #[test]
    fn many_classes_are_a_list_of_their_confusions() {
        let mut evaluation = evaluation();
        let confusion = &mut evaluation.confusions[0];
        confusion.classes = (0..100).map(|at| format!("class {at}")).collect();
        let html = evaluation.to_html();
        assert!(html.contains("most frequent confusions"));
        assert!(!html.contains("<rect"));
        let drawings = evaluation.drawings();
        assert!(drawings.iter().all(|(name, _)| name != "confusion.svg"));
    }
}
