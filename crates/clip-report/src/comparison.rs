use std::path::Path;

use clip_files::IoError;
use clip_metrics::{human_count, label_of, significant};

use crate::{
    Curves,
    chart::{Chart, Line},
    charts::is_evaluated_share,
    html::{escape, percent, section, table},
    page::{document, final_loss},
};

/// Numbers that each run has a curve of, whatever it is evaluated on.
const ALWAYS: [&str; 3] = ["loss", "logit_scale", "images_per_s"];

/// Several runs side by side.
#[derive(Debug, Clone, Default)]
pub struct Comparison {
    /// The runs, in the order shown.
    pub runs: Vec<ComparedRun>,
}

/// One of the runs compared.
#[derive(Debug, Clone, Default)]
pub struct ComparedRun {
    /// What it is called, such as its directory.
    pub name: String,
    /// Its model's preset.
    pub preset: String,
    /// Where it stands, in a word, such as `running`.
    pub state: String,
    /// Steps in all, if that is known.
    pub total_steps: Option<u64>,
    /// Its numbers.
    pub curves: Curves,
}

impl ComparedRun {
    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.curves.last("step").map_or(0, |step| step as u64)
    }

    /// `8 of 10`, of a run that has more steps to do, or may have; or else those done.
    pub fn steps_of_all(&self, told: impl Fn(u64) -> String) -> String {
        let steps = self.steps();
        match self.total_steps {
            Some(total) if total != steps => format!("{} of {}", told(steps), told(total)),
            _ => told(steps),
        }
    }

    /// The mean loss of the last tenth of its steps, in nats.
    pub fn loss(&self) -> Option<f64> {
        final_loss(&self.curves)
    }
}

impl Comparison {
    /// The evaluations that any of the runs has, in the order of their first appearance: shares from 0 to 1.
    pub fn evaluations(&self) -> Vec<&str> {
        let mut keys = Vec::new();
        for key in self.runs.iter().flat_map(|run| run.curves.keys()) {
            if is_evaluated_share(key) && !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys
    }

    /// Writes the page to `path`, which holds the old page until the new one is complete.
    ///
    /// # Errors
    ///
    /// The file can't be written; the message names it.
    pub fn write(&self, path: &Path) -> Result<(), IoError> {
        clip_files::replace(path, self.to_html().as_bytes())
    }

    /// The page.
    pub fn to_html(&self) -> String {
        let mut charts = String::new();
        for key in ALWAYS.into_iter().chain(self.evaluations()) {
            charts += &self.chart(key);
        }
        let body = format!(
            "<main>\n{}{}</main>\n",
            section("runs", "Runs", &self.table()),
            section(
                "curves",
                "How they learned",
                &format!("<div class=\"charts\">{charts}</div>")
            )
        );
        let header = format!(
            "<header><p class=\"eyebrow\">CLIP training runs</p><h1>{} runs</h1></header>\n",
            self.runs.len()
        );
        document("CLIP training runs", &(header + &body), None)
    }

    fn chart(&self, key: &str) -> String {
        let is_percent = is_evaluated_share(key);
        let factor = if is_percent { 100.0 } else { 1.0 };
        let lines = self.runs.iter().map(|run| {
            let points = run.curves.points(key).iter();
            let points = points.map(|(step, value)| (*step, factor * value));
            Line {
                label: run.name.clone(),
                points: points.filter(|(_, value)| value.is_finite()).collect(),
            }
        });
        Chart {
            title: title_of(key),
            unit: if is_percent { "%" } else { "" },
            lines: lines.collect(),
            references: Vec::new(),
            from_zero: is_percent || key == "images_per_s",
            smooth: key != "logit_scale",
            last_step: self.runs.iter().map(ComparedRun::steps).max().unwrap_or(0) as f64,
        }
        .html()
    }

    fn table(&self) -> String {
        let evaluations = self.evaluations();
        let labels: Vec<String> = evaluations
            .iter()
            .map(|key| escape(&label_of(key)))
            .collect();
        let mut columns = vec!["Run", "Preset", "State", "Steps", "Loss", "Images/s"];
        columns.extend(labels.iter().map(String::as_str));
        let number =
            |value: Option<f64>| value.map_or("–".to_owned(), |value| significant(value, 3));
        let rows: Vec<Vec<String>> = self
            .runs
            .iter()
            .map(|run| {
                let mut row = vec![
                    escape(&run.name),
                    escape(&run.preset),
                    escape(&run.state),
                    run.steps_of_all(human_count),
                    number(run.loss()),
                    number(run.curves.median("images_per_s")),
                ];
                let values = evaluations.iter().map(|key| run.curves.last(key));
                row.extend(values.map(|value| value.map_or("–".to_owned(), percent)));
                row
            })
            .collect();
        table("Where each run stands", &columns, &rows)
    }
}

fn title_of(key: &str) -> String {
    match key {
        "loss" => "Loss".to_owned(),
        "logit_scale" => "Logit scale".to_owned(),
        "images_per_s" => "Throughput, images/s".to_owned(),
        evaluation => label_of(evaluation),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str, lines: &str) -> ComparedRun {
        ComparedRun {
            name: name.to_owned(),
            preset: "ViT-B-32".to_owned(),
            state: "stopped".to_owned(),
            total_steps: Some(2),
            curves: Curves::parse(lines),
        }
    }

    #[test]
    fn each_run_has_a_row_and_a_line_where_it_has_the_number() {
        let runs = vec![
            run(
                "<a>",
                "{\"step\":1,\"loss\":5.5}\n{\"step\":2,\"i2t_r1\":0.25,\"i2t_median_rank\":7}\n",
            ),
            run("b", "{\"step\":1,\"loss\":5.0}\n"),
        ];
        let comparison = Comparison { runs };
        assert_eq!(comparison.evaluations(), ["i2t_r1"]);
        let html = comparison.to_html();
        assert!(!html.contains("<a>"), "a name is no markup");
        assert!(html.contains("<th scope=\"row\">b</th>"), "{html}");
        assert!(html.contains("25.0%"), "{html}");
        assert!(
            html.contains("1 of 2") && !html.contains("2 of 2"),
            "{html}"
        );
        // Two lines of losses, one of recalls.
        assert_eq!(html.matches("class=\"line ").count(), 3, "{html}");
    }
}
