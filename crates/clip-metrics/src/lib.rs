//! The numbers of runs and evaluations: under which keys files hold them, what each is, and how people read them.

#![forbid(unsafe_code)]

mod format;
mod key;

pub use format::{gibibytes, human_count, human_duration, percent, significant};
pub use key::{is_share, label_of};
