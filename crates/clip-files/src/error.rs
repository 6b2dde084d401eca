use std::{error::Error, io, path::PathBuf};

/// What the operating system refused; why is its source.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}")]
pub struct IoError {
    /// What was being done: `read`, `write`, `create`, `rename`, `remove`, `lock` and the like.
    pub action: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// The operating system's reason.
    pub source: io::Error,
}

/// Wraps an input/output error with what was being done to which path, as in `.map_err(io("read", path))?`.
pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> IoError {
    let path = path.into();
    move |source| IoError {
        action,
        path,
        source,
    }
}

/// What an error and its causes say, the outermost first.
///
/// Errors of other libraries may end with their cause's text, which isn't said again then.
pub fn reasons(error: &(dyn Error + 'static)) -> Vec<String> {
    let mut reasons: Vec<String> = Vec::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        let text = error.to_string();
        let said = reasons.last().is_some_and(|last| {
            let before = last.strip_suffix(&text);
            before.is_some_and(|before| before.is_empty() || before.ends_with(": "))
        });
        if !said {
            reasons.push(text);
        }
        cause = error.source();
    }
    reasons
}

/// [`reasons`] on one line, as a log or another error's text has them.
pub fn one_line(error: &(dyn Error + 'static)) -> String {
    reasons(error).join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> IoError {
        io("write", "disk/out.tar")(io::Error::other("disk"))
    }

    #[test]
    fn a_cause_is_said_once_even_where_its_words_stood_before() {
        // "disk" stands in the path.
        assert_eq!(reasons(&refused()), ["cannot write disk/out.tar", "disk"]);
        assert_eq!(one_line(&refused()), "cannot write disk/out.tar: disk");
    }

    #[test]
    fn what_others_say_with_their_cause_is_not_repeated() {
        #[derive(Debug, thiserror::Error)]
        #[error("request error: {0}")]
        struct Quoting(#[source] IoError);

        let error = Quoting(refused());
        assert_eq!(
            reasons(&error),
            ["request error: cannot write disk/out.tar", "disk"]
        );
    }
}
