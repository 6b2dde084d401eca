use std::{collections::HashMap, path::Path};

use clip_files::sha256::Parts;

use super::entries::{Entry, read_entries};
use crate::ZeroShotError;

/// What to do with a class name that occurs twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DuplicateNames {
    /// Refuse it: two classes with one name can't be told apart, and mostly it is a slip.
    #[default]
    Refuse,
    /// Keep both, as the published `ImageNet` names need (`missile` and `sunglasses` occur twice in them).
    Allow,
}

/// The names of a classifier's classes; a label is a position in them, from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassNames {
    names: Vec<String>,
}

impl ClassNames {
    /// Reads a file: one name a line, or a Python or JSON list of strings, as OpenCLIP and OpenAI publish them.
    ///
    /// # Errors
    /// [`ZeroShotError::Io`], or [`ZeroShotError::BadLine`] for an empty or repeated name.
    pub fn from_file(path: &Path, duplicates: DuplicateNames) -> Result<Self, ZeroShotError> {
        let text = std::fs::read_to_string(path).map_err(clip_files::io("read", path))?;
        Self::from_text(&text, &path.display().to_string(), duplicates)
    }

    /// Reads what a file may hold. `origin` names it in errors.
    ///
    /// # Errors
    /// [`ZeroShotError::BadLine`] for an empty or repeated name, [`ZeroShotError::Nothing`] without any.
    pub fn from_text(
        text: &str,
        origin: &str,
        duplicates: DuplicateNames,
    ) -> Result<Self, ZeroShotError> {
        let entries = read_entries(text, origin, &["class", "label"])?;
        Self::from_entries(entries, origin, duplicates)
    }

    /// Names from a list, such as the labels on a command line.
    ///
    /// # Errors
    /// [`ZeroShotError::BadName`] for an empty or repeated name, [`ZeroShotError::Nothing`] without any.
    pub fn from_list<T: AsRef<str>>(names: &[T], origin: &str) -> Result<Self, ZeroShotError> {
        let entries = names.iter().zip(1..).map(|(name, line)| Entry {
            line,
            text: name.as_ref().trim().to_owned(),
        });
        let entries: Vec<Entry> = entries.collect();
        if let Some(empty) = entries.iter().find(|entry| entry.text.is_empty()) {
            return Err(ZeroShotError::BadName {
                origin: origin.to_owned(),
                reason: format!("name {} is empty: remove it", empty.line),
            });
        }
        if let Some((twice, _)) = repeated(&entries) {
            return Err(ZeroShotError::BadName {
                origin: origin.to_owned(),
                reason: format!("`{}` comes twice: give each class its own name", twice.text),
            });
        }
        Self::from_entries(entries, origin, DuplicateNames::Allow)
    }

    fn from_entries(
        entries: Vec<Entry>,
        origin: &str,
        duplicates: DuplicateNames,
    ) -> Result<Self, ZeroShotError> {
        if entries.is_empty() {
            return Err(ZeroShotError::Nothing {
                origin: origin.to_owned(),
                what: "class name",
            });
        }
        if let (Some((entry, before)), DuplicateNames::Refuse) = (repeated(&entries), duplicates) {
            return Err(ZeroShotError::BadLine {
                origin: origin.to_owned(),
                line: entry.line,
                reason: format!(
                    "class `{}` is on line {before} already: give each class its own name (two may share one by \
                     `--allow-duplicates`, or `allow_duplicates = true` in a TOML file's set)",
                    entry.text
                ),
            });
        }
        let names = entries.into_iter().map(|entry| entry.text).collect();
        Ok(Self { names })
    }

    /// The names, in the order of their labels.
    pub fn as_slice(&self) -> &[String] {
        &self.names
    }

    /// How many classes there are, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// SHA-256 of the names and their order.
    pub fn hash(&self) -> String {
        Parts::of(&self.names).finish()
    }
}

/// The first name that stood before, and the line where it did.
fn repeated(entries: &[Entry]) -> Option<(&Entry, usize)> {
    let mut seen = HashMap::new();
    entries.iter().find_map(|entry| {
        let before = seen.insert(entry.text.as_str(), entry.line)?;
        Some((entry, before))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_name_is_refused_with_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pets.txt");
        std::fs::write(&path, "cat\ndog\ncat\n").unwrap();
        let error = ClassNames::from_file(&path, DuplicateNames::Refuse).unwrap_err();
        let expected = format!(
            "{}, line 3: class `cat` is on line 1 already",
            path.display()
        );
        assert!(error.to_string().starts_with(&expected), "{error}");
        let allowed = ClassNames::from_file(&path, DuplicateNames::Allow).unwrap();
        assert_eq!(allowed.as_slice(), ["cat", "dog", "cat"]);
    }

    #[test]
    fn a_file_without_names_or_without_being_is_refused() {
        let error = ClassNames::from_text(" \n", "none.txt", DuplicateNames::Refuse).unwrap_err();
        assert_eq!(
            error.to_string(),
            "none.txt holds no class name: write one a line"
        );
        let error =
            ClassNames::from_file(Path::new("absent.txt"), DuplicateNames::Refuse).unwrap_err();
        assert!(
            error.to_string().contains("cannot read absent.txt"),
            "{error}"
        );
    }

    #[test]
    fn a_list_may_hold_any_name_but_an_empty_or_repeated_one() {
        let odd = ["[a]", "it's \"quoted\"", "back\\slash", "#1", "é\u{1f600}"];
        let names = ClassNames::from_list(&odd, "--labels").unwrap();
        assert_eq!(names.as_slice(), odd);
        let error = ClassNames::from_list(&["a", "b", "a"], "--labels").unwrap_err();
        assert_eq!(
            error.to_string(),
            "--labels: `a` comes twice: give each class its own name"
        );
        assert!(ClassNames::from_list(&["a", ""], "--labels").is_err());
        assert!(ClassNames::from_list::<&str>(&[], "--labels").is_err());
    }
}
