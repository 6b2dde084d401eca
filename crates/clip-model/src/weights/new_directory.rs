use std::{
    fs::{self, File},
    path::Path,
};

use super::safetensors::sync_rename;
use crate::ModelError;

/// Makes a folder of files so that it is there whole or not at all: `fill` writes into a temporary folder beside it,
/// which gets its name once everything is on disk.
///
/// # Errors
/// [`ModelError::Exists`] if something is there already; [`ModelError::Io`]; what `fill` fails with.
pub fn create_directory<E: From<ModelError>>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    refuse_existing(path)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".partial-{}", std::process::id()));
    let partial = path.with_file_name(name);
    // What a killed process with this one's number left.
    let _ = fs::remove_dir_all(&partial);
    let made = fs::create_dir_all(&partial).map_err(ModelError::io("create", &partial));
    let written = made
        .map_err(E::from)
        .and_then(|()| fill(&partial))
        .and_then(|()| Ok(publish(&partial, path)?));
    if written.is_err() {
        // The error that matters is the one above.
        let _ = fs::remove_dir_all(&partial);
    }
    written
}

/// # Errors
/// [`ModelError::Exists`] if `path` is anything but an empty folder.
pub fn refuse_existing(path: &Path) -> Result<(), ModelError> {
    let empty = match fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(_) => !path.exists(),
    };
    if empty {
        return Ok(());
    }
    Err(ModelError::Exists {
        path: path.to_owned(),
    })
}

fn publish(partial: &Path, path: &Path) -> Result<(), ModelError> {
    let entries = fs::read_dir(partial).map_err(ModelError::io("read", partial))?;
    for entry in entries {
        let file = entry.map_err(ModelError::io("read", partial))?.path();
        let synced = File::open(&file).and_then(|file| file.sync_all());
        synced.map_err(ModelError::io("write", file))?;
    }
    if path.is_dir() {
        fs::remove_dir(path).map_err(ModelError::io("replace", path))?;
    }
    fs::rename(partial, path).map_err(ModelError::io("rename", path))?;
    sync_rename(path);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("deep/model");
        let failed: Result<(), ModelError> = create_directory(&out, |partial| {
            fs::write(partial.join("a"), b"half").unwrap();
            refuse_existing(partial)
        });
        assert!(matches!(failed, Err(ModelError::Exists { .. })));
        assert_eq!(fs::read_dir(dir.path().join("deep")).unwrap().count(), 0);
    }

    #[test]
    fn what_is_there_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("model");
        let write = |text: &str| {
            create_directory(&out, |partial| {
                fs::write(partial.join("a"), text).map_err(ModelError::io("write", partial))
            })
        };
        fs::create_dir(&out).unwrap();
        write("first").unwrap();
        let error = write("second").unwrap_err().to_string();
        assert!(error.contains("exists and is not empty"), "{error}");
        assert_eq!(fs::read(out.join("a")).unwrap(), b"first");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
