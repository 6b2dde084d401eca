use std::path::{Path, PathBuf};

use super::{ShardItem, ShardReader};
use crate::DataError;

/// What a shard holds, judged by its tar headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardCount {
    /// Samples with an image and some text; their contents may still prove bad.
    pub samples: u64,
    /// Samples and faults: what a reader yields, and what one epoch draws.
    pub items: u64,
}

/// An ordered list of shards, all of which exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardSet {
    paths: Vec<PathBuf>,
}

impl ShardSet {
    /// Reads a list of shards: brace ranges `{000..012}`, globs, and lists joined by `::`.
    ///
    /// # Errors
    /// An empty list, a pattern that can't be understood or names nothing, a shard that doesn't exist.
    pub fn parse(list: &str) -> Result<Self, DataError> {
        let mut paths = Vec::new();
        for pattern in list.split("::").map(str::trim) {
            let bad = |reason: &str| DataError::BadPattern {
                pattern: pattern.to_owned(),
                reason: reason.to_owned(),
            };
            if pattern.is_empty() {
                return Err(bad(
                    "empty; give tar files, such as `data/train-{000000..000009}.tar`",
                ));
            }
            let local = pattern.strip_prefix("file://").unwrap_or(pattern);
            if let Some((scheme, _)) = local.split_once("://") {
                return Err(bad(&format!(
                    "`{scheme}://` is not supported; use a local path"
                )));
            }
            for name in expand_braces(local).map_err(|reason| bad(&reason))? {
                if name.contains(['*', '?', '[']) && !Path::new(&name).exists() {
                    let before = paths.len();
                    let found = glob::glob(&name).map_err(|error| bad(&error.to_string()))?;
                    for path in found {
                        let path = path.map_err(|error| {
                            let path = error.path().to_owned();
                            DataError::io("read", path)(error.into())
                        })?;
                        if path.is_file() {
                            paths.push(path);
                        }
                    }
                    if paths.len() == before {
                        return Err(bad("no file matches"));
                    }
                } else if Path::new(&name).is_file() {
                    paths.push(PathBuf::from(name));
                } else {
                    let path = PathBuf::from(name);
                    return Err(DataError::MissingShard {
                        path,
                        pattern: pattern.to_owned(),
                    });
                }
            }
        }
        Ok(Self { paths })
    }

    /// A list of files, in this order.
    pub fn from_paths(paths: Vec<PathBuf>) -> Self {
        Self { paths }
    }

    /// The files, in order.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The name of a shard as reports show it.
    pub fn name(&self, shard: usize) -> String {
        self.paths[shard].display().to_string()
    }

    /// Counts every shard from its tar headers alone, seeking over the bodies.
    ///
    /// # Errors
    /// [`DataError::Io`] if a shard can't be opened.
    pub fn count(&self) -> Result<Vec<ShardCount>, DataError> {
        let count = |path: &PathBuf| {
            let mut count = ShardCount::default();
            for item in ShardReader::open(path, 0)?.headers_only() {
                count.items += 1;
                count.samples += u64::from(matches!(item, ShardItem::Sample(_)));
            }
            Ok(count)
        };
        self.paths.iter().map(count).collect()
    }
}

/// `a-{08..10}-{x,y}` to `a-08-x`, `a-08-y`, `a-09-x`, ...; numbers keep the width they are written in.
fn expand_braces(pattern: &str) -> Result<Vec<String>, String> {
    let Some(open) = pattern.find('{') else {
        return Ok(vec![pattern.to_owned()]);
    };
    let Some(length) = pattern[open..].find('}') else {
        return Err("a `{` without its `}`".to_owned());
    };
    let (head, body) = (&pattern[..open], &pattern[open + 1..open + length]);
    let rest = expand_braces(&pattern[open + length + 1..])?;
    let parts: Vec<String> = match body.split_once("..") {
        Some((first, last)) => {
            let number = |text: &str| {
                text.parse::<u64>()
                    .map_err(|_| format!("`{{{body}}}` is not a range of numbers"))
            };
            let (low, high) = (number(first)?, number(last)?);
            if low > high {
                return Err(format!("the range `{{{body}}}` runs backwards"));
            }
            if high - low > 10_000_000 {
                return Err(format!(
                    "the range `{{{body}}}` has more than ten million shards"
                ));
            }
            let width = first.len();
            (low..=high)
                .map(|number| format!("{number:0width$}"))
                .collect()
        }
        None => body.split(',').map(str::to_owned).collect(),
    };
    Ok(parts
        .iter()
        .flat_map(|part| rest.iter().map(move |rest| format!("{head}{part}{rest}")))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_expand_with_their_zeros() {
        assert_eq!(
            expand_braces("a-{08..10}.tar").unwrap(),
            ["a-08.tar", "a-09.tar", "a-10.tar"]
        );
        assert_eq!(
            expand_braces("{x,y}{1..2}").unwrap(),
            ["x1", "x2", "y1", "y2"]
        );
        assert!(expand_braces("a-{3..1}").unwrap_err().contains("backwards"));
        assert!(expand_braces("a-{3").is_err());
        assert!(expand_braces("a-{a..b}").is_err());
    }

    #[test]
    fn lists_globs_and_missing_shards() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["t-0.tar", "t-1.tar", "v.tar"] {
            std::fs::write(dir.path().join(name), b"").unwrap();
        }
        let root = dir.path().display();
        let set = ShardSet::parse(&format!("{root}/t-*.tar::{root}/v.tar")).unwrap();
        assert_eq!(set.paths().len(), 3);
        let missing = ShardSet::parse(&format!("{root}/t-{{0..2}}.tar"))
            .unwrap_err()
            .to_string();
        assert!(missing.contains("t-2.tar does not exist"), "{missing}");
        let none = ShardSet::parse(&format!("{root}/x-*.tar"))
            .unwrap_err()
            .to_string();
        assert!(none.contains("no file matches"), "{none}");
        assert!(
            ShardSet::parse("")
                .unwrap_err()
                .to_string()
                .contains("empty")
        );
        assert!(ShardSet::parse("a.tar::").is_err());
    }
}
