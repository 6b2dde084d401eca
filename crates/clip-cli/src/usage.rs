//! Wrong usage that the parser of the arguments can't see: the program ends with 2, as for what that refuses.

/// What a shell's own tools end with on wrong usage, and clap.
pub(crate) const WRONG_USAGE: u8 = 2;

/// Arguments of which each is fine, and which don't fit together.
#[derive(Debug)]
pub(crate) struct WrongUsage(pub(crate) String);

impl std::fmt::Display for WrongUsage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WrongUsage {}
