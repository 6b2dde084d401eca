use std::{
    fs::File,
    io::{Read, Result},
    path::Path,
};

use sha2::{Digest, Sha256};

pub(crate) fn hex(digest: &[u8]) -> String {
    use std::fmt::Write;

    digest.iter().fold(String::new(), |mut hex, byte| {
        // invariant: a string takes all that is written to it.
        write!(hex, "{byte:02x}").expect("writing to a string never fails");
        hex
    })
}

pub(crate) fn hash_file(path: &Path) -> Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hex(hasher.finalize().as_slice()));
        }
        hasher.update(&buffer[..read]);
    }
}
