use std::{
    fs::File,
    io::{BufWriter, Result, Write},
    path::Path,
};

use clip_files::sha256;
use sha2::{Digest, Sha256};

/// A tar as it is written. Its bytes depend on its members alone: no time and no owner is in it.
pub(crate) struct ShardFile {
    tar: tar::Builder<BufWriter<Hashing>>,
}

impl ShardFile {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let hashing = Hashing {
            file: File::create(path)?,
            hasher: Sha256::new(),
            written: 0,
        };
        Ok(Self {
            tar: tar::Builder::new(BufWriter::with_capacity(1 << 18, hashing)),
        })
    }

    pub(crate) fn append(&mut self, name: &str, body: &[u8]) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(body.len() as u64);
        header.set_mode(0o644);
        header.set_entry_type(tar::EntryType::Regular);
        self.tar.append_data(&mut header, name, body)
    }

    /// Its size in bytes and its SHA-256, once it is on disk.
    pub(crate) fn finish(self) -> Result<(u64, String)> {
        let hashing = self
            .tar
            .into_inner()?
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error)?;
        hashing.file.sync_all()?;
        let sha256 = sha256::hex(&hashing.hasher.finalize());
        Ok((hashing.written, sha256))
    }
}

/// A file that is hashed as it is written.
struct Hashing {
    file: File,
    hasher: Sha256,
    written: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> Result<()> {
        self.file.flush()
    }
}
