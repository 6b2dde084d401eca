use clip_metrics::{human_count, significant};

use crate::{
    html::{escape, push, table},
    numbers::{range, smoothed, thinned, tick_label, ticks},
};

/// The drawing's size in its own units; small, so that its text stays readable when a phone
/// scales it down.
const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 250.0;
/// The plot inside: room for labels left and below.
const LEFT: f64 = 46.0;
const RIGHT: f64 = WIDTH - 12.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = HEIGHT - 28.0;
/// Curves with more points than this are noisy enough for a smoothed line over them.
const SMOOTHED_FROM: usize = 80;
/// Rows of the table beside a chart.
const TABLE_ROWS: usize = 12;

/// Lines over the steps of a run.
pub(crate) struct Chart {
    pub(crate) title: String,
    /// After the values, such as `%`.
    pub(crate) unit: &'static str,
    pub(crate) lines: Vec<Line>,
    /// Values to compare with: what, and at which value.
    pub(crate) references: Vec<(String, f64)>,
    /// Whether the axis starts at zero, for amounts; else it shows the range of the values.
    pub(crate) from_zero: bool,
    /// Whether many points get a smoothed line over them: for what is measured, not for what a
    /// schedule says.
    pub(crate) smooth: bool,
    /// Where the run ends: the charts of a page share their axis of steps.
    pub(crate) last_step: f64,
}

/// One line of a chart.
pub(crate) struct Line {
    pub(crate) label: String,
    /// Step and value.
    pub(crate) points: Vec<(f64, f64)>,
}

/// From values to places of the drawing.
struct Scale {
    x: (f64, f64),
    y: (f64, f64),
    y_ticks: Vec<f64>,
}

impl Scale {
    fn x(&self, step: f64) -> f64 {
        LEFT + (step - self.x.0) / (self.x.1 - self.x.0) * (RIGHT - LEFT)
    }

    fn y(&self, value: f64) -> f64 {
        BOTTOM - (value - self.y.0) / (self.y.1 - self.y.0) * (BOTTOM - TOP)
    }
}

impl Chart {
    /// The chart as a figure: drawing, legend and the values as a table; empty without values.
    pub(crate) fn html(&self) -> String {
        if self.lines.iter().all(|line| line.points.is_empty()) {
            return String::new();
        }
        let title = escape(&self.title);
        let mut html = format!("<figure class=\"chart\"><figcaption><h3>{title}</h3>");
        self.legend(&mut html);
        html.push_str("</figcaption>");
        self.drawing(&mut html);
        push(
            &mut html,
            format_args!(
                "<details><summary>{title} as a table</summary>{}</details></figure>\n",
                self.values()
            ),
        );
        html
    }

    fn legend(&self, html: &mut String) {
        html.push_str("<ul class=\"legend\">");
        // A line without points keeps its place, and so the others their colours.
        for (place, line) in self.lines.iter().enumerate() {
            let Some((_, last)) = line.points.last() else {
                continue;
            };
            push(
                html,
                format_args!(
                    "<li><svg class=\"key s{place}\" viewBox=\"0 0 22 6\" aria-hidden=\"true\">\
                     <path d=\"M1 3H21\"/></svg>{} <b>{}{}</b></li>",
                    escape(&line.label),
                    significant(*last, 3),
                    self.unit
                ),
            );
        }
        html.push_str("</ul>");
    }

    fn drawing(&self, html: &mut String) {
        let scale = self.scale();
        let shown: Vec<_> = self
            .lines
            .iter()
            .map(|line| thinned(&line.points))
            .collect();
        push(
            html,
            format_args!(
                "<div class=\"plot\"><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
                 aria-label=\"{}\" data-unit=\"{}\" data-lines=\"{}\">",
                escape(&self.summary()),
                self.unit,
                escape(&self.hover_data(&scale, &shown))
            ),
        );
        self.axes(html, &scale);
        for (label, value) in &self.references {
            let y = scale.y(*value);
            // Below its line where there is no room above.
            let text_y = if y - TOP < 14.0 { y + 13.0 } else { y - 5.0 };
            push(
                html,
                format_args!(
                    "<path class=\"reference\" d=\"M{LEFT} {y:.1}H{RIGHT}\"/>\
                     <text class=\"reference\" x=\"{RIGHT}\" y=\"{text_y:.1}\" \
                     text-anchor=\"end\">{}</text>",
                    escape(label)
                ),
            );
        }
        for (place, points) in shown.iter().enumerate() {
            if points.is_empty() {
                continue;
            }
            if self.smooth && points.len() > SMOOTHED_FROM {
                path(html, &format!("raw s{place}"), &scale, points);
                path(html, &format!("line s{place}"), &scale, &smoothed(points));
            } else {
                path(html, &format!("line s{place}"), &scale, points);
                // A few evaluations are points first; a line alone hides where they are.
                if points.len() <= 40 {
                    for (step, value) in points {
                        push(
                            html,
                            format_args!(
                                "<circle class=\"s{place}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.4\"/>",
                                scale.x(*step),
                                scale.y(*value)
                            ),
                        );
                    }
                }
            }
        }
        html.push_str("<path class=\"cursor\" d=\"\"/></svg><output hidden></output></div>");
    }

