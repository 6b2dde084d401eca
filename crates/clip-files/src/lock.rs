use std::{
    fs::{self, File, TryLockError},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The files of all locks that this process has and that don't stay.
static HELD: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn held() -> MutexGuard<'static, Vec<PathBuf>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An empty file that is locked until this is dropped, or the process ends. Where a file without a name can be told from
/// one with it, as on Unix, it is removed while it is still locked, so that none stays behind; [`abandon`](crate::abandon)
/// removes it too, unless it is to [stay](Self::leave_file).
#[derive(Debug)]
pub struct PathLock {
    path: PathBuf,
    /// Whether the file is left when it is let go.
    stays: bool,
    file: File,
}

impl PathLock {
    /// Makes the file and locks it; `None` while another process, or another of these, has it.
    ///
    /// # Errors
    /// When the file can't be made, or its file system has no locks.
    pub fn try_take(path: &Path) -> io::Result<Option<Self>> {
        Self::take(path, |file| match file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        })
    }

    /// As [`try_take`](Self::try_take), but waits for whoever has it.
    pub(crate) fn wait(path: &Path) -> io::Result<Self> {
        loop {
            if let Some(lock) = Self::take(path, |file| file.lock().map(|()| true))? {
                return Ok(lock);
            }
        }
    }

    /// Leaves the file behind when it is let go, for those who look whether it is held.
    #[must_use]
    pub fn leave_file(mut self) -> Self {
        self.stays = true;
        held().retain(|path| *path != self.path);
        self
    }

    /// Whether it is still where it was taken: whoever moves or replaces its folder takes it along.
    ///
    /// # Errors
    /// When the system can't look.
    pub fn is_in_place(&self) -> io::Result<bool> {
        is_at(&self.file, &self.path)
    }

    fn take(path: &Path, lock: impl Fn(&File) -> io::Result<bool>) -> io::Result<Option<Self>> {
        loop {
            let file = File::create(path)?;
            if !lock(&file)? {
                return Ok(None);
            }
            // The process that held it may have removed it after it was opened here. Another one that comes now makes a
            // file of its own, and would not be kept out.
            if is_at(&file, path)? {
                held().push(path.to_owned());
                return Ok(Some(Self {
                    path: path.to_owned(),
                    stays: false,
                    file,
                }));
            }
        }
    }
}

impl Drop for PathLock {
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        let mut held = held();
        held.retain(|path| *path != self.path);
        remove(&self.path);
    }
}

/// Removes what is held, but for `kept`, for the process to end at once: who lets go of one waits for that end, as its
/// file may be another's by then.
pub(crate) fn abandon(kept: &[PathBuf]) {
    let held = held();
    for path in held.iter().filter(|path| !kept.contains(path)) {
        remove(path);
    }
    std::mem::forget(held);
}

/// One that can't be removed is empty, and locked anew by the next process.
fn remove(path: &Path) {
    if cfg!(unix) {
        fs::remove_file(path).ok();
    }
}

/// Whether the path still leads to the open file. Where that can't be told, as outside of Unix, it does.
///
/// # Errors
/// When the system can't look, which says nothing of where the file is.
#[cfg(unix)]
pub fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;

    let place = |about: fs::Metadata| (about.dev(), about.ino());
    let there = match fs::metadata(path) {
        Ok(there) => there,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    Ok(place(file.metadata()?) == place(there))
}

/// Whether the path still leads to the open file: that can't be told here, and nothing removes it.
#[cfg(not(unix))]
pub fn is_at(_file: &File, _path: &Path) -> io::Result<bool> {
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_has_a_lock_and_none_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".lock");
        for _ in 0..2 {
            let lock = PathLock::try_take(&path).unwrap();
            assert!(lock.is_some() && PathLock::try_take(&path).unwrap().is_none());
            drop(lock);
            assert!(!path.exists() || !cfg!(unix));
        }
    }

    #[test]
    fn a_file_that_is_to_stay_does_and_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".lock");
        for _ in 0..2 {
            let lock = PathLock::try_take(&path).unwrap().unwrap().leave_file();
            assert!(PathLock::try_take(&path).unwrap().is_none());
            drop(lock);
            assert!(path.exists());
        }
    }
}
