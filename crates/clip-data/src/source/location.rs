use std::{
    fmt,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

#[cfg(feature = "object-store")]
use super::remote::RemoteObject;
use super::shard::MAX_FILE_BYTES;
use crate::FaultKind;

/// Where bytes are stored.
#[derive(Clone, Debug)]
pub(super) enum Location {
    Local(PathBuf),
    #[cfg(feature = "object-store")]
    Remote(RemoteObject),
}

impl Location {
    /// The name, split before the file's.
    pub(super) fn folder_and_file(&self) -> (String, String) {
        let name = self.to_string();
        match name.rfind(['/', std::path::MAIN_SEPARATOR]) {
            Some(slash) => (name[..slash].to_owned(), name[slash + 1..].to_owned()),
            None => (String::new(), name),
        }
    }

    /// Whether the file's name ends in a dot and this.
    pub(super) fn has_extension(&self, extension: &str) -> bool {
        let (_, file) = self.folder_and_file();
        let own = file.rsplit_once('.').map(|(_, own)| own);
        own.is_some_and(|own| own.eq_ignore_ascii_case(extension))
    }

    /// A small file in the same folder.
    pub(super) fn read_beside(&self, file: &str) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Local(path) => std::fs::read(path.with_file_name(file)),
            #[cfg(feature = "object-store")]
            Self::Remote(object) => {
                let beside = object.named(file).map_err(std::io::Error::other)?;
                beside.read(MAX_FILE_BYTES)
            }
        }
    }

    /// Reads an image that a table names: beside the table, or else, on this machine, from the working folder, as the
    /// reference does.
    pub(super) fn read_named(&self, name: &str) -> Result<Vec<u8>, FaultKind> {
        match self {
            Self::Local(table) => {
                let beside = table.parent().unwrap_or(Path::new("")).join(name);
                let path = if beside.exists() {
                    beside
                } else {
                    PathBuf::from(name)
                };
                read_file(&path)
            }
            #[cfg(feature = "object-store")]
            Self::Remote(table) => {
                let found = table.named(name).map_err(std::io::Error::other);
                let read = found.and_then(|image| image.read(MAX_FILE_BYTES));
                match read {
                    Ok(bytes) if bytes.len() as u64 > MAX_FILE_BYTES => Err(FaultKind::TooLarge),
                    Ok(bytes) => Ok(bytes),
                    Err(error) => {
                        log::debug!("{name}, which {self} names: {error}");
                        Err(FaultKind::UnreadableFile)
                    }
                }
            }
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => path.display().fmt(f),
            #[cfg(feature = "object-store")]
            Self::Remote(object) => object.fmt(f),
        }
    }
}

/// A regular file of a bearable size.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, FaultKind> {
    let unreadable = |_| FaultKind::UnreadableFile;
    let size = std::fs::metadata(path)
        .map_err(unreadable)
        .and_then(|data| {
            data.is_file()
                .then_some(data.len())
                .ok_or(FaultKind::UnreadableFile)
        })?;
    if size > MAX_FILE_BYTES {
        return Err(FaultKind::TooLarge);
    }
    let mut bytes = Vec::with_capacity(size as usize);
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    Ok(bytes)
}
