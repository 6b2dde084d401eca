use std::{fmt, path::PathBuf};

#[cfg(feature = "object-store")]
use super::remote::RemoteObject;

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

    /// A small file in the same folder, if it is there.
    pub(super) fn read_beside(&self, file: &str) -> Option<Vec<u8>> {
        match self {
            Self::Local(path) => std::fs::read(path.with_file_name(file)).ok(),
            #[cfg(feature = "object-store")]
            Self::Remote(object) => object.read_beside(file),
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
