//! The `clip` program as its users meet it: arguments in; results, messages and exit codes out.

mod bench;
mod evaluation;
mod mistakes;
mod pretrain;
mod process;
mod support;
mod use_model;
