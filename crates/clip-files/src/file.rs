use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::{IoError, LOCK, PARTIAL, beside, lock::PathLock, parent, unfinished::Unfinished};

/// Puts `bytes` at `path` so that a reader, or a crash, sees the old file or the whole new one.
///
/// # Errors
/// When the folder can't be written or the disk is full.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), IoError> {
    replace_with(path, |partial| fs::write(partial, bytes))
}

/// As [`replace`], for a file that is too large to be built in memory first: `write` is given the path to write to.
///
/// # Errors
/// When `write` fails, the folder can't be written or the disk is full.
pub fn replace_with(
    path: &Path,
    write: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<(), IoError> {
    replaced(path, write).map_err(crate::io("write", path))
}

fn replaced(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let path = &meant(path)?;
    let partial = beside(path, PARTIAL);
    // One after the other: half of one's file must not get its name by another. Where a file system has no locks, whoever
    // writes the same file at the same moment isn't waited for.
    let _turn = if cfg!(unix) {
        PathLock::wait(&beside(path, LOCK)).ok()
    } else {
        None
    };
    // Removed if anything fails.
    let unfinished = Unfinished::new(partial.clone());
    write(&partial)?;
    sync_file(&partial)?;
    unfinished.finish(|| fs::rename(&partial, path))?;
    sync_folder(parent(path));
    Ok(())
}

/// Looks whether [`replace`] can write a file there, before hours of work for it.
///
/// # Errors
/// When its folder isn't there or can't be written, or something that is no file stands in its place.
pub fn check_writable(path: &Path) -> Result<(), IoError> {
    let writable = || {
        let path = meant(path)?;
        if path.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        // Whoever holds the lock can write there.
        if cfg!(unix) {
            PathLock::try_take(&beside(&path, LOCK)).map(drop)
        } else {
            fs::metadata(parent(&path)).map(drop)
        }
    };
    writable().map_err(crate::io("write", path))
}

/// The file that is to be replaced: what a link leads to, not the link.
///
/// Whoever may write a folder may put a file in the place of a device or a pipe in it, and nobody means that.
fn meant(path: &Path) -> io::Result<PathBuf> {
    let real = match fs::symlink_metadata(path) {
        Ok(kind) if kind.is_symlink() => fs::canonicalize(path)?,
        _ => path.to_owned(),
    };
    match fs::metadata(&real) {
        Ok(kind) if !kind.is_file() && !kind.is_dir() => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is a device or a pipe, which a file can't take the place of: name a file",
        )),
        _ => Ok(real),
    }
}

/// Writes a file, and waits until it is on the disk.
///
/// # Errors
/// When the folder can't be written or the disk is full.
pub fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Waits until a file is on the disk.
///
/// # Errors
/// When it can't be opened for writing, or the disk is full.
pub fn sync_file(path: &Path) -> io::Result<()> {
    File::options().write(true).open(path)?.sync_all()
}

/// Makes what was renamed or written into a folder last: names are safe once their folder is on disk. Not every system
/// lets a folder be opened, and what the files hold is safe already, so a refusal is no failure.
pub fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        folder.sync_all().ok();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::one_line;

    /// As processes do, by locks of their own.
    #[test]
    #[cfg(unix)]
    fn writers_of_the_same_file_take_turns() {
        const SIZE: usize = 1 << 18;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.bin");
        replace(&path, &vec![0; SIZE]).unwrap();
        thread::scope(|scope| {
            for writer in 1..=4 {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..20 {
                        replace(path, &vec![writer; SIZE]).unwrap();
                        let found = fs::read(path).unwrap();
                        assert_eq!(found, vec![found[0]; SIZE]);
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    #[cfg(unix)]
    fn links_are_followed_and_nothing_but_files_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let [file, link, socket] = ["a.bin", "link", "socket"].map(|name| dir.path().join(name));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink("a.bin", &link).unwrap();
        replace(&link, b"new").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let error = replace(&socket, b"new").unwrap_err();
        assert!(crate::one_line(&error).contains("name a file"), "{error}");
        assert!(!fs::symlink_metadata(&socket).unwrap().is_file());
        assert!(check_writable(&socket).is_err() && check_writable(dir.path()).is_err());
        assert!(check_writable(&dir.path().join("none/a.bin")).is_err());
        let before = fs::read_dir(dir.path()).unwrap().count();
        check_writable(&dir.path().join("b.bin")).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), before);
        // A link into nowhere is no place to write to.
        fs::remove_file(&file).unwrap();
        assert!(replace(&link, b"new").is_err());
    }

    #[test]
    fn a_file_is_replaced_whole_and_nothing_stays_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        // What a killed process left.
        fs::write(dir.path().join(".a.json.partial"), "half of an old one").unwrap();
        replace(&path, b"old").unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        let failed = replace_with(&path, |partial| {
            fs::write(partial, "half")?;
            Err(std::io::Error::other("no more"))
        });
        assert!(one_line(&failed.unwrap_err()).ends_with("a.json: no more"));
        assert_eq!(fs::read(&path).unwrap(), b"new");
        // A folder can't be replaced by a file.
        let folder = dir.path().join("b.json");
        fs::create_dir(&folder).unwrap();
        assert!(replace(&folder, b"text").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
