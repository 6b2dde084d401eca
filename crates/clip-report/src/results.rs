use clip_metrics::{Direction, RECALLED_AT, human_count};

use crate::{
    BadShard, Pictured, RetrievalSet, ZeroShotSet,
    data::ClassRow,
    html::{caption, escape, percent, push, section, table},
};

/// Classes shown at each end of a set's list.
const CLASSES_SHOWN: usize = 5;
/// Shards listed; the worst come first, and the sum of all is said.
const SHARDS_SHOWN: usize = 50;

pub(crate) fn retrieval(sets: &[RetrievalSet]) -> String {
    if sets.is_empty() {
        return String::new();
    }
    let mut body =
        "<p class=\"lead\">Of all captions of the set, is one of the image's own among the \
         first K that the model ranks for it? And of all images, is the caption's own?</p>"
            .to_string();
    for set in sets {
        body.push_str(&retrieval_table(set));
    }
    section("retrieval", "Retrieval", &body)
}

fn retrieval_table(set: &RetrievalSet) -> String {
    let measured = |k: &usize| {
        let mut directions = Direction::BOTH.into_iter();
        directions.any(|direction| set.recall(direction, *k).is_some())
    };
    let ks: Vec<usize> = RECALLED_AT.into_iter().filter(measured).collect();
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (direction, name) in [
        (Direction::ImageToText, "image → text"),
        (Direction::TextToImage, "text → image"),
    ] {
        let mut row = vec![name.to_string()];
        row.extend(
            ks.iter()
                .map(|k| set.recall(direction, *k).map_or("–".into(), share_cell)),
        );
        rows.push(row);
    }
    if set.images > 0 {
        let mut row = vec!["chance".to_string()];
        row.extend(
            ks.iter()
                .map(|k| share_cell((*k as f64 / set.images as f64).min(1.0))),
        );
        rows.push(row);
    }
    let columns: Vec<_> = ks.iter().map(|k| format!("R@{k}")).collect();
    let columns: Vec<_> = std::iter::once("Direction")
        .chain(columns.iter().map(String::as_str))
        .collect();
    let title = format!(
        "{}: {} images, {} captions",
        escape(&set.dataset),
        human_count(set.images as u64),
        human_count(set.captions as u64)
    );
    table(&title, &columns, &rows)
}

/// A share with a bar behind its number.
fn share_cell(share: f64) -> String {
    format!(
        "<span class=\"meter\"><i style=\"width:{:.1}%\"></i></span>{}",
        100.0 * share.clamp(0.0, 1.0),
        percent(share)
    )
}

pub(crate) fn zeroshot(sets: &[ZeroShotSet]) -> String {
    if sets.is_empty() {
        return String::new();
    }
    let interval = |interval: Option<(f64, f64)>| {
        interval.map_or(String::new(), |(low, high)| {
            format!("<small>{} – {}</small>", percent(low), percent(high))
        })
    };
    let rows: Vec<_> = sets
        .iter()
        .map(|set| {
            let top5 = set.top5.map_or("–".to_string(), share_cell);
            vec![
                escape(&set.dataset),
                format!("{}{}", share_cell(set.top1), interval(set.top1_ci95)),
                format!("{top5}{}", interval(set.top5_ci95)),
                percent(1.0 / set.classes.max(1) as f64),
                human_count(set.images as u64),
                human_count(set.classes as u64),
                human_count(set.templates as u64),
            ]
        })
        .collect();
    let columns = [
        "Set", "Top-1", "Top-5", "Chance", "Images", "Classes", "Prompts",
    ];
    let mut body = "<p class=\"lead\">Each image gets the class whose prompts it is closest to. \
         Ranges are 95% confidence intervals.</p>"
        .to_string();
    body.push_str(&table("Zero-shot accuracy", &columns, &rows));
    body.push_str("<div class=\"classes\">");
    for set in sets.iter().filter(|set| !set.per_class.is_empty()) {
        body.push_str(&class_tables(set));
    }
    body.push_str("</div>");
    section("zeroshot", "Zero-shot classification", &body)
}

