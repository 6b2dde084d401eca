use std::collections::BTreeMap;

use serde_json::Value;

use crate::ZeroShotError;

/// One class name or template, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// From 1.
    pub(super) line: usize,
    pub(super) text: String,
}

/// A bracketed list of strings, and the name that it is assigned to.
#[derive(Debug)]
struct List {
    name: String,
    entries: Vec<Entry>,
}

/// The entries of a file: one a line, the strings of a Python or JSON list, or those of a JSON object by their indices.
///
/// Of several lists, as in OpenCLIP's `zero_shot_metadata.py`, the first whose name contains one of
/// `wanted` is taken.
pub(super) fn read_entries(
    text: &str,
    origin: &str,
    wanted: &[&str],
) -> Result<Vec<Entry>, ZeroShotError> {
    let text = text.trim_start_matches('\u{feff}');
    if let Some(structure) = other_structure(text) {
        return by_index(text).map_err(|reason| ZeroShotError::BadLine {
            origin: origin.to_owned(),
            line: 1,
            reason: format!(
                "this begins as {structure}, but {reason}; write one entry a line, a list of strings, or a JSON object of \
                 index and name"
            ),
        });
    }
    if !is_list(text) {
        return lines(text, origin);
    }
    let bad = |(line, reason): (usize, String)| ZeroShotError::BadLine {
        origin: origin.to_owned(),
        line,
        reason,
    };
    let mut lists = Scanner::new(text).lists().map_err(bad)?;
    let chosen = lists.iter().position(|list| {
        let name = list.name.to_lowercase();
        wanted.iter().any(|word| name.contains(word))
    });
    match (chosen, lists.len()) {
        (Some(chosen), _) => Ok(lists.swap_remove(chosen).entries),
        (None, 1) => Ok(lists.swap_remove(0).entries),
        _ => {
            let names: Vec<&str> = lists.iter().map(|list| list.name.as_str()).collect();
            let reason = format!(
                "several lists ({}), and none has `{}` in its name: name the one to use so",
                names.join(", "),
                wanted[0]
            );
            Err(bad((1, reason)))
        }
    }
}

fn lines(text: &str, origin: &str) -> Result<Vec<Entry>, ZeroShotError> {
    let entries: Vec<Entry> = text
        .trim_end()
        .lines()
        .zip(1..)
        .map(|(text, line)| Entry {
            line,
            text: text.trim().to_owned(),
        })
        .collect();
    match entries.iter().find(|entry| entry.text.is_empty()) {
        Some(empty) => Err(ZeroShotError::BadLine {
            origin: origin.to_owned(),
            line: empty.line,
            reason: "the line is empty: remove it".to_owned(),
        }),
        None => Ok(entries),
    }
}

/// What text begins as that is neither lines nor a list of strings. A template may begin with `{}`, and a name with a bracket.
fn other_structure(text: &str) -> Option<&'static str> {
    let mut chars = text.chars().filter(|c| !c.is_whitespace());
    match (chars.next()?, chars.next()?) {
        ('{', '"' | '\'' | '0'..='9') => Some("an object"),
        ('[', '{' | '[' | '0'..='9') => Some("a list of something else than strings"),
        _ => None,
    }
}

/// The names of `{"0": "tench"}`, or of `{"0": ["n01440764", "tench"]}`, as Keras has `ImageNet`'s.
fn by_index(text: &str) -> Result<Vec<Entry>, String> {
    let value: Value =
        serde_json::from_str(text).map_err(|error| format!("is no JSON ({error})"))?;
    let object = value.as_object().ok_or("is no JSON object")?;
    let mut names = BTreeMap::new();
    for (key, value) in object {
        let index: usize = key.parse().map_err(|_| format!("`{key}` is no index"))?;
        let name = value
            .as_str()
            .or_else(|| value.as_array()?.last()?.as_str());
        let name = name
            .ok_or_else(|| format!("index {key} has no name"))?
            .trim();
        if name.is_empty() {
            return Err(format!("the name of index {key} is empty"));
        }
        let before = text.find(&format!("\"{key}\"")).unwrap_or(0);
        let entry = Entry {
            line: 1 + text[..before].matches('\n').count(),
            text: name.to_owned(),
        };
        if names.insert(index, entry).is_some() {
            return Err(format!("index {index} comes twice"));
        }
    }
    match names.keys().enumerate().find(|(at, index)| at != *index) {
        Some((missing, _)) => Err(format!("index {missing} is missing")),
        None => Ok(names.into_values().collect()),
    }
}

