use std::{
    fs::File,
    io::{Error, ErrorKind, Write},
};

use crate::DataError;

/// A folder of an object store, of which a program without the feature `object-store` has none.
#[derive(Clone, Debug)]
pub enum RemoteFolder {}

#[allow(clippy::missing_errors_doc)]
impl RemoteFolder {
    /// Refuses any address.
    pub fn open(url: &str) -> Result<Self, DataError> {
        let reason = "this program was built without the feature `object-store`; build it with `cargo xtask clip`";
        Err(clip_files::io("use", url)(Error::new(ErrorKind::Unsupported, reason)).into())
    }

    /// Never called.
    pub fn check_writable(&self) -> Result<(), DataError> {
        match *self {}
    }

    /// Never called.
    pub fn put(&self, _name: &str, _file: &mut File) -> Result<(), DataError> {
        match *self {}
    }

    /// Never called.
    pub fn get(&self, _name: &str, _to: &mut impl Write) -> Result<(), DataError> {
        match *self {}
    }

    /// Never called.
    pub fn names(&self) -> Result<Vec<String>, DataError> {
        match *self {}
    }

    /// Never called.
    pub fn remove(&self, _name: &str) -> Result<(), DataError> {
        match *self {}
    }
}