fn class_tables(set: &ZeroShotSet) -> String {
    let mut classes: Vec<&ClassRow> = set.per_class.iter().collect();
    classes.sort_by(|a, b| b.top1.total_cmp(&a.top1).then_with(|| a.name.cmp(&b.name)));
    let rows = |classes: &[&ClassRow]| -> Vec<Vec<String>> {
        let cells = |class: &&ClassRow| {
            vec![
                caption(&class.name),
                share_cell(class.top1),
                human_count(class.images as u64),
            ]
        };
        classes.iter().map(cells).collect()
    };
    let columns = ["Class", "Top-1", "Images"];
    let name = escape(&set.dataset);
    if classes.len() <= 2 * CLASSES_SHOWN {
        return table(&format!("{name}: every class"), &columns, &rows(&classes));
    }
    let best = table(
        &format!("{name}: best"),
        &columns,
        &rows(&classes[..CLASSES_SHOWN]),
    );
    let worst = &classes[classes.len() - CLASSES_SHOWN..];
    best + &table(&format!("{name}: worst"), &columns, &rows(worst))
}

pub(crate) fn predictions(predictions: &[Pictured]) -> String {
    if predictions.is_empty() {
        return String::new();
    }
    let among = predictions.iter().find_map(|prediction| prediction.among);
    let among = among.map_or(String::new(), |among| {
        format!(" of {}", human_count(among as u64))
    });
    let mut body = format!(
        "<p class=\"lead\">The likeliest{among} captions for images that were never trained on, with the \
         model's probabilities. <span class=\"tick\">✓</span> marks the image's own.</p>\
         <div class=\"cards\">"
    );
    for prediction in predictions {
        card(&mut body, prediction);
    }
    body.push_str("</div>");
    section("predictions", "What it sees", &body)
}

fn card(html: &mut String, prediction: &Pictured) {
    let right_at = prediction
        .candidates
        .iter()
        .position(|candidate| candidate.right);
    let rank = prediction.rank.or(right_at.map(|place| place + 1));
    let (class, verdict) = match rank {
        Some(1) => ("hit", "right answer first".to_string()),
        Some(rank) => (
            "near",
            format!("right answer at rank {}", human_count(rank as u64)),
        ),
        None if prediction.candidates.is_empty() => ("", String::new()),
        None => ("", "right answer further down".to_string()),
    };
    let key = escape(&prediction.key);
    push(
        html,
        format_args!("<article class=\"card {class}\"><div class=\"subject\">"),
    );
    match prediction.image.data_url() {
        Some(url) => push(
            html,
            format_args!(
                "<img src=\"{url}\" width=\"{}\" height=\"{}\" alt=\"Test image {key}\">",
                prediction.image.width, prediction.image.height
            ),
        ),
        None => html.push_str("<div class=\"no-image\">no image</div>"),
    }
    push(
        html,
        format_args!("<p><b>{verdict}</b><code title=\"{key}\">{key}</code></p></div><ol>"),
    );
    for candidate in &prediction.candidates {
        let (class, mark) = if candidate.right {
            (
                " class=\"right\"",
                "<span class=\"tick\" role=\"img\" aria-label=\"right\">✓</span> ",
            )
        } else {
            ("", "")
        };
        push(
            html,
            format_args!(
                "<li{class}><span class=\"text\">{mark}{}</span><span class=\"probability\">{}</span>\
                 <span class=\"bar\"><i style=\"width:{:.1}%\"></i></span></li>",
                caption(&candidate.text),
                percent(candidate.probability),
                100.0 * candidate.probability.clamp(0.0, 1.0)
            ),
        );
    }
    html.push_str("</ol>");
    if let (None, Some(truth)) = (right_at, &prediction.truth) {
        push(
            html,
            format_args!(
                "<p class=\"truth\"><span class=\"tick\">✓</span> {}</p>",
                caption(truth)
            ),
        );
    }
    html.push_str("</article>");
}

