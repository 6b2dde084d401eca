//! The numbers of runs and evaluations: under which keys files hold them, what each is, and how people read them.

#![forbid(unsafe_code)]

mod format;
mod key;
mod measured;

pub use format::{gibibytes, human_count, human_duration, percent, significant};
pub use key::{
    Direction, RECALLED_AT, VAL_LOSS, averaged_key, is_zeroshot, label_of, zeroshot_key,
};
pub use measured::{Kind, Measured};
