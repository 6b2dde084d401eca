use super::entries::Entry;

/// A bracketed list of strings, and the name that it is assigned to.
#[derive(Debug)]
pub(super) struct List {
    pub(super) name: String,
    pub(super) entries: Vec<Entry>,
}

/// Whether a text may be the name of a list in Python.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || c == '_')
}

/// Whether text begins as `[`, `(` or `NAME = [`, with a string or a lambda inside; in Python, imports and what the file
/// says of itself may come first.
pub(super) fn is_list(text: &str) -> bool {
    let mut scanner = Scanner::new(text);
    scanner.skip_preamble();
    let rest: String = scanner.chars[scanner.at..].iter().collect();
    let Some(open) = rest.find(['[', '(']) else {
        return false;
    };
    let name = rest[..open].trim();
    let assigned = name.is_empty()
        || name
            .strip_suffix('=')
            .is_some_and(|name| is_name(name.trim()));
    let mut inside = Scanner::new(&rest[open + 1..]);
    inside.skip_blank();
    let inside: String = inside.chars[inside.at..].iter().take(8).collect();
    let first = inside.trim_start_matches(['f', 'r', 'u']);
    assigned && (first.starts_with(['"', '\'']) || inside.starts_with("lambda"))
}

/// Reads just enough of Python's and JSON's syntax to find the strings of top-level lists.
pub(super) struct Scanner {
    chars: Vec<char>,
    at: usize,
    line: usize,
}

impl Scanner {
    pub(super) fn new(text: &str) -> Self {
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

    /// Skips what stands before a Python file's first list: comments, imports and a docstring.
    fn skip_preamble(&mut self) {
        loop {
            self.skip_blank();
            if self.stands_at("import ") || self.stands_at("from ") {
                self.skip_import();
            } else if self.stands_at("\"\"\"") || self.stands_at("'''") {
                self.skip_docstring();
            } else {
                return;
            }
        }
    }

    fn stands_at(&self, text: &str) -> bool {
        let rest = self.chars[self.at..].iter().copied();
        text.chars().eq(rest.take(text.chars().count()))
    }

    /// Skips a line, and the further ones that its parentheses hold.
    fn skip_import(&mut self) {
        let mut inside = false;
        while let Some(next) = self.next() {
            match next {
                '(' => inside = true,
                ')' => inside = false,
                '\n' if !inside => return,
                _ => {}
            }
        }
    }

    /// Skips a string between three quotes.
    fn skip_docstring(&mut self) {
        let quote = self.chars[self.at];
        self.at += 3;
        let mut quotes = 0;
        while quotes < 3 {
            match self.next() {
                Some(next) if next == quote => quotes += 1,
                Some(_) => quotes = 0,
                None => return,
            }
        }
    }

    /// All lists at the top level.
    ///
    /// # Errors
    /// The line, and what is wrong there.
    pub(super) fn lists(mut self) -> Result<Vec<List>, (usize, String)> {
        self.skip_preamble();
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
