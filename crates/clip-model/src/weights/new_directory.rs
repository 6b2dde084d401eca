use std::{fs, path::Path};

use clip_files::{FolderError, NewFolder};

use crate::ModelError;

/// Makes a folder of files so that it is there whole or not at all: `fill` writes into a temporary folder beside it,
/// which gets its name once everything is on disk.
///
/// # Errors
/// [`ModelError::Exists`] if something is there already; [`ModelError::Folder`]; what `fill` fails with.
pub fn create_directory<E: From<ModelError>>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    refuse_existing(path)?;
    let folder = NewFolder::create(path).map_err(refused)?;
    fill(folder.path())?;
    Ok(folder.publish().map_err(refused)?)
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

fn refused(error: FolderError) -> ModelError {
    match error {
        FolderError::NotEmpty { path, .. } => ModelError::Exists { path },
        other => ModelError::Folder(other),
    }
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
                fs::write(partial.join("a"), text)
                    .map_err(clip_files::io("write", partial))
                    .map_err(ModelError::Io)
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
