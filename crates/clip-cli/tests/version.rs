//! That this file is a test of clip's own package makes `cargo test` build the program, which the end-to-end tests
//! of the workspace's `tests/` run.

use std::process::Command;

#[test]
fn the_program_says_its_name_and_version() {
    let output = Command::new(env!("CARGO_BIN_EXE_clip"))
        .arg("--version")
        .output();
    let printed = String::from_utf8(output.unwrap().stdout).unwrap();
    assert_eq!(printed, concat!("clip ", env!("CARGO_PKG_VERSION"), "\n"));
}
