use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

/// An empty hidden file that is locked. Where a file without a name can be told from one with it, it is removed while
/// it is still locked, so that none stays behind.
#[derive(Debug)]
pub(crate) struct PathLock {
    path: PathBuf,
    _file: File,
}

impl PathLock {
    /// `None` while another process has it.
    pub(crate) fn try_take(path: &Path) -> io::Result<Option<Self>> {
        Self::take(path, |file| match file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        })
    }

    /// Waits for another process that has it.
    pub(crate) fn wait(path: &Path) -> io::Result<Self> {
        loop {
            if let Some(lock) = Self::take(path, |file| file.lock().map(|()| true))? {
                return Ok(lock);
            }
        }
    }

    fn take(path: &Path, lock: impl Fn(&File) -> io::Result<bool>) -> io::Result<Option<Self>> {
        loop {
            let file = File::create(path)?;
            if !lock(&file)? {
                return Ok(None);
            }
            // The process that held it may have removed it after it was opened here. Another one that comes now makes a
            // file of its own, and would not be kept out.
            if is_at(&file, path) {
                return Ok(Some(Self {
                    path: path.to_owned(),
                    _file: file,
                }));
            }
        }
    }
}

impl Drop for PathLock {
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