/// `read` are all samples that were read, those left out included.
pub(crate) fn bad_samples(shards: &[BadShard], read: Option<u64>) -> String {
    let mut worst: Vec<&BadShard> = shards.iter().filter(|shard| shard.bad > 0).collect();
    if worst.is_empty() {
        return String::new();
    }
    worst.sort_by(|a, b| b.bad.cmp(&a.bad).then_with(|| a.shard.cmp(&b.shard)));
    let bad: u64 = shards.iter().map(|shard| shard.bad).sum();
    let of_all = read.map_or(String::new(), |read| {
        let share = percent(bad as f64 / read.max(1) as f64);
        format!(" of {} ({share})", human_count(read))
    });
    let shown = worst.len().min(SHARDS_SHOWN);
    let mut body = format!(
        "<p class=\"lead\">{}{of_all} samples couldn't be used and were left out; they stand in {} shards.{}</p>",
        human_count(bad),
        human_count(worst.len() as u64),
        if shown < worst.len() {
            format!(" The {shown} worst:")
        } else {
            String::new()
        }
    );
    let rows: Vec<_> = worst[..shown]
        .iter()
        .map(|shard| {
            let kinds = shard
                .kinds
                .iter()
                .map(|(kind, count)| format!("{} {}", human_count(*count), escape(kind)));
            let examples = shard
                .examples
                .iter()
                .map(|key| format!("<code>{}</code>", escape(key)));
            vec![
                format!("<code>{}</code>", escape(&shard.shard)),
                human_count(shard.bad),
                kinds.collect::<Vec<_>>().join(", "),
                examples.collect::<Vec<_>>().join(", "),
            ]
        })
        .collect();
    let columns = ["Shard", "Left out", "Why", "Such as"];
    body.push_str(&table("Samples left out, by shard", &columns, &rows));
    section("bad-samples", "Samples left out", &body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Candidate;

    #[test]
    fn captions_from_the_web_stay_text() {
        let attack = "<script>alert(1)</script>";
        let prediction = Pictured {
            key: "\"><img onerror=x>".into(),
            candidates: vec![Candidate {
                text: attack.into(),
                probability: 0.5,
                right: false,
            }],
            truth: Some(attack.into()),
            ..Pictured::default()
        };
        let shard = BadShard {
            shard: attack.into(),
            bad: 1,
            kinds: vec![(attack.into(), 1)],
            examples: vec![attack.into()],
        };
        let html = predictions(&[prediction]) + &bad_samples(&[shard], Some(10));
        assert!(
            !html.contains("<script") && !html.contains("<img"),
            "{html}"
        );
    }

    #[test]
    fn the_right_caption_is_marked_or_told() {
        let wrong = Candidate {
            text: "a cat".into(),
            probability: 0.7,
            right: false,
        };
        let right = Candidate {
            text: "a dog".into(),
            probability: 0.2,
            right: true,
        };
        let found = Pictured {
            candidates: vec![wrong.clone(), right],
            truth: Some("a dog".into()),
            ..Pictured::default()
        };
        let html = predictions(std::slice::from_ref(&found));
        assert!(
            html.contains("<li class=\"right\">") && html.contains("right answer at rank 2"),
            "{html}"
        );
        assert!(!html.contains("class=\"truth\""));
        let missed = Pictured {
            candidates: vec![wrong],
            rank: Some(37),
            ..found
        };
        let html = predictions(&[missed]);
        assert!(
            html.contains("right answer at rank 37") && html.contains("class=\"truth\""),
            "{html}"
        );
    }

    #[test]
    fn many_classes_show_their_best_and_worst() {
        let class = |place: u32| ClassRow {
            name: format!("class {place:02}"),
            images: 10,
            top1: f64::from(place) / 40.0,
        };
        let set = ZeroShotSet {
            dataset: "x".into(),
            per_class: (0..40).map(class).collect(),
            ..ZeroShotSet::default()
        };
        let html = class_tables(&set);
        assert!(html.contains("class 39") && html.contains("class 00"));
        assert!(!html.contains("class 20"));
    }

    #[test]
    fn shards_without_bad_samples_need_no_section() {
        let good = BadShard {
            shard: "a.tar".into(),
            ..BadShard::default()
        };
        assert_eq!(bad_samples(&[good], None), "");
    }
}
