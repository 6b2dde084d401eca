use std::fmt::Write;

/// Text of any origin made safe to stand in HTML, between tags and in quoted attributes.
///
/// Control characters, which HTML doesn't allow, become U+FFFD.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(character),
            control if control.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

/// A caption: its own writing direction must not turn the line around it.
pub(crate) fn caption(text: &str) -> String {
    format!("<bdi>{}</bdi>", escape(text))
}

/// A share as percent; small ones with a digit more.
pub(crate) fn percent(share: f64) -> String {
    if !share.is_finite() {
        return "–".to_string();
    }
    let value = 100.0 * share;
    // Chance levels among thousands of classes would all read 0.0%.
    if value > 0.0 && value < 0.1 {
        format!("{value:.2}%")
    } else {
        clip_metrics::percent(share)
    }
}

/// A table: `columns` head it, the first cell of a row names the row, the others are numbers.
///
/// Cells and the caption are HTML already.
pub(crate) fn table(caption: &str, columns: &[&str], rows: &[Vec<String>]) -> String {
    let mut html = format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{caption}\">\
         <table><caption>{caption}</caption><thead><tr>"
    );
    for column in columns {
        push(&mut html, format_args!("<th scope=\"col\">{column}</th>"));
    }
    html.push_str("</tr></thead><tbody>");
    for row in rows {
        html.push_str("<tr>");
        for (place, cell) in row.iter().enumerate() {
            let cell = match place {
                0 => format!("<th scope=\"row\">{cell}</th>"),
                _ => format!("<td>{cell}</td>"),
            };
            html.push_str(&cell);
        }
        html.push_str("</tr>");
    }
    html.push_str("</tbody></table></div>");
    html
}

/// A section with an anchor.
pub(crate) fn section(id: &str, title: &str, body: &str) -> String {
    format!(
        "<section id=\"{id}\" aria-labelledby=\"{id}-title\">\
         <h2 id=\"{id}-title\">{title}</h2>{body}</section>\n"
    )
}

/// Appends formatted text.
pub(crate) fn push(html: &mut String, text: std::fmt::Arguments<'_>) {
    // invariant: writing to a `String` cannot fail.
    html.write_fmt(text).expect("a string takes any text");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_caption_is_markup() {
        assert_eq!(
            escape("<script>alert('1') & \"2\"</script>\u{0}"),
            "&lt;script&gt;alert(&#39;1&#39;) &amp; &quot;2&quot;&lt;/script&gt;\u{fffd}"
        );
    }

    #[test]
    fn small_shares_keep_a_digit() {
        assert_eq!(percent(0.0006), "0.06%");
        assert_eq!(percent(0.052), "5.2%");
        assert_eq!(percent(0.0), "0.0%");
        assert_eq!(percent(f64::NAN), "–");
    }
}
