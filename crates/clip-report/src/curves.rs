use std::{fs, path::Path};

use clip_files::IoError;
use serde_json::{Map, Value};

/// The keys that say where a line stands in the run, and so are no curves.
const POSITION: [&str; 3] = ["step", "samples", "epoch"];

/// The numbers of a run by key, over its steps.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Curves {
    /// One series a key, in the order of their first appearance.
    pub series: Vec<Series>,
}

/// A number over the steps of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series {
    /// The key in `metrics.jsonl`.
    pub key: String,
    /// Step and value, by rising step.
    pub points: Vec<(f64, f64)>,
}

impl Curves {
    /// Reads `metrics.jsonl`: every number of every line, under its key.
    ///
    /// A line that is no JSON object, such as one that is being written, is passed over.
    ///
    /// # Errors
    ///
    /// The file can't be read; the message names it.
    pub fn from_jsonl(path: &Path) -> Result<Self, IoError> {
        let bytes = fs::read(path).map_err(clip_files::io("read", path))?;
        Ok(Self::parse(&String::from_utf8_lossy(&bytes)))
    }

    /// Reads the text of a `metrics.jsonl`.
    pub fn parse(text: &str) -> Self {
        let mut curves = Self::default();
        for line in text.lines() {
            let Ok(object) = serde_json::from_str::<Map<String, Value>>(line) else {
                continue;
            };
            let Some(step) = object.get("step").and_then(Value::as_f64) else {
                continue;
            };
            for (key, value) in &object {
                if let Some(value) = value.as_f64() {
                    curves.push(key, step, value);
                }
            }
        }
        curves
    }

    /// Adds a point. Later steps that are there already were lost in a crash and trained again, so
    /// they go.
    pub fn push(&mut self, key: &str, step: f64, value: f64) {
        let place = self.series.iter().position(|series| series.key == key);
        let place = place.unwrap_or_else(|| {
            self.series.push(Series {
                key: key.to_string(),
                points: Vec::new(),
            });
            self.series.len() - 1
        });
        let points = &mut self.series[place].points;
        while points.last().is_some_and(|(last, _)| *last >= step) {
            points.pop();
        }
        points.push((step, value));
    }

    /// The points of `key`, none where the run doesn't have it.
    pub fn points(&self, key: &str) -> &[(f64, f64)] {
        let series = self.series.iter().find(|series| series.key == key);
        series.map_or(&[], |series| &series.points)
    }

    /// The keys of curves.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        let keys = self.series.iter().map(|series| series.key.as_str());
        keys.filter(|key| !POSITION.contains(key))
    }

    /// The last value of `key`.
    pub fn last(&self, key: &str) -> Option<f64> {
        self.points(key).last().map(|(_, value)| *value)
    }

    /// The value of `key` that half the steps reach: a rate without its slow start.
    pub fn median(&self, key: &str) -> Option<f64> {
        let mut values: Vec<_> = self.points(key).iter().map(|(_, value)| *value).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_a_series_and_what_is_torn_is_passed_over() {
        let text = concat!(
            r#"{"step":1,"loss":5.5,"note":"x","odd":null,"my_number":7}"#,
            "\n",
            "not json\n",
            r#"{"step":2,"loss":5.0,"i2t_r1":0.5}"#,
            "\n",
            r#"{"step":3,"lo"#,
        );
        let curves = Curves::parse(text);
        assert_eq!(curves.points("loss"), [(1.0, 5.5), (2.0, 5.0)]);
        assert_eq!(
            curves.keys().collect::<Vec<_>>(),
            ["loss", "my_number", "i2t_r1"]
        );
    }

    #[test]
    fn steps_that_were_trained_again_count_once() {
        let mut curves = Curves::default();
        for (step, loss) in [(1.0, 5.0), (2.0, 4.0), (3.0, 3.0), (2.0, 4.1), (3.0, 3.1)] {
            curves.push("loss", step, loss);
        }
        assert_eq!(curves.points("loss"), [(1.0, 5.0), (2.0, 4.1), (3.0, 3.1)]);
    }
}
