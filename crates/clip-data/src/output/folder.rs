use std::{
    fs::{self, File, TryLockError},
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::file::{parent, sync_folder};
use crate::DataError;

const PARTIAL: &str = "partial";
const LOCK: &str = "lock";

/// Under its hidden name, each folder that this process is writing.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes what this process has written of new folders, for it to end at once: whoever writes one waits for that end
/// from here on.
pub fn abandon_folders() {
    let unfinished = unfinished();
    for partial in &*unfinished {
        // A file that is begun meanwhile keeps the folder at the first try.
        let gone = (0..3).any(|_| absent(fs::remove_dir_all(partial)).is_ok());
        if gone && cfg!(unix) {
            fs::remove_file(partial.with_extension(LOCK)).ok();
        }
    }
    std::mem::forget(unfinished);
}

/// A new folder, written beside its place under a hidden name and renamed when complete.
///
/// What a process that was killed has left under the hidden name is removed by the next; dropping the folder before
/// [`OutputFolder::publish`] removes it too.
pub(crate) struct OutputFolder {
    target: PathBuf,
    partial: PathBuf,
    /// Whether dropping it leaves the hidden folder as it is.
    keep: bool,
    /// Held until the folder is in its place.
    _lock: FolderLock,
}

impl OutputFolder {
    /// # Errors
    /// [`DataError::FolderNotEmpty`], [`DataError::FolderBusy`] if another process writes it, [`DataError::Io`], also if
    /// it is there and can't be replaced.
    pub(crate) fn create(target: &Path) -> Result<Self, DataError> {
        // `.` and `/` can't be renamed to, and are never empty and ours.
        let name = target
            .file_name()
            .ok_or_else(|| DataError::FolderNotEmpty {
                path: target.to_owned(),
                file: ".".to_owned(),
            })?;
        // Before anything is made.
        check_empty(target)?;
        let hidden = |kind| target.with_file_name(format!(".{}.{kind}", name.to_string_lossy()));
        let (partial, lock_path) = (hidden(PARTIAL), hidden(LOCK));
        let parent = parent(target);
        fs::create_dir_all(parent).map_err(DataError::io("create", parent))?;
        let lock = FolderLock::take(lock_path, target)?;
        // Again, as another process may have put it there since; and what can't be replaced, such as a mount point, is
        // told now and not after hours of work.
        check_empty(target)?;
        absent(fs::remove_dir(target)).map_err(DataError::io("replace", target))?;
        absent(fs::remove_dir_all(&partial)).map_err(DataError::io("remove", &partial))?;
        fs::create_dir(&partial).map_err(DataError::io("create", &partial))?;
        unfinished().push(partial.clone());
        Ok(Self {
            target: target.to_owned(),
            partial,
            keep: false,
            _lock: lock,
        })
    }

    /// Where its files are written.
    pub(crate) fn path(&self) -> &Path {
        &self.partial
    }

    /// Puts the folder in its place.
    ///
    /// # Errors
    /// [`DataError::NotPublished`] if something is in its place by now. What was written stays.
    pub(crate) fn publish(mut self) -> Result<(), DataError> {
        // Nothing of it is removed from here on, whatever happens.
        self.keep = true;
        sync_folder(&self.partial);
        // An interruption removes the folder before this, or leaves it.
        let mut unfinished = unfinished();
        unfinished.retain(|partial| *partial != self.partial);
        fs::rename(&self.partial, &self.target).map_err(|source| DataError::NotPublished {
            path: self.target.clone(),
            written: self.partial.clone(),
            source,
        })?;
        sync_folder(parent(&self.target));
        Ok(())
    }
}

/// An empty hidden file that is locked. Where a file without a name can be told from one with it, it is removed while it
/// is still locked, so that none stays behind.
struct FolderLock {
    path: PathBuf,
    _file: File,
}

impl FolderLock {
    fn take(path: PathBuf, target: &Path) -> Result<Self, DataError> {
        loop {
            let file = File::create(&path).map_err(DataError::io("create", &path))?;
            match file.try_lock() {
                // The process that held it may have removed it after it was opened here. Another one that comes now makes a
                // file of its own, and would not be kept out.
                Ok(()) if !is_at(&file, &path) => {}
                Ok(()) => return Ok(Self { path, _file: file }),
                Err(TryLockError::WouldBlock) => {
                    return Err(DataError::FolderBusy {
                        path: target.to_owned(),
                    });
                }
                Err(TryLockError::Error(error)) => {
                    return Err(DataError::io("lock", &path)(error));
                }
            }
        }
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        if cfg!(unix) {
            // One that stays is empty, and locked anew by the next process.
            fs::remove_file(&self.path).ok();
        }
    }
}

/// Whether the path still leads to the open file.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;

    let place = |about: fs::Metadata| (about.dev(), about.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(own), Ok(there)) => place(own) == place(there),
        _ => false,
    }
}

/// Nothing removes it here.
#[cfg(not(unix))]
fn is_at(_file: &File, _path: &Path) -> bool {
    true
}

/// What is fine if it doesn't exist.
fn absent(removed: std::io::Result<()>) -> std::io::Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// A folder without entries, or none.
fn check_empty(target: &Path) -> Result<(), DataError> {
    let entry = match fs::read_dir(target) {
        Ok(mut entries) => entries.next(),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(DataError::io("read", target)(error)),
    };
    let Some(entry) = entry else {
        return Ok(());
    };
    let entry = entry.map_err(DataError::io("read", target))?;
    Err(DataError::FolderNotEmpty {
        path: target.to_owned(),
        file: entry.file_name().to_string_lossy().into_owned(),
    })
}

impl Drop for OutputFolder {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        let mut unfinished = unfinished();
        unfinished.retain(|partial| *partial != self.partial);
        if let Err(error) = absent(fs::remove_dir_all(&self.partial)) {
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
        assert!(!root.path().join("new/.set.partial").exists());
        assert_eq!(fs::read_dir(&target).unwrap().count(), 1);
        let error = OutputFolder::create(&target).err().unwrap().to_string();
        assert!(error.contains("`a.tar`"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn no_lock_stays_beside_the_folder() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("set");
        let lock = root.path().join(".set.lock");
        let folder = OutputFolder::create(&target).unwrap();
        assert!(OutputFolder::create(&target).is_err() && lock.exists());
        drop(folder);
        assert!(!lock.exists());
        // A process that was killed leaves one.
        fs::write(&lock, b"").unwrap();
        OutputFolder::create(&target).unwrap().publish().unwrap();
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
                            let folder = OutputFolder::create(target).ok()?;
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
        OutputFolder::create(&target).unwrap().publish().unwrap();
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
        drop(OutputFolder::create(&target).unwrap());
        assert!(!partial.exists());
    }

    #[test]
    fn what_was_written_stays_if_its_place_is_taken() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("set");
        let folder = OutputFolder::create(&target).unwrap();
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
        let error = OutputFolder::create(&link).err().unwrap().to_string();
        assert!(error.starts_with("cannot replace"), "{error}");
        assert!(!root.path().join(".set.partial").exists());
    }
}
