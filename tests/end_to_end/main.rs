//! The `clip` program as its users meet it: arguments in; results, messages and exit codes out.

mod evaluation;
mod mistakes;
mod pretrain;
mod process;
mod search;
mod support;
mod ui;
mod use_model;
