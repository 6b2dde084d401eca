use clip_metrics::{Direction, gibibytes, human_count, human_duration, label_of, significant};
use sha2::{Digest, Sha256};

use crate::{
    Curves, Facts, Report,
    charts::section_of_curves,
    html::{escape, percent, push, section},
    picture::base64,
    results,
};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("hover.js");

/// The whole page.
pub(crate) fn page(report: &Report) -> String {
    let facts = &report.facts;
    let title = match (report.title.as_str(), &facts.preset) {
        ("", Some(preset)) => preset.as_str(),
        ("", None) => "CLIP training run",
        (title, _) => title,
    };
    let sections = [
        section_of_curves(
            &report.curves,
            facts.loss_of_guessing,
            facts.max_logit_scale,
        ),
        results::predictions(&report.predictions),
        results::retrieval(&report.retrieval),
        results::zeroshot(&report.zeroshot),
        results::bad_samples(&report.bad_samples, facts.samples_read),
        use_it(report),
        configuration(report.config.as_deref()),
    ];
    let mut body = format!(
        "<header><p class=\"eyebrow\">CLIP training report</p><h1>{}</h1>",
        escape(title)
    );
    body.push_str(&headline(report));
    body.push_str(&fact_list(facts));
    body.push_str("</header>\n<main>\n");
    body.extend(sections);
    body.push_str("</main>\n");
    let title = format!("{title} · CLIP training report");
    document(&title, &body, facts.version.as_deref())
}

/// A page around `body`, which may use the style and the charts' script.
pub(crate) fn document(title: &str, body: &str, version: Option<&str>) -> String {
    // Nothing on the page may load or run anything but its own script, whatever a caption says.
    let script_hash = base64(&Sha256::digest(SCRIPT.as_bytes()));
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; \
         style-src 'unsafe-inline'; script-src 'sha256-{script_hash}'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{}</title>\n<style>{STYLE}</style></head>\n<body>\n{body}\
         <footer>Made by clip{}. This file needs nothing else and loads nothing.</footer>\n\
         <script>{SCRIPT}</script>\n</body></html>\n",
        escape(title),
        version.map_or(String::new(), |version| format!(" {}", escape(version)))
    )
}

/// The few numbers that a reader came for.
fn headline(report: &Report) -> String {
    let mut cards: Vec<(String, String, String)> = Vec::new();
    for set in report.zeroshot.iter().take(2) {
        let about = format!("zero-shot top-1, {}", set.dataset);
        let chance = format!("chance {}", percent(1.0 / set.classes.max(1) as f64));
        cards.push((percent(set.top1), about, chance));
    }
    if let Some(set) = report.retrieval.first() {
        for direction in Direction::BOTH {
            if let Some(value) = set.recall(direction, 10) {
                let chance = percent((10.0 / set.images.max(1) as f64).min(1.0));
                let label = label_of(&direction.recall(10));
                cards.push((percent(value), label, format!("chance {chance}")));
            }
        }
    }
    if let Some(loss) = final_loss(&report.curves) {
        let chance = report.facts.loss_of_guessing;
        let chance = chance.map_or(String::new(), |loss| format!("chance {loss:.2}"));
        cards.push((
            significant(loss, 3),
            "training loss, last tenth".into(),
            chance,
        ));
    }
    if cards.is_empty() {
        return String::new();
    }
    let mut html = "<ul class=\"headline\">".to_string();
    for (value, about, chance) in cards {
        push(
            &mut html,
            format_args!(
                "<li><b>{value}</b><span>{}</span><small>{chance}</small></li>",
                escape(&about)
            ),
        );
    }
    html + "</ul>"
}

/// The mean of the last tenth, for one batch's loss is noise.
pub(crate) fn final_loss(curves: &Curves) -> Option<f64> {
    let points = curves.points("loss");
    let last = &points[points.len() - points.len().div_ceil(10)..];
    let sum: f64 = last.iter().map(|(_, loss)| loss).sum();
    (!last.is_empty()).then(|| sum / last.len() as f64)
}

