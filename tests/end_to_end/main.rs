//! The `clip` program as its users meet it: arguments in; results, messages and exit codes out.

mod crashes;
mod evaluation;
mod mistakes;
mod pretrain;
mod process;
mod runs;
mod support;
mod use_model;
mod weights;
