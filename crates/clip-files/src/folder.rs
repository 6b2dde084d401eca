use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use crate::{
    IoError, LOCK, PARTIAL, beside,
    file::{sync_file, sync_folder},
    lock::PathLock,
    parent,
    unfinished::{Unfinished, remove},
};

/// Why a folder can't be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// It is there and holds something.
    #[error(
        "{path} holds `{file}`, and nothing is overwritten; give a folder that is new or empty"
    )]
    NotEmpty {
        /// The folder.
        path: PathBuf,
        /// A file in it.
        file: String,
    },
    /// Another process writes it.
    #[error("another process is writing {path}; wait for it, or give another folder")]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// Something came in its place while it was written.
    #[error("{written} is whole but can't be put in its place, {path}: move it where you want it")]
    NotPublished {
        /// Where it was to be.
        path: PathBuf,
        /// Where it is.
        written: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] IoError),
}

/// A new folder, written beside its place under a hidden name and renamed when complete.
///
/// What a process that was killed has left under the hidden name is removed by the next; dropping the folder before
/// [`NewFolder::publish`] removes it too.
#[derive(Debug)]
pub struct NewFolder {
    target: PathBuf,
    unfinished: Unfinished,
    /// Held until the folder is in its place.
    _lock: PathLock,
}

impl NewFolder {
    /// A folder that isn't there, or is empty.
    ///
    /// # Errors
    /// [`FolderError::NotEmpty`], [`FolderError::Busy`] if another process writes it, [`FolderError::Io`], also if it
    /// is there and can't be replaced.
    pub fn create(target: &Path) -> Result<Self, FolderError> {
        // Before anything is made.
        check_new(target)?;
        let path = lock_path(target)?;
        let lock = PathLock::try_take(&path).map_err(crate::io("lock", &path))?;
        let lock = lock.ok_or_else(|| FolderError::Busy {
            path: target.to_owned(),
        })?;
        // Again, as another process may have put it there since; and what can't be replaced, such as a mount point, is
        // told now and not after hours of work.
        check_new(target)?;
        absent(fs::remove_dir(target)).map_err(crate::io("replace", target))?;
        Self::begin(target, lock)
    }

    /// As [`create`](Self::create), but of several processes one makes it and the others wait: `None` if `is_there`
    /// says so then. What stands at the target is the caller's to remove before it is published.
    ///
    /// # Errors
    /// [`FolderError::Io`], and what `is_there` fails with.
    pub fn create_once<E: From<FolderError>>(
        target: &Path,
        is_there: impl FnOnce() -> Result<bool, E>,
    ) -> Result<Option<Self>, E> {
        let path = lock_path(target)?;
        let lock = PathLock::wait(&path).map_err(crate::io("lock", &path));
        let lock = lock.map_err(FolderError::Io)?;
        if is_there()? {
            return Ok(None);
        }
        Ok(Some(Self::begin(target, lock)?))
    }

    fn begin(target: &Path, lock: PathLock) -> Result<Self, FolderError> {
        let partial = beside(target, PARTIAL);
        remove(&partial).map_err(crate::io("remove", &partial))?;
        fs::create_dir(&partial).map_err(crate::io("create", &partial))?;
        Ok(Self {
            target: target.to_owned(),
            unfinished: Unfinished::new(partial),
            _lock: lock,
        })
    }

    /// Where its files are written.
    pub fn path(&self) -> &Path {
        self.unfinished.path()
    }

    /// Puts the folder in its place, when its files are on the disk.
    ///
    /// # Errors
    /// [`FolderError::Io`] if they don't get there. [`FolderError::NotPublished`] if something is in its place by now:
    /// what was written stays.
    pub fn publish(mut self) -> Result<(), FolderError> {
        let partial = self.path().to_owned();
        let entries = fs::read_dir(&partial).map_err(crate::io("read", &partial))?;
        for entry in entries {
            let path = entry.map_err(crate::io("read", &partial))?.path();
            if path.is_file() {
                sync_file(&path).map_err(crate::io("write", &path))?;
            }
        }
        sync_folder(&partial);
        // Nothing of it is removed from here on, whatever happens.
        self.unfinished.keep();
        let published = self
            .unfinished
            .finish(|| fs::rename(&partial, &self.target));
        published.map_err(|source| FolderError::NotPublished {
            path: self.target.clone(),
            written: partial,
            source,
        })?;
        sync_folder(parent(&self.target));
        Ok(())
    }
}

