//! The clip program.
fn main() {}
