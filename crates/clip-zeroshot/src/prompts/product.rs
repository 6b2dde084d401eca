use super::{ClassNames, Templates};

/// Each class's name in each template: what a text encoder reads to make a classifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompts {
    texts: Vec<String>,
    templates: usize,
}

impl Prompts {
    /// The cross product of names and templates.
    pub fn new(names: &ClassNames, templates: &Templates) -> Self {
        let texts = names
            .as_slice()
            .iter()
            .flat_map(|name| {
                templates
                    .as_slice()
                    .iter()
                    .map(|template| template.fill(name))
            })
            .collect();
        Self {
            texts,
            templates: templates.len(),
        }
    }

    /// All prompts, those of one class together, in the order of the templates.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// The class and the template of a prompt, by its position in [`texts`](Self::texts).
    pub fn class_and_template(&self, position: usize) -> (usize, usize) {
        (position / self.templates, position % self.templates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DuplicateNames;

    #[test]
    fn every_name_meets_every_template() {
        let names = ClassNames::from_text("cat\ndog", "", DuplicateNames::Refuse).unwrap();
        let templates = Templates::from_text("a {}\nmy {}\nno {}", "").unwrap();
        let prompts = Prompts::new(&names, &templates);
        assert_eq!(
            prompts.texts(),
            ["a cat", "my cat", "no cat", "a dog", "my dog", "no dog"]
        );
        assert_eq!(prompts.class_and_template(4), (1, 1));
    }
}
