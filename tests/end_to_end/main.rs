//! The `clip` program as its users meet it: arguments in; results, messages and exit codes out.

mod bench;
mod captions;
mod crashes;
mod data_curation;
mod data_tools;
mod devices;
mod distillation;
mod evaluation;
mod gpu;
mod hub;
mod lora;
#[cfg(all(unix, feature = "remote"))]
mod machines;
mod mirror;
mod mistakes;
mod object_store;
mod pretrain;
mod process;
#[cfg(all(unix, feature = "remote"))]
mod remote;
mod resumption;
mod run_checkpoints;
mod runs;
mod search;
mod stores;
mod support;
mod ui;
mod use_model;
mod weights;
