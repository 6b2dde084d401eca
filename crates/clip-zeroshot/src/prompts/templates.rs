use std::path::Path;

use clip_files::sha256::Parts;

use super::entries::read_entries;
use crate::ZeroShotError;

/// A sentence with a gap for a class name: `a photo of a {}, a type of pet.`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    /// What stands between the gaps; one more than there are gaps.
    pieces: Vec<String>,
}

impl Template {
    /// Reads `{}`, `{0}` or `{name}` as the gap, `{{` and `}}` as braces.
    ///
    /// # Errors
    /// What is wrong with it, and the remedy.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = vec![String::new()];
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            // invariant: there is one piece from the start on.
            let piece = pieces.last_mut().expect("invariant: never empty");
            piece.push_str(before);
            if let Some(after) = from.strip_prefix("{{") {
                piece.push('{');
                rest = after;
            } else if let Some(after) = from.strip_prefix("}}") {
                piece.push('}');
                rest = after;
            } else {
                rest = from
                    .strip_prefix('{')
                    .and_then(|inside| inside.split_once('}'))
                    .filter(|(name, _)| name.chars().all(|c| c.is_alphanumeric() || c == '_'))
                    .map(|(_, after)| after)
                    .ok_or_else(|| {
                        format!("`{text}` has a brace that is no `{{}}`: write `{{{{` for a brace itself")
                    })?;
                pieces.push(String::new());
            }
        }
        if pieces.len() == 1 {
            return Err(format!(
                "template `{text}` has no `{{}}`, so every class would get the same prompt: put one where the \
                 class name goes"
            ));
        }
        if let Some(last) = pieces.last_mut() {
            last.push_str(rest);
        }
        Ok(Self {
            text: text.to_owned(),
            pieces,
        })
    }

    /// The prompt of one class.
    pub fn fill(&self, name: &str) -> String {
        self.pieces.join(name)
    }

    /// The template as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Several templates, whose features are averaged for each class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Templates {
    templates: Vec<Template>,
}

impl Default for Templates {
    /// The paper's default prompt (section 3.1.4).
    fn default() -> Self {
        let text = "a photo of a {}.";
        let pieces = ["a photo of a ", "."].map(str::to_owned).to_vec();
        let text = text.to_owned();
        Self {
            templates: vec![Template { text, pieces }],
        }
    }
}

impl Templates {
    /// Reads a file: one template a line with `{}` for the class name, or a Python or JSON list of strings or
    /// lambdas, as OpenCLIP and OpenAI publish them.
    ///
    /// # Errors
    /// [`ZeroShotError::Io`], or [`ZeroShotError::BadLine`] for an empty line or one without `{}`.
    pub fn from_file(path: &Path) -> Result<Self, ZeroShotError> {
        let text = std::fs::read_to_string(path).map_err(clip_files::io("read", path))?;
        Self::from_text(&text, &path.display().to_string())
    }

    /// Reads what a file may hold. `origin` names it in errors.
    ///
    /// # Errors
    /// [`ZeroShotError::BadLine`] for an empty line or one without `{}`, [`ZeroShotError::Nothing`]
    /// without any.
    pub fn from_text(text: &str, origin: &str) -> Result<Self, ZeroShotError> {
        let templates = read_entries(text, origin, &["template"])?
            .into_iter()
            .map(|entry| {
                Template::parse(&entry.text).map_err(|reason| ZeroShotError::BadLine {
                    origin: origin.to_owned(),
                    line: entry.line,
                    reason,
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        if templates.is_empty() {
            return Err(ZeroShotError::Nothing {
                origin: origin.to_owned(),
                what: "template",
            });
        }
        Ok(Self { templates })
    }

    /// Templates from a list, such as those on a command line.
    ///
    /// # Errors
    /// As [`Templates::from_text`]; the line is the template's position, from 1.
    pub fn from_list<T: AsRef<str>>(templates: &[T], origin: &str) -> Result<Self, ZeroShotError> {
        let templates = templates.iter().zip(1..).map(|(template, line)| {
            Template::parse(template.as_ref()).map_err(|reason| ZeroShotError::BadLine {
                origin: origin.to_owned(),
                line,
                reason,
            })
        });
        let templates = templates.collect::<Result<Vec<_>, _>>()?;
        if templates.is_empty() {
            return Err(ZeroShotError::Nothing {
                origin: origin.to_owned(),
                what: "template",
            });
        }
        Ok(Self { templates })
    }

    /// Each template with what all classes are put at its end, before its full stop: `a type of pet` makes
    /// `a photo of a {}.` to `a photo of a {}, a type of pet.`
    ///
    /// # Errors
    /// As [`Templates::from_list`].
    ///
    /// # References
    /// Radford et al. 2021, section 3.1.4.
    pub fn with_context(&self, context: &str) -> Result<Self, ZeroShotError> {
        let context = context.trim().trim_end_matches('.');
        let texts: Vec<String> = self
            .templates
            .iter()
            .map(|template| match template.as_str().strip_suffix('.') {
                Some(sentence) => format!("{sentence}, {context}."),
                None => format!("{}, {context}", template.as_str()),
            })
            .collect();
        Self::from_list(&texts, "the templates with their context")
    }

    /// The templates, in their order.
    pub fn as_slice(&self) -> &[Template] {
        &self.templates
    }

    /// How many templates there are, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.templates.len()
    }

    /// SHA-256 of the templates and their order.
    pub fn hash(&self) -> String {
        Parts::of(self.templates.iter().map(Template::as_str)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(template: &str) -> String {
        Template::parse(template).unwrap().fill("cat")
    }

    #[test]
    fn every_published_form_of_the_gap_is_filled() {
        assert_eq!(fill("a photo of a {}."), "a photo of a cat.");
        assert_eq!(fill("a {c}, a type of pet"), "a cat, a type of pet");
        assert_eq!(fill("{0}"), "cat");
        assert_eq!(fill("{c} and {c}"), "cat and cat");
        assert_eq!(fill("{{{}}} {{}}"), "{cat} {}");
        let default = Templates::default();
        assert_eq!(
            default,
            Templates::from_text("a photo of a {}.", "").unwrap()
        );
        assert_eq!(default.as_slice()[0].fill("{}"), "a photo of a {}.");
    }

    #[test]
    fn a_template_without_a_gap_is_refused_with_file_and_line() {
        let error = Templates::from_text("a {}\na photo", "t.txt")
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("t.txt, line 2: template `a photo` has no `{}`"),
            "{error}"
        );
        let listed = Templates::from_list(&["{}", "a"], "--template").unwrap_err();
        assert!(listed.to_string().starts_with("--template, line 2"));
        for broken in ["a {", "a } {}", "a {b c}", "a {{}}"] {
            assert!(Template::parse(broken).is_err(), "{broken}");
        }
        assert!(matches!(
            Templates::from_text("", "t.txt"),
            Err(ZeroShotError::Nothing { .. })
        ));
    }
}
