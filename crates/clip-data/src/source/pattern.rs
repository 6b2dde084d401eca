use std::path::{Path, PathBuf};

use super::columns::Columns;
use crate::DataError;

/// Names that braces may make: more than any data set has shards, and they fit in memory.
const MAX_NAMES: usize = 10_000_000;

/// Braces within braces: more than anybody writes.
const MAX_DEPTH: usize = 16;

/// One part of a list of shards, its options read.
pub(super) struct Pattern<'a> {
    /// As it was written.
    pub(super) text: &'a str,
    names: &'a str,
    /// Visits of every shard an epoch.
    pub(super) weight: f64,
    pub(super) columns: Columns,
}

impl<'a> Pattern<'a> {
    /// Takes `#weight=2&image=...` off the end.
    pub(super) fn parse(text: &'a str) -> Result<Self, DataError> {
        let text = text.trim();
        let mut pattern = Self {
            text,
            names: text,
            weight: 1.0,
            columns: Columns::default(),
        };
        if let Some((names, options)) = text.rsplit_once('#').filter(|(_, o)| o.contains('=')) {
            pattern.names = names;
            for option in options.split('&') {
                pattern.option(option)?;
            }
        }
        if pattern.names.is_empty() {
            return Err(
                pattern.bad("empty; give tar files, such as `data/train-{000000..000009}.tar`")
            );
        }
        Ok(pattern)
    }

    fn option(&mut self, option: &str) -> Result<(), DataError> {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        match name {
            "weight" => {
                self.weight = parse_weight(value).map_err(|reason| self.bad(&reason))?;
            }
            "image" => self.columns.image = Some(value.to_owned()),
            "caption" => self.columns.caption = Some(value.to_owned()),
            "key" => self.columns.key = Some(value.to_owned()),
            "separator" => {
                self.columns.separator = Some(match value {
                    "tab" => b'\t',
                    _ if value.len() == 1 => value.as_bytes()[0],
                    _ => return Err(self.bad("`separator` is one character, or `tab`")),
                });
            }
            _ => {
                let reason = format!(
                    "`{name}` is not an option; there are weight, image, caption, key and separator"
                );
                return Err(self.bad(&reason));
            }
        }
        Ok(())
    }

    pub(super) fn bad(&self, reason: &str) -> DataError {
        DataError::BadPattern {
            pattern: self.text.to_owned(),
            reason: reason.to_owned(),
        }
    }

    /// The names of remote objects, where it names such.
    pub(super) fn urls(&self) -> Result<Option<Vec<String>>, DataError> {
        let Some((scheme, _)) = self.names.split_once("://").filter(|(s, _)| *s != "file") else {
            return Ok(None);
        };
        if !["http", "https", "s3", "gs", "az"].contains(&scheme) {
            return Err(self.bad(&format!(
                "`{scheme}://` is not supported; use http, https, s3, gs, az or a local path"
            )));
        }
        expand_braces(self.names)
            .map(Some)
            .map_err(|reason| self.bad(&reason))
    }

    /// The files and folders it names, all of which exist.
    pub(super) fn paths(&self) -> Result<Vec<PathBuf>, DataError> {
        let local = self.names.strip_prefix("file://").unwrap_or(self.names);
        let mut paths = Vec::new();
        for name in expand_braces(local).map_err(|reason| self.bad(&reason))? {
            if name.contains(['*', '?', '[']) && !Path::new(&name).exists() {
                let before = paths.len();
                let found = glob::glob(&name).map_err(|error| self.bad(&error.to_string()))?;
                for path in found {
                    let path = path.map_err(|error| {
                        let path = error.path().to_owned();
                        clip_files::io("read", path)(error.into())
                    })?;
                    // A link into nowhere, or to a disk that isn't there, is a shard that is missing.
                    let kind = std::fs::metadata(&path).map_err(clip_files::io("read", &path))?;
                    if kind.is_file() {
                        paths.push(path);
                    } else {
                        log::warn!("left out, for it is no file: {}", path.display());
                    }
                }
                if paths.len() == before {
                    return Err(self.bad("no file matches"));
                }
            } else if let Ok(kind) = std::fs::metadata(&name) {
                if !kind.is_file() && !kind.is_dir() {
                    return Err(self.bad(
                        "a pipe or a device can't be read twice: save what it gives to a file",
                    ));
                }
                paths.push(PathBuf::from(name));
            } else {
                return Err(DataError::MissingShard {
                    path: PathBuf::from(name),
                    pattern: self.text.to_owned(),
                });
            }
        }
        Ok(paths)
    }
}

/// A factor of `--train-data-upsampling-factors`, as `OpenCLIP` calls it.
fn parse_weight(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(weight) if weight > 0.0 && weight <= 1000.0 => Ok(weight),
        _ => Err(format!(
            "the weight `{text}` is not a number above 0 and at most 1000"
        )),
    }
}