fn fact_list(facts: &Facts) -> String {
    let count = |value: Option<u64>| value.map(human_count);
    let steps = facts.steps.map(|steps| match facts.total_steps {
        Some(total) if total != steps => {
            format!("{} of {}", human_count(steps), human_count(total))
        }
        _ => human_count(steps),
    });
    let rate = facts
        .images_per_s
        .map(|rate| format!("{} images/s", significant(rate, 3)));
    let memory = facts.peak_memory.map(gibibytes);
    let truncated = facts.truncated_captions.map(|captions| {
        let read = facts.samples_read.unwrap_or_default().max(1);
        let share = percent(captions as f64 / read as f64);
        format!("{} ({share})", human_count(captions))
    });
    let facts = [
        ("Preset", facts.preset.clone()),
        ("Parameters", count(facts.parameters)),
        ("Began with", facts.init.clone()),
        ("Teacher", facts.teacher.clone()),
        ("Training data", facts.train_data.clone()),
        ("Validation data", facts.val_data.clone()),
        ("Seed", facts.seed.map(|seed| seed.to_string())),
        ("Steps", steps),
        ("Epochs", facts.epochs.map(|epochs| significant(epochs, 3))),
        ("Samples seen", count(facts.samples)),
        ("Captions truncated", truncated),
        ("Batch", count(facts.batch.map(|batch| batch as u64))),
        ("Throughput", rate),
        ("Backend", facts.backend.clone()),
        ("Wall time", facts.wall_s.map(human_duration)),
        ("Peak memory", memory),
    ];
    let mut html = "<dl class=\"facts\">".to_string();
    for (name, value) in facts {
        if let Some(value) = value {
            let class = if name.ends_with("data") {
                " class=\"wide\""
            } else {
                ""
            };
            push(
                &mut html,
                format_args!(
                    "<div{class}><dt>{name}</dt><dd>{}</dd></div>",
                    escape(&value)
                ),
            );
        }
    }
    html + "</dl>"
}

fn use_it(report: &Report) -> String {
    let Some(model) = &report.model_dir else {
        return String::new();
    };
    let data = report
        .facts
        .val_data
        .as_deref()
        .unwrap_or("test-{000000..000003}.tar");
    let (model_arg, data) = (shell_quoted(model), shell_quoted(data));
    // Python's and Rust's string escapes agree on what a path may hold.
    let source = format!("{:?}", format!("local-dir:{model}"));
    let python = format!(
        "import open_clip\n\
         model, _, preprocess = open_clip.create_model_and_transforms({source})\n\
         tokenizer = open_clip.get_tokenizer({source})"
    );
    let commands = [
        (
            "Say which label fits a picture",
            format!("clip classify photo.jpg --model {model_arg} --labels \"a dog,a cat\""),
        ),
        (
            "Rank captions and images against each other",
            format!("clip eval retrieval --model {model_arg} --data {data}"),
        ),
        (
            "Classify a labelled set",
            format!(
                "clip eval zeroshot --model {model_arg} --data labelled.tar --classes classes.txt \
                 --templates templates.txt"
            ),
        ),
        (
            "Features of pictures and texts",
            format!(
                "clip embed --model {model_arg} --images *.jpg --texts lines.txt \
                 --out features.safetensors"
            ),
        ),
        ("In Python, with OpenCLIP", python),
    ];
    let mut body = format!(
        "<p class=\"lead\">The model is the folder <code>{}</code>: weights, tokenizer and \
         configuration.</p><dl class=\"commands\">",
        escape(model)
    );
    for (what, command) in commands {
        push(
            &mut body,
            format_args!(
                "<dt>{what}</dt><dd><pre tabindex=\"0\">{}</pre></dd>",
                escape(&command)
            ),
        );
    }
    section("use", "Use the model", &(body + "</dl>"))
}

/// An argument as a shell wants it. Braces and stars are quoted: `clip` expands them itself.
fn shell_quoted(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:=+@,".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        return argument.to_string();
    }
    format!("'{}'", argument.replace('\'', r"'\''"))
}

fn configuration(config: Option<&str>) -> String {
    let Some(config) = config else {
        return String::new();
    };
    let body = format!(
        "<details><summary>Every setting, with its default where none was given</summary>\
         <pre tabindex=\"0\">{}</pre></details>",
        escape(config.trim_end())
    );
    section("configuration", "Configuration", &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_report_is_a_page_without_sections() {
        let html = Report::default().to_html();
        assert!(html.starts_with("<!doctype html>") && html.ends_with("</html>\n"));
        assert!(!html.contains("<section"));
    }

    #[test]
    fn nothing_on_the_page_comes_from_elsewhere() {
        let mut report = Report::default();
        report.facts.train_data = Some("</dd><script src=//x>".into());
        report.config = Some("a = \"</pre><script>alert(1)</script>\"".into());
        report.curves.push("</svg><script>", 1.0, 1.0);
        report.curves.push("loss", 1.0, 5.0);
        report.model_dir = Some("it's/model".into());
        let html = report.to_html();
        assert_eq!(html.matches("<script").count(), 1, "only the page's own");
        for outside in ["http://", "https://", "src=\"//", "@import", "url("] {
            assert!(!html.contains(outside), "{outside}");
        }
    }

    #[test]
    fn paths_survive_a_shell() {
        assert_eq!(shell_quoted("runs/a-1/model"), "runs/a-1/model");
        assert_eq!(shell_quoted("t-{0..3}.tar"), "'t-{0..3}.tar'");
        assert_eq!(shell_quoted("it's"), r"'it'\''s'");
    }
}
