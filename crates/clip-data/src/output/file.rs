use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

use crate::DataError;

/// Makes what was renamed or written into a folder last: names are safe once their folder is on disk. Not every system lets a
/// folder be opened, and what the files hold is safe already, so a refusal is no failure.
pub(super) fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        folder.sync_all().ok();
    }
}

/// The folder that a file or folder lies in.
pub(super) fn parent(path: &Path) -> &Path {
    let parent = path.parent().filter(|path| !path.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// Writes a file so that a crash leaves the old one or the new one, never half of either.
pub(crate) fn write_atomically(path: &Path, text: &str) -> Result<(), DataError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = path.with_file_name(format!(".{name}.partial"));
    let written = File::create(&partial)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())
                .and_then(|()| file.sync_all())
        })
        .and_then(|()| fs::rename(&partial, path));
    written.map_err(|error| {
        // The error that matters is the one above; a leftover is harmless and overwritten next time.
        fs::remove_file(&partial).ok();
        DataError::io("write", path)(error)
    })?;
    sync_folder(parent(path));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_stays_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write_atomically(&path, "old").unwrap();
        write_atomically(&path, "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        // A folder can't be replaced by a file.
        let folder = dir.path().join("b.json");
        fs::create_dir(&folder).unwrap();
        assert!(write_atomically(&folder, "text").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