/// Refuses a folder that holds something, so that a long work needn't end with that.
///
/// # Errors
/// [`FolderError::NotEmpty`], and [`FolderError::Io`] if it is there and can't be read.
pub fn check_new(target: &Path) -> Result<(), FolderError> {
    let file = match fs::read_dir(target) {
        // `.` and `/` can't be renamed to, and are never empty and ours.
        _ if target.file_name().is_none() => Some(Ok(".".to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Ok(mut entries) => entries
            .next()
            .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned())),
        Err(error) => Some(Err(error)),
    };
    match file {
        None => Ok(()),
        Some(Ok(file)) => Err(FolderError::NotEmpty {
            path: target.to_owned(),
            file,
        }),
        Some(Err(error)) => Err(crate::io("read", target)(error).into()),
    }
}

/// Where the lock is, in a folder that is made for it.
fn lock_path(target: &Path) -> Result<PathBuf, FolderError> {
    let parent = parent(target);
    fs::create_dir_all(parent).map_err(crate::io("create", parent))?;
    Ok(beside(target, LOCK))
}

/// What is fine if it doesn't exist.
fn absent(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_appears_when_it_is_whole() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("new/set");
        let folder = NewFolder::create(&target).unwrap();
        fs::write(folder.path().join("a.tar"), b"a").unwrap();
        let second = NewFolder::create(&target).err().unwrap();
        assert!(matches!(second, FolderError::Busy { .. }));
        assert!(!target.exists());
        folder.publish().unwrap();
        assert!(!root.path().join("new/.set.partial").exists());
        assert_eq!(fs::read_dir(&target).unwrap().count(), 1);
        let error = NewFolder::create(&target).err().unwrap().to_string();
        assert!(error.contains("`a.tar`"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn no_lock_stays_beside_the_folder() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("set");
        let lock = root.path().join(".set.lock");
        let folder = NewFolder::create(&target).unwrap();
        assert!(NewFolder::create(&target).is_err() && lock.exists());
        drop(folder);
        assert!(!lock.exists());
        // A process that was killed leaves one.
        fs::write(&lock, b"").unwrap();
        NewFolder::create(&target).unwrap().publish().unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn of_several_at_once_one_writes() {
        let root = tempfile::tempdir().unwrap();
        for round in 0..20 {
            let target = root.path().join(round.to_string());
            let written = std::thread::scope(|scope| {
                let runs: Vec<_> = (0..4)
                    .map(|run: u8| {
                        let target = &target;
                        scope.spawn(move || {
                            let folder = NewFolder::create(target).ok()?;
                            fs::write(folder.path().join("a.tar"), [run]).unwrap();
                            folder.publish().ok().map(|()| run)
                        })
                    })
                    .collect();
                let runs = runs.into_iter().filter_map(|run| run.join().unwrap());
                runs.collect::<Vec<u8>>()
            });
            assert_eq!(fs::read(target.join("a.tar")).unwrap(), written);
        }
        if cfg!(unix) {
            assert_eq!(fs::read_dir(root.path()).unwrap().count(), 20);
        }
    }

    #[test]
    fn what_a_killed_process_left_does_not_stay() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("set");
        fs::create_dir(&target).unwrap();
        let partial = root.path().join(".set.partial");
        fs::create_dir(&partial).unwrap();
        fs::write(partial.join("torn.tar"), b"torn").unwrap();
        NewFolder::create(&target).unwrap().publish().unwrap();
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
        drop(NewFolder::create(&target).unwrap());
        assert!(!partial.exists());
    }

    #[test]
    fn what_was_written_stays_if_its_place_is_taken() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("set");
        let folder = NewFolder::create(&target).unwrap();
        fs::write(folder.path().join("a.tar"), b"hours of work").unwrap();
        fs::create_dir(&target).unwrap();
        fs::write(target.join("note"), b"by somebody else").unwrap();
        let error = folder.publish().unwrap_err().to_string();
        assert!(error.contains(".set.partial"), "{error}");
        let kept = fs::read(root.path().join(".set.partial/a.tar")).unwrap();
        assert_eq!(kept, b"hours of work");
        assert!(target.join("note").exists());
    }

    #[test]
    #[cfg(unix)]
    fn what_cannot_be_replaced_is_refused_before_the_work() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("empty")).unwrap();
        let link = root.path().join("set");
        std::os::unix::fs::symlink("empty", &link).unwrap();
        let error = NewFolder::create(&link).err().unwrap().to_string();
        assert!(error.starts_with("cannot replace"), "{error}");
        assert!(!root.path().join(".set.partial").exists());
    }
}