/// `a-{08..10}-{x,y}` to `a-08-x`, `a-08-y`, `a-09-x`, ...; numbers keep the width they are written in. What a comma
/// separates may hold braces itself.
fn expand_braces(pattern: &str) -> Result<Vec<String>, String> {
    expand(pattern, 0)
}

fn expand(pattern: &str, depth: usize) -> Result<Vec<String>, String> {
    let mut names = vec![String::new()];
    let mut rest = pattern;
    while let Some(open) = rest.find('{') {
        let (head, body) = (&rest[..open], &rest[open + 1..]);
        let close = closing_brace(body).ok_or("a `{` without its `}`")?;
        let parts = alternatives(&body[..close], depth)?;
        if parts.len().saturating_mul(names.len()) > MAX_NAMES {
            return Err("its braces make more than ten million names".to_owned());
        }
        let with = |name: &String| {
            let name = format!("{name}{head}");
            parts.iter().map(move |part| format!("{name}{part}"))
        };
        names = names.iter().flat_map(with).collect();
        rest = &body[close + 1..];
    }
    for name in &mut names {
        name.push_str(rest);
    }
    Ok(names)
}

/// Where the brace closes that stands open before the text.
fn closing_brace(text: &str) -> Option<usize> {
    let mut open = 1;
    text.find(|c| {
        open += i32::from(c == '{') - i32::from(c == '}');
        open == 0
    })
}

/// What a pair of braces with this between them stands for.
fn alternatives(body: &str, depth: usize) -> Result<Vec<String>, String> {
    if depth == MAX_DEPTH {
        return Err(format!(
            "braces stand within braces more than {MAX_DEPTH} times"
        ));
    }
    let mut open = 0;
    let parts = body.split(|c| {
        open += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && open == 0
    });
    let parts: Vec<&str> = parts.collect();
    if let [part] = parts[..]
        && !part.contains('{')
        && let Some((first, last)) = part.split_once("..")
    {
        return range(first, last);
    }
    let mut names = Vec::new();
    for part in parts {
        names.extend(expand(part, depth + 1)?);
        if names.len() > MAX_NAMES {
            return Err("its braces make more than ten million names".to_owned());
        }
    }
    Ok(names)
}

fn range(first: &str, last: &str) -> Result<Vec<String>, String> {
    let written = format!("`{{{first}..{last}}}`");
    let number = |text: &str| {
        text.parse::<u64>()
            .map_err(|_| format!("{written} is not a range of numbers"))
    };
    let (low, high) = (number(first)?, number(last)?);
    if low > high {
        return Err(format!("the range {written} runs backwards"));
    }
    if high - low >= MAX_NAMES as u64 {
        return Err(format!(
            "the range {written} has more than ten million names"
        ));
    }
    let width = first.len();
    Ok((low..=high)
        .map(|number| format!("{number:0width$}"))
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
        assert_eq!(
            expand_braces("{a,b{x,{1..2}}-{y,z},c}.tar").unwrap(),
            [
                "a.tar", "bx-y.tar", "bx-z.tar", "b1-y.tar", "b1-z.tar", "b2-y.tar", "b2-z.tar",
                "c.tar"
            ]
        );
        assert_eq!(expand_braces("{../a,../b}").unwrap(), ["../a", "../b"]);
        assert!(expand_braces("{a,{b,c}").unwrap_err().contains("without"));
        let deep = format!("{}a{}", "{".repeat(10_000), "}".repeat(10_000));
        assert!(expand_braces(&deep).unwrap_err().contains("within braces"));
        assert!(expand_braces("a-{3..1}").unwrap_err().contains("backwards"));
        let many = expand_braces("{0..9999}-{0..9999}").unwrap_err();
        assert!(many.contains("ten million"), "{many}");
        assert!(expand_braces("a-{3").is_err());
        assert!(expand_braces("a-{a..b}").is_err());
    }

    #[test]
    fn options_follow_the_names() {
        let pattern = Pattern::parse("a.csv#weight=2.5&image=file&separator=tab").unwrap();
        assert_eq!((pattern.names, pattern.weight), ("a.csv", 2.5));
        assert_eq!(pattern.columns.image.as_deref(), Some("file"));
        assert_eq!(pattern.columns.separator, Some(b'\t'));
        let reason = |text: &str| Pattern::parse(text).err().unwrap().to_string();
        assert!(reason("a.tar#weight=0").contains("above 0"));
        assert!(reason("a.tar#wait=1").contains("`wait` is not an option"));
        assert!(reason("#weight=1").contains("empty"));
        let ftp = Pattern::parse("ftp://host/a.tar").unwrap();
        assert!(
            ftp.urls()
                .unwrap_err()
                .to_string()
                .contains("`ftp://` is not supported")
        );
    }
}
