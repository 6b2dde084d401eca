//! End-to-end tests of the `clip` program.
