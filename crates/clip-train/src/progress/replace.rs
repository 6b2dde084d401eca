use std::{io, path::Path};

/// [`clip_files::replace`], with the file in its error.
///
/// # Errors
///
/// The folder or the file cannot be written; the message names the path.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    clip_files::replace(path, bytes).map_err(|error| at("write", path, &error))
}

/// `error` with what was being done to which file.
pub(crate) fn at(action: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("cannot {action} {}: {error}", path.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gone/report.html");
        let message = replace_file(&path, b"x").unwrap_err().to_string();
        assert!(message.contains("gone"), "{message}");
    }
}
