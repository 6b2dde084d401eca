use std::fmt::Write;

use sha2::{Digest, Sha256};

/// A SHA-256 in the making, of parts whose borders count: `["ab", "c"]` and `["a", "bc"]` differ.
#[derive(Clone, Debug, Default)]
pub struct Sha256Hex(Sha256);

impl Sha256Hex {
    /// Adds one part: its length in bytes, then its bytes.
    pub fn part(mut self, bytes: &[u8]) -> Self {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// The hash, as 64 hexadecimal digits.
    pub fn finish(self) -> String {
        let mut out = String::with_capacity(64);
        for byte in self.0.finalize() {
            // Writing to a string can't fail.
            let _ = write!(out, "{byte:02x}");
        }
        out
    }
}

/// The hash of a list of texts, its order included.
pub(crate) fn hash_texts<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> String {
    texts
        .into_iter()
        .fold(Sha256Hex::default(), |hash, text| {
            hash.part(text.as_ref().as_bytes())
        })
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_knows_order_and_borders() {
        let cat_dog = hash_texts(["cat", "dog"]);
        assert_eq!(cat_dog.len(), 64);
        assert_eq!(cat_dog, hash_texts(["cat", "dog"]));
        assert_ne!(cat_dog, hash_texts(["dog", "cat"]));
        assert_ne!(cat_dog, hash_texts(["catd", "og"]));
        assert_ne!(cat_dog, hash_texts(["cat", "dog", ""]));
    }
}
