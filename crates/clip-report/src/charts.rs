use clip_metrics::{Direction, Kind, RECALLED_AT, VAL_LOSS, is_zeroshot, label_of};

use crate::{
    Curves,
    chart::{Chart, Line},
    html::{push, section},
};

/// Of its limit, from where on the logit scale is so near that a chart shows both.
const NEAR_LIMIT: f64 = 0.6;

/// The charts: CLIP's own numbers first, whatever else the run logged after them. `chance` is what guessing would lose,
/// `max_logit_scale` where `exp(logit_scale)` is clamped.
pub(crate) fn section_of_curves(
    curves: &Curves,
    chance: Option<f64>,
    max_logit_scale: Option<f64>,
) -> String {
    let steps = curves
        .series
        .iter()
        .filter_map(|series| series.points.last());
    let last_step = steps.fold(0.0, |last: f64, (step, _)| last.max(*step));
    let mut shown = vec!["batch".to_string()];
    let mut chart = |title: &str, keys: &[(&str, &str)], references: Vec<(String, f64)>| {
        let present = keys
            .iter()
            .filter(|(key, _)| !curves.points(key).is_empty());
        let lines = present
            .map(|(key, label)| line(curves, key, label))
            .collect();
        shown.extend(keys.iter().map(|(key, _)| (*key).to_string()));
        let percent = keys.iter().any(|(key, _)| is_drawn_as_percent(key));
        Chart {
            title: title.to_string(),
            unit: if percent { "%" } else { "" },
            lines,
            references,
            from_zero: percent
                || ["lr", "images_per_s"].contains(&keys.first().map_or("", |k| k.0)),
            smooth: !keys
                .iter()
                .any(|(key, _)| ["lr", "logit_scale"].contains(key)),
            last_step,
        }
        .html()
    };

    let chance = chance.map(|loss| (format!("chance: {loss:.2}"), loss));
    let losses = [("loss", "training"), (VAL_LOSS, "validation")];
    let losses = chart("Loss", &losses, chance.into_iter().collect())
        + &chart("Caption loss", &[("caption_loss", "a token")], Vec::new())
        + &chart(
            "Distillation loss",
            &[("distill_loss", "training")],
            Vec::new(),
        );

    let zeroshot: Vec<_> = curves
        .keys()
        .filter(|key| is_zeroshot(key) && key.contains("top1"))
        .map(|key| (key, label_of(key).replacen("zero-shot ", "", 1)))
        .collect();
    let keys: Vec<_> = zeroshot
        .iter()
        .map(|(key, label)| (*key, label.as_str()))
        .collect();
    let zeroshot = chart("Zero-shot accuracy", &keys, Vec::new());

    let mut recall = |direction: Direction, title: &str| {
        let recalls = RECALLED_AT.map(|k| (direction.recall(k), format!("R@{k}")));
        let keys = recalls
            .each_ref()
            .map(|(key, label)| (key.as_str(), label.as_str()));
        chart(title, &keys, Vec::new())
    };
    let recalls = recall(Direction::ImageToText, "Image → text recall")
        + &recall(Direction::TextToImage, "Text → image recall");

    let scales = curves.points("logit_scale");
    let is_near = |limit: &f64| scales.iter().any(|(_, scale)| *scale > NEAR_LIMIT * limit);
    let limit = max_logit_scale.filter(is_near);
    let limit = limit.map(|limit| (format!("limit {limit:.0}"), limit));
    let keys = [("logit_scale", "exp(logit_scale)")];
    let scale = chart("Logit scale", &keys, limit.into_iter().collect());
    let speed = chart("Learning rate", &[("lr", "lr")], Vec::new())
        + &chart("Throughput", &[("images_per_s", "images/s")], Vec::new())
        + &chart(
            "Time spent waiting for data",
            &[("data_wait", "of a step")],
            Vec::new(),
        );
    // Two charts stand side by side on most screens, and the recalls are to be compared.
    let body = if zeroshot.is_empty() {
        losses + &scale + &recalls + &speed
    } else {
        losses + &zeroshot + &recalls + &scale + &speed
    };

    let mut more = String::new();
    for key in curves.keys() {
        if !shown.iter().any(|known| known == key) {
            more += &chart_of_key(curves, key, last_step);
        }
    }
    if body.is_empty() && more.is_empty() {
        return String::new();
    }
    let mut html = format!("<div class=\"charts\">{body}</div>");
    if !more.is_empty() {
        push(
            &mut html,
            format_args!(
                "<details class=\"more\"><summary>More curves</summary>\
                 <div class=\"charts\">{more}</div></details>"
            ),
        );
    }
    section("curves", "How it learned", &html)
}

fn chart_of_key(curves: &Curves, key: &str, last_step: f64) -> String {
    let label = label_of(key);
    let percent = is_drawn_as_percent(key);
    Chart {
        lines: vec![line(curves, key, &label)],
        title: label,
        unit: if percent { "%" } else { "" },
        references: Vec::new(),
        from_zero: percent,
        smooth: true,
        last_step,
    }
    .html()
}

/// Evaluations' shares and the data wait; other keys are unknown, and shown as they are.
fn is_drawn_as_percent(key: &str) -> bool {
    is_evaluated_share(key) || key == "data_wait"
}

/// Whether an evaluation gives a share under this key.
pub(crate) fn is_evaluated_share(key: &str) -> bool {
    Kind::of_key(key) == Some(Kind::Share)
}

fn line(curves: &Curves, key: &str, label: &str) -> Line {
    let factor = if is_drawn_as_percent(key) { 100.0 } else { 1.0 };
    let points = curves
        .points(key)
        .iter()
        .map(|(step, value)| (*step, factor * value));
    Line {
        label: label.to_string(),
        points: points.filter(|(_, value)| value.is_finite()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_is_compared_with_guessing() {
        let curves = Curves::parse("{\"step\":1,\"loss\":5.5,\"batch\":256}\n");
        let html = section_of_curves(&curves, Some(256_f64.ln()), None);
        assert!(html.contains("chance: 5.55"), "{html}");
    }

    #[test]
    fn a_logit_scale_is_shown_with_its_limit_where_that_is_near() {
        let of = |scale| {
            let line = format!("{{\"step\":1,\"logit_scale\":{scale}}}\n");
            section_of_curves(&Curves::parse(&line), None, Some(50.0))
        };
        assert!(of(31).contains(">limit 50<"), "{}", of(31));
        assert!(!of(29).contains("limit"), "{}", of(29));
    }

    #[test]
    fn whatever_is_minimised_beside_the_loss_is_shown_at_once() {
        let line = "{\"step\":1,\"loss\":5.5,\"caption_loss\":7.7,\"distill_loss\":4.1}\n";
        let html = section_of_curves(&Curves::parse(line), None, None);
        for title in ["Caption loss", "Distillation loss"] {
            assert!(html.contains(&format!("<h3>{title}</h3>")), "{html}");
        }
        assert!(!html.contains("More curves"), "{html}");
    }

    #[test]
    fn unknown_numbers_get_their_own_charts() {
        let curves = Curves::parse("{\"step\":1,\"loss\":5.5,\"device_memory\":3}\n");
        let html = section_of_curves(&curves, None, None);
        assert!(
            html.contains("More curves") && html.contains("<h3>device memory</h3>"),
            "{html}"
        );
    }
}
