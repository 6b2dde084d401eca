//! SHA-256 of files, of bytes and of parts.

use std::{
    fmt::Write,
    fs::File,
    io::{self, ErrorKind, Read},
    path::Path,
};

use sha2::{Digest, Sha256};

/// Bytes of a file that are read at a time.
const BUFFER: usize = 1 << 18;

/// What a file holds, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileHash {
    /// Its length in bytes.
    pub bytes: u64,
    /// Its hash, as 64 hexadecimal digits.
    pub sha256: String,
}

/// Reads a file to its end, and hashes it.
///
/// # Errors
/// When it can't be read.
pub fn of_file(path: &Path) -> io::Result<FileHash> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; BUFFER];
    let mut hasher = Sha256::new();
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                hasher.update(&buffer[..read]);
                bytes += read as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(FileHash {
        bytes,
        sha256: hex(&hasher.finalize()),
    })
}

/// The hash of bytes, as 64 hexadecimal digits.
pub fn of_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Two hexadecimal digits a byte, in lower case.
pub fn hex(digest: &[u8]) -> String {
    digest.iter().fold(String::new(), |mut hex, byte| {
        // invariant: a string takes all that is written to it.
        write!(hex, "{byte:02x}").expect("invariant: a string takes any text");
        hex
    })
}

/// A SHA-256 in the making, of parts whose borders count: `["ab", "c"]` and `["a", "bc"]` differ.
#[derive(Clone, Debug, Default)]
pub struct Parts(Sha256);

impl Parts {
    /// Of these, in their order.
    pub fn of<T: AsRef<[u8]>>(parts: impl IntoIterator<Item = T>) -> Self {
        let parts = parts.into_iter();
        parts.fold(Self::default(), |hash, part| hash.part(part.as_ref()))
    }

    /// Adds one part: its length in bytes, as a little-endian u64, then its bytes.
    #[must_use]
    pub fn part(mut self, bytes: &[u8]) -> Self {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// The hash, as 64 hexadecimal digits.
    pub fn finish(self) -> String {
        hex(&self.digest())
    }

    /// The hash's bytes.
    pub fn digest(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By `printf abc | sha256sum`; FIPS 180-4 has it as an example.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_files_hash_is_its_bytes_hash() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "abc").unwrap();
        let found = of_file(&path).unwrap();
        assert_eq!((found.bytes, found.sha256.as_str()), (3, ABC));
        assert_eq!(of_bytes(b"abc"), ABC);
        // More than is read at a time.
        let long = vec![7; BUFFER + 1];
        std::fs::write(&path, &long).unwrap();
        let found = of_file(&path).unwrap();
        assert_eq!(found.bytes, long.len() as u64);
        assert_eq!(found.sha256, of_bytes(&long));
    }

    /// Caches and checkpoints on users' disks are known by it.
    #[test]
    fn parts_have_their_length_before_them() {
        let two = Parts::of(["ab", "c"]);
        assert_eq!(
            two.clone().finish(),
            of_bytes(b"\x02\0\0\0\0\0\0\0ab\x01\0\0\0\0\0\0\0c")
        );
        assert_eq!(
            hex(&two.digest()[..2]),
            &Parts::of(["ab", "c"]).finish()[..4]
        );
    }

    #[test]
    fn parts_know_order_and_borders() {
        let of = |parts: &[&str]| Parts::of(parts).finish();
        let cat_dog = of(&["cat", "dog"]);
        assert_eq!(cat_dog.len(), 64);
        assert_ne!(cat_dog, of(&["dog", "cat"]));
        assert_ne!(cat_dog, of(&["catd", "og"]));
        assert_ne!(cat_dog, of(&["cat", "dog", ""]));
    }
}
