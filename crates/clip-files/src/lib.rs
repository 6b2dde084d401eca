//! Files and folders that are there whole or not at all.
//!
//! Each is written beside its place under a hidden name, `.NAME.partial`, made sure to be on the disk, and renamed; those
//! that write the same file take turns. What a process that was killed has left under that name is replaced by the next
//! one that writes there; of one that is asked to end, [`abandon`] removes it.
//!
//! What the system refuses is an [`IoError`], which all crates share.

#![forbid(unsafe_code)]

mod error;
mod file;
mod folder;
mod lock;
pub mod sha256;
mod unfinished;

use std::path::{Path, PathBuf};

pub use error::{IoError, io, one_line, reasons};
pub use file::{check_writable, replace, replace_with, sync_file, sync_folder, write_synced};
pub use folder::{FolderError, NewFolder, check_new};
pub use lock::{PathLock, is_at};
pub use unfinished::{UnfinishedFolder, abandon, remove};

/// What is being written.
const PARTIAL: &str = "partial";
/// Held by who writes a file or a folder.
const LOCK: &str = "lock";

/// A hidden name beside a file or folder, where a rename stays on one file system.
fn beside(path: &Path, kind: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".");
    name.push(kind);
    path.with_file_name(name)
}

/// The folder that a file or folder lies in.
fn parent(path: &Path) -> &Path {
    let parent = path.parent().filter(|path| !path.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}