    fn axes(&self, html: &mut String, scale: &Scale) {
        let gap = scale
            .y_ticks
            .windows(2)
            .map(|pair| pair[1] - pair[0])
            .next();
        for tick in &scale.y_ticks {
            let y = scale.y(*tick);
            push(
                html,
                format_args!(
                    "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{RIGHT}\"/>\
                     <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}{}</text>",
                    LEFT - 6.0,
                    y + 4.0,
                    tick_label(*tick, gap.unwrap_or(1.0)),
                    self.unit
                ),
            );
        }
        let ticks = ticks(scale.x.0, scale.x.1, 5);
        let gap = ticks.windows(2).map(|pair| pair[1] - pair[0]).next();
        for tick in ticks.iter().filter(|tick| tick.fract() == 0.0) {
            let x = scale.x(*tick);
            let last = ticks.last() == Some(tick);
            let unit = if last { " steps" } else { "" };
            // A label in the middle of the edge would be cut off.
            let anchor = if x > RIGHT - 36.0 { "end" } else { "middle" };
            let x = if anchor == "end" { RIGHT } else { x };
            push(
                html,
                format_args!(
                    "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}{unit}</text>",
                    BOTTOM + 17.0,
                    tick_label(*tick, gap.unwrap_or(1.0))
                ),
            );
        }
    }

    fn scale(&self) -> Scale {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let references = self.references.iter().map(|(_, value)| *value);
        let values = points().map(|(_, value)| *value).chain(references);
        let x = range(points().map(|(step, _)| *step).chain([0.0, self.last_step]));
        let mut y = range(values.filter(|value| value.is_finite()));
        if self.from_zero {
            y.0 = y.0.min(0.0);
        }
        let y_ticks = ticks(y.0, y.1, 4);
        // The axis ends at ticks, so that the highest and lowest values have room.
        let gap = y_ticks[1] - y_ticks[0];
        let low = y_ticks[0]
            - if y_ticks[0] > y.0 + 1e-9 * gap {
                gap
            } else {
                0.0
            };
        let last = y_ticks[y_ticks.len() - 1];
        let high = last + if last < y.1 - 1e-9 * gap { gap } else { 0.0 };
        let count = ((high - low) / gap).round() as usize;
        let y_ticks = (0..=count).map(|place| low + place as f64 * gap).collect();
        let y = (low, high);
        Scale { x, y, y_ticks }
    }

    /// The chart in words, for those who can't see it.
    fn summary(&self) -> String {
        let unit = self.unit;
        let mut text = format!("{} over steps.", self.title);
        for line in &self.lines {
            if let (Some(first), Some(last)) = (line.points.first(), line.points.last()) {
                let (low, high) = line.points.iter().fold(
                    (f64::INFINITY, f64::NEG_INFINITY),
                    |(low, high), (_, value)| (low.min(*value), high.max(*value)),
                );
                push(
                    &mut text,
                    format_args!(
                        " {}: {}{unit} at step {}, {}{unit} at step {}, lowest {}{unit}, \
                         highest {}{unit}.",
                        line.label,
                        significant(first.1, 3),
                        first.0,
                        significant(last.1, 3),
                        last.0,
                        significant(low, 3),
                        significant(high, 3)
                    ),
                );
            }
        }
        for (label, _) in &self.references {
            push(&mut text, format_args!(" Reference line: {label}."));
        }
        text
    }

    /// For each line its label and points: place across, place down, step, value.
    fn hover_data(&self, scale: &Scale, shown: &[Vec<(f64, f64)>]) -> String {
        let mut lines = Vec::with_capacity(self.lines.len());
        for (line, points) in self.lines.iter().zip(shown) {
            let points: Vec<_> = points
                .iter()
                .map(|(step, value)| (scale.x(*step).round(), step.round(), significant(*value, 4)))
                .collect();
            lines.push((&line.label, points));
        }
        // invariant: strings and finite numbers always have a JSON form.
        serde_json::to_string(&lines).expect("labels and points are JSON")
    }

