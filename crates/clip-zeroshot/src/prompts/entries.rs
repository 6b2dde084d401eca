use std::collections::BTreeMap;

use serde_json::Value;

use super::scanner::{Scanner, is_list, is_name};
use crate::ZeroShotError;

/// One class name or template, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// From 1.
    pub(super) line: usize,
    pub(super) text: String,
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
    let wrong = entries.iter().find_map(|entry| {
        let reason = if entry.text.is_empty() {
            "the line is empty: remove it"
        } else if opens_list(&entry.text) {
            "a list begins here, after lines that are no part of one: give the list alone, or one entry a line"
        } else {
            return None;
        };
        Some((entry.line, reason.to_owned()))
    });
    match wrong {
        Some((line, reason)) => Err(ZeroShotError::BadLine {
            origin: origin.to_owned(),
            line,
            reason,
        }),
        None => Ok(entries),
    }
}

/// Whether a line reads `NAME = [` or `NAME = (`, with a type after the name or without.
fn opens_list(line: &str) -> bool {
    line.split_once('=').is_some_and(|(name, value)| {
        let name = name.split(':').next().unwrap_or_default();
        is_name(name.trim()) && value.trim_start().starts_with(['[', '('])
    })
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
    fn what_comes_before_a_python_list_is_no_entry() {
        let list = "classes = [\n    'tench',\n    'goldfish',\n]\n";
        for before in [
            "import os\n",
            "from __future__ import annotations\n\nimport os, sys\n",
            "from a import (\n    b,\n    c,\n)\n",
            "\"\"\"The names (in order),\nfrom [the paper].\"\"\"\n# A comment.\nimport os\n",
            "'''It's short.'''\n",
        ] {
            let line = before.lines().count() + 2;
            let expected = [
                (line, "tench".to_owned()),
                (line + 1, "goldfish".to_owned()),
            ];
            assert_eq!(read(&format!("{before}{list}"), "class").unwrap(), expected);
        }
        for (text, place) in [
            (format!("N = 2\n{list}"), "line 2: a list begins here"),
            (
                "if True:\n    names: list[str] = (\n'cat')".to_owned(),
                "line 2",
            ),
        ] {
            let error = read(&text, "class").unwrap_err();
            assert!(error.contains(place), "{error}");
        }
        // Without a list, they are names as others.
        let names = ["import taxes", "from A to B", "a = b", "x (y)"];
        assert_eq!(texts(&names.join("\n"), "class"), names);
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