/// Whether text begins as `[`, `(` or `NAME = [`, with a string or a lambda inside.
fn is_list(text: &str) -> bool {
    let mut scanner = Scanner::new(text);
    scanner.skip_blank();
    let rest: String = scanner.chars[scanner.at..].iter().collect();
    let Some(open) = rest.find(['[', '(']) else {
        return false;
    };
    let name = rest[..open].trim();
    let assigned = name.is_empty()
        || name.strip_suffix('=').is_some_and(|name| {
            let name = name.trim();
            !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_')
        });
    let mut inside = Scanner::new(&rest[open + 1..]);
    inside.skip_blank();
    let inside: String = inside.chars[inside.at..].iter().take(8).collect();
    let first = inside.trim_start_matches(['f', 'r', 'u']);
    assigned && (first.starts_with(['"', '\'']) || inside.starts_with("lambda"))
}

/// Reads just enough of Python's and JSON's syntax to find the strings of top-level lists.
struct Scanner {
    chars: Vec<char>,
    at: usize,
    line: usize,
}

impl Scanner {
    fn new(text: &str) -> Self {
        Self {
            chars: text.chars().collect(),
            at: 0,
            line: 1,
        }
    }

    fn next(&mut self) -> Option<char> {
        let next = self.chars.get(self.at).copied()?;
        self.at += 1;
        self.line += usize::from(next == '\n');
        Some(next)
    }

    fn skip_line(&mut self) {
        while self.next().is_some_and(|c| c != '\n') {}
    }

    /// Skips white space and comments.
    fn skip_blank(&mut self) {
        while let Some(&next) = self.chars.get(self.at) {
            match next {
                '#' => self.skip_line(),
                c if c.is_whitespace() => {
                    self.next();
                }
                _ => return,
            }
        }
    }

    fn lists(mut self) -> Result<Vec<List>, (usize, String)> {
        let mut lists = Vec::new();
        let mut name = String::new();
        loop {
            self.skip_blank();
            match self.next() {
                None => return Ok(lists),
                Some(open @ ('[' | '(')) => {
                    let entries = self.list(if open == '[' { ']' } else { ')' })?;
                    let name = std::mem::take(&mut name);
                    let name = name.trim_end_matches('=').trim().to_owned();
                    lists.push(List { name, entries });
                }
                Some(other) => name.push(other),
            }
        }
    }

    /// The strings up to a closing bracket. What is outside them, as `lambda c: f`, says nothing new.
    fn list(&mut self, close: char) -> Result<Vec<Entry>, (usize, String)> {
        let opened = self.line;
        let mut entries: Vec<Entry> = Vec::new();
        // Strings with no comma between them are one, in Python.
        let mut separated = true;
        loop {
            self.skip_blank();
            let line = self.line;
            match self.next() {
                None => return Err((opened, format!("the list is not closed by `{close}`"))),
                Some(',') => separated = true,
                Some(quote @ ('"' | '\'')) => {
                    let text = self.string(quote)?;
                    match entries.last_mut() {
                        Some(last) if !separated => last.text.push_str(&text),
                        _ => entries.push(Entry { line, text }),
                    }
                    separated = false;
                }
                Some(c) if c == close => break,
                Some('[' | '{' | '(') => {
                    return Err((
                        line,
                        "a list inside the list: only strings can be used".into(),
                    ));
                }
                Some(_) => {}
            }
        }
        for entry in &mut entries {
            entry.text = entry.text.trim().to_owned();
            if entry.text.is_empty() {
                return Err((entry.line, "the string is empty: remove it".to_owned()));
            }
        }
        Ok(entries)
    }

    fn string(&mut self, quote: char) -> Result<String, (usize, String)> {
        let opened = self.line;
        let unclosed = || (opened, "the string is not closed on its line".to_owned());
        let mut text = String::new();
        loop {
            match self.next().ok_or_else(unclosed)? {
                '\n' => return Err(unclosed()),
                '\\' => self.escape(&mut text).ok_or_else(unclosed)?,
                c if c == quote => return Ok(text),
                c => text.push(c),
            }
        }
    }

