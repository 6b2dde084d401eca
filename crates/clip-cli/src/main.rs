//! The `clip` program. It has no command yet: the libraries come first.

use std::process::ExitCode;

fn main() -> ExitCode {
    eprintln!("clip has no commands yet; use the libraries (see README.md)");
    ExitCode::FAILURE
}
