use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{LOCK, lock};

/// Under its hidden name, each file and folder that this process is writing.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes what this process has written of new files and folders, and its locks, for it to end at once: whoever writes
/// one waits for that end from here on.
pub fn abandon() {
    let unfinished = unfinished();
    let mut kept = Vec::new();
    for partial in &*unfinished {
        // A file that is begun meanwhile keeps its folder at the first try.
        let gone = (0..3).any(|_| remove(partial).is_ok());
        if !gone {
            kept.push(partial.with_extension(LOCK));
        }
    }
    lock::abandon(&kept);
    std::mem::forget(unfinished);
}

/// Something that is being written under a hidden name; removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Unfinished {
    partial: PathBuf,
    /// Whether dropping it leaves what was written.
    keep: bool,
}

impl Unfinished {
    pub(crate) fn new(partial: PathBuf) -> Self {
        unfinished().push(partial.clone());
        Self {
            partial,
            keep: false,
        }
    }

    /// Under its hidden name.
    pub(crate) fn path(&self) -> &Path {
        &self.partial
    }

    /// Leaves what was written, whatever happens.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }

    /// Gives it its name: an interruption removes it before that, or leaves it.
    pub(crate) fn finish<T, E>(mut self, rename: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let mut unfinished = unfinished();
        let renamed = rename();
        self.keep |= renamed.is_ok();
        unfinished.retain(|partial| *partial != self.partial);
        renamed
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        let mut unfinished = unfinished();
        unfinished.retain(|partial| *partial != self.partial);
        // The error that matters is the one that led here; what stays is replaced by the next that writes it.
        remove(&self.partial).ok();
    }
}

/// A folder that is being written, under a name by which nobody takes it for whole; [`abandon`] removes it, and so does
/// dropping it. [`NewFolder`](crate::NewFolder) is one with a hidden name of its own, kept from other processes.
#[derive(Debug)]
pub struct UnfinishedFolder(Unfinished);

impl UnfinishedFolder {
    /// Makes it, in place of what a process that was killed has left there.
    ///
    /// # Errors
    /// When that can't be removed, or the folder around it can't be written.
    pub fn create(path: &Path) -> io::Result<Self> {
        // Known before it is there.
        let unfinished = Unfinished::new(path.to_owned());
        remove(path)?;
        fs::create_dir(path)?;
        Ok(Self(unfinished))
    }

    /// Where its files are written.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Has `rename` give it the name by which it is whole: an interruption removes it before that, or leaves it.
    ///
    /// # Errors
    /// What `rename` fails with; the folder is removed then.
    pub fn finish<T, E>(self, rename: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.0.finish(rename)
    }
}

/// Removes a file, or a folder with all that is in it; it need not be there.
///
/// # Errors
/// When it is there and can't be removed.
pub fn remove(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
