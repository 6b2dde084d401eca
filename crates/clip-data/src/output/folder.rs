use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use crate::DataError;

/// Held while a process writes.
const LOCK_FILE: &str = ".lock";

/// A new folder, written beside its place under a hidden name and renamed when complete.
///
/// What a process that was killed has left under the hidden name is removed by the next; dropping the folder before
/// [`OutputFolder::publish`] removes it too.
pub(crate) struct OutputFolder {
    target: PathBuf,
    partial: PathBuf,
    /// Locked until the folder is in its place.
    lock: Option<File>,
}

impl OutputFolder {
    /// # Errors
    /// [`DataError::FolderNotEmpty`], [`DataError::FolderBusy`] if another process writes it, [`DataError::Io`].
    pub(crate) fn create(target: &Path) -> Result<Self, DataError> {
        // `.` and `/` can't be renamed to, and are never empty and ours.
        let name = target
            .file_name()
            .ok_or_else(|| DataError::FolderNotEmpty {
                path: target.to_owned(),
                file: ".".to_owned(),
            })?;
        match fs::read_dir(target) {
            Ok(mut entries) => {
                if let Some(entry) = entries.next() {
                    let entry = entry.map_err(DataError::io("read", target))?;
                    return Err(DataError::FolderNotEmpty {
                        path: target.to_owned(),
                        file: entry.file_name().to_string_lossy().into_owned(),
                    });
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(DataError::io("read", target)(error)),
        }
        let partial = target.with_file_name(format!(".{}.partial", name.to_string_lossy()));
        fs::create_dir_all(&partial).map_err(DataError::io("create", &partial))?;
        let lock_path = partial.join(LOCK_FILE);
        let lock = File::create(&lock_path).map_err(DataError::io("create", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DataError::FolderBusy {
                    path: target.to_owned(),
                });
            }
            Err(TryLockError::Error(error)) => {
                return Err(DataError::io("lock", &lock_path)(error));
            }
        }
        let folder = Self {
            target: target.to_owned(),
            partial,
            lock: Some(lock),
        };
        folder.remove_leftovers()?;
        Ok(folder)
    }

    fn remove_leftovers(&self) -> Result<(), DataError> {
        for entry in fs::read_dir(&self.partial).map_err(DataError::io("read", &self.partial))? {
            let path = entry.map_err(DataError::io("read", &self.partial))?.path();
            if !path.ends_with(LOCK_FILE) {
                fs::remove_file(&path).map_err(DataError::io("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Where its files are written.
    pub(crate) fn path(&self) -> &Path {
        &self.partial
    }

    /// Puts the folder in its place.
    pub(crate) fn publish(mut self) -> Result<(), DataError> {
        self.lock = None;
        let lock_path = self.partial.join(LOCK_FILE);
        fs::remove_file(&lock_path).map_err(DataError::io("remove", &lock_path))?;
        if self.target.exists() {
            // It was empty; if it is not any more, this fails.
            fs::remove_dir(&self.target).map_err(DataError::io("replace", &self.target))?;
        }
        fs::rename(&self.partial, &self.target).map_err(DataError::io("rename", &self.partial))
    }
}

impl Drop for OutputFolder {
    fn drop(&mut self) {
        self.lock = None;
        if let Err(error) = fs::remove_dir_all(&self.partial)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            log::warn!("cannot remove {}: {error}", self.partial.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_appears_when_it_is_whole() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("new/set");
        let folder = OutputFolder::create(&target).unwrap();
        fs::write(folder.path().join("a.tar"), b"a").unwrap();
        let second = OutputFolder::create(&target).err().unwrap();
        assert!(matches!(second, DataError::FolderBusy { .. }));
        assert!(!target.exists());
        folder.publish().unwrap();
        let names: Vec<_> = fs::read_dir(root.path().join("new")).unwrap().collect();
        assert_eq!(names.len(), 1);
        assert_eq!(fs::read_dir(&target).unwrap().count(), 1);
        let error = OutputFolder::create(&target).err().unwrap().to_string();
        assert!(error.contains("`a.tar`"), "{error}");
    }

    #[test]
    fn what_a_killed_process_left_does_not_stay() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("set");
        fs::create_dir(&target).unwrap();
        let partial = root.path().join(".set.partial");
        fs::create_dir(&partial).unwrap();
        fs::write(partial.join("torn.tar"), b"torn").unwrap();
        fs::write(partial.join(LOCK_FILE), b"").unwrap();
        OutputFolder::create(&target).unwrap().publish().unwrap();
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
        drop(OutputFolder::create(&target).unwrap());
        assert!(!partial.exists());
    }
}