    fn escape(&mut self, text: &mut String) -> Option<()> {
        let escaped = self.next()?;
        let digits = match escaped {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => {
                match escaped {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    '\'' | '"' | '\\' | '/' => text.push(escaped),
                    // As Python: an unknown escape stands for itself.
                    _ => text.extend(['\\', escaped]),
                }
                return Some(());
            }
        };
        let mut code = 0u32;
        for _ in 0..digits {
            code = code.wrapping_mul(16) | self.next()?.to_digit(16)?;
        }
        // Half of a surrogate pair is no character; the published names have none.
        text.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, wanted: &str) -> Result<Vec<(usize, String)>, String> {
        read_entries(text, "names.txt", &[wanted])
            .map(|entries| entries.into_iter().map(|e| (e.line, e.text)).collect())
            .map_err(|error| error.to_string())
    }

    fn texts(text: &str, wanted: &str) -> Vec<String> {
        read(text, wanted)
            .unwrap()
            .into_iter()
            .map(|(_, text)| text)
            .collect()
    }

    #[test]
    fn plain_lines_keep_what_looks_like_syntax() {
        let read = read(
            "\u{feff}(parenthesis)\r\n  #: keycap \nit's [odd]\n\n",
            "class",
        )
        .unwrap();
        let expected = [(1, "(parenthesis)"), (2, "#: keycap"), (3, "it's [odd]")];
        assert!(read.iter().map(|(l, t)| (*l, t.as_str())).eq(expected));
    }

    #[test]
    fn an_empty_line_is_named() {
        assert_eq!(
            read("cat\n\ndog\n", "class").unwrap_err(),
            "names.txt, line 2: the line is empty: remove it"
        );
        assert!(
            read("[\"cat\",\n ' ']", "class")
                .unwrap_err()
                .contains("line 2")
        );
    }

    #[test]
    fn openclips_python_and_json_lists_are_read() {
        let python = "# from a notebook\nSIMPLE_TEMPLATES = (\n    lambda c: f'itap of a {c}.',\n    \
                      lambda c: f\"a {c}'s photo\",  # it's fine, really\n)\n\n\nCLASSNAMES = [\n    \"tench\", \
                      'jack-o\\'-lantern',\n    \"Pok\\u00e9mon\"\n    \" card\",\n]\n";
        assert_eq!(
            texts(python, "template"),
            ["itap of a {c}.", "a {c}'s photo"]
        );
        assert_eq!(
            read(python, "class").unwrap(),
            [
                (9, "tench".to_owned()),
                (9, "jack-o'-lantern".to_owned()),
                (10, "Pokémon card".to_owned())
            ]
        );
        assert_eq!(texts("[\"a {}\", \"b {}\"]", "template"), ["a {}", "b {}"]);
    }

    #[test]
    fn an_object_gives_its_names_in_the_order_of_their_indices() {
        let plain = r#"{"10": "k", "2": "c", "0": "a", "1": "b", "3": "d", "4": "e", "5": "f", "6": "g", "7": "h",
            "8": "i", "9": "j"}"#;
        assert_eq!(texts(plain, "class").concat(), "abcdefghijk");
        let keras = "{\n\"0\": [\"n01440764\", \"tench\"],\n\"1\": [\"n01443537\", \"goldfish\"]}";
        let expected = [(2, "tench".to_owned()), (3, "goldfish".to_owned())];
        assert_eq!(read(keras, "class").unwrap(), expected);
    }

    #[test]
    fn json_of_another_form_is_no_list_of_lines() {
        for (text, reason) in [
            (r#"{"tench": 0}"#, "`tench` is no index"),
            (r#"{"0": "a", "2": "b"}"#, "index 1 is missing"),
            (r#"{"0": 3}"#, "index 0 has no name"),
            ("{0: 'tench'}", "is no JSON"),
            ("[\n {\"name\": \"cat\"}]", "is no JSON object"),
            ("[1, 2]", "is no JSON object"),
        ] {
            let error = read(text, "class").unwrap_err();
            assert!(
                error.contains(reason) && error.contains("one entry a line"),
                "{error}"
            );
        }
        // The bare class name, as a template.
        assert_eq!(texts("{}\na {}", "template"), ["{}", "a {}"]);
    }

    #[test]
    fn broken_lists_say_where() {
        assert!(
            read("x = ['cat',\n'dog", "class")
                .unwrap_err()
                .contains("line 2")
        );
        assert!(
            read("x = ['cat',\n", "class")
                .unwrap_err()
                .contains("not closed by `]`")
        );
        assert!(
            read("x = ['cat', ['dog']]", "class")
                .unwrap_err()
                .contains("only strings")
        );
        let error = read("a = ['cat']\nb = ['dog']", "class").unwrap_err();
        assert!(error.contains("several lists (a, b)"), "{error}");
    }
}