    /// Some of the steps, first and last among them.
    fn values(&self) -> String {
        let mut steps: Vec<_> = self
            .lines
            .iter()
            .flat_map(|line| line.points.iter().map(|(step, _)| *step))
            .collect();
        steps.sort_by(f64::total_cmp);
        steps.dedup();
        let count = steps.len().min(TABLE_ROWS);
        let rows: Vec<_> = (0..count)
            .map(|row| steps[row * (steps.len() - 1) / (count - 1).max(1)])
            .map(|step| {
                let values = self.lines.iter().map(|line| {
                    let reached = line.points.last().is_some_and(|(last, _)| *last >= step);
                    let mut points = line.points.iter();
                    let value = points.rfind(|(at, _)| reached && *at <= step);
                    value.map_or("–".to_string(), |(_, value)| {
                        format!("{}{}", significant(*value, 4), self.unit)
                    })
                });
                std::iter::once(human_count(step as u64))
                    .chain(values)
                    .collect()
            })
            .collect();
        let labels: Vec<_> = self.lines.iter().map(|line| escape(&line.label)).collect();
        let columns: Vec<_> = std::iter::once("Step")
            .chain(labels.iter().map(String::as_str))
            .collect();
        table(
            &format!("{} over steps", escape(&self.title)),
            &columns,
            &rows,
        )
    }
}

fn path(html: &mut String, class: &str, scale: &Scale, points: &[(f64, f64)]) {
    push(html, format_args!("<path class=\"{class}\" d=\""));
    for (place, (step, value)) in points.iter().enumerate() {
        let command = if place == 0 { 'M' } else { 'L' };
        push(
            html,
            format_args!("{command}{:.1} {:.1}", scale.x(*step), scale.y(*value)),
        );
    }
    html.push_str("\"/>");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>) -> Chart {
        Chart {
            title: "Loss".into(),
            unit: "",
            lines: vec![Line {
                label: "training".into(),
                points,
            }],
            references: vec![("ln(256) = 5.55".into(), 5.545)],
            from_zero: false,
            smooth: true,
            last_step: 0.0,
        }
    }

    #[test]
    fn everything_drawn_lies_inside_the_drawing() {
        let points = (1..=1000).map(|step| (f64::from(step), 5.6 - 0.002 * f64::from(step)));
        let chart = chart(points.collect());
        let scale = chart.scale();
        assert!(scale.y.0 <= 3.6 && scale.y.1 >= 5.6, "{:?}", scale.y);
        let html = chart.html();
        assert!(!html.contains("NaN") && !html.contains("inf"));
        assert!(html.len() < 40_000, "{}", html.len());
    }

    #[test]
    fn one_point_or_equal_points_still_draw() {
        for points in [
            vec![(1.0, 2.0)],
            vec![(1.0, 0.0), (2.0, 0.0)],
            vec![(0.0, 1e-12)],
        ] {
            let html = chart(points).html();
            assert!(!html.contains("NaN") && !html.contains("inf"), "{html}");
        }
        assert_eq!(chart(Vec::new()).html(), "");
    }

    #[test]
    fn a_line_has_no_value_beyond_its_end() {
        let mut chart = chart(vec![(1.0, 5.0), (2.0, 4.0)]);
        chart.lines.push(Line {
            label: "longer".into(),
            points: vec![(1.0, 5.0), (3.0, 3.0)],
        });
        let html = chart.html();
        let row = |step: u32, values: [&str; 2]| {
            let [a, b] = values.map(|value| format!("<td>{value}</td>"));
            format!("<th scope=\"row\">{step}</th>{a}{b}")
        };
        assert!(html.contains(&row(2, ["4.000", "5.000"])), "{html}");
        assert!(html.contains(&row(3, ["–", "3.000"])), "{html}");
    }

    #[test]
    fn the_text_alternative_has_first_last_and_table() {
        let html = chart(vec![(1.0, 5.5), (400.0, 3.65)]).html();
        assert!(
            html.contains("training: 5.50 at step 1, 3.65 at step 400"),
            "{html}"
        );
        assert!(
            html.contains("<th scope=\"row\">400</th><td>3.650</td>"),
            "{html}"
        );
    }
}
