//! Devices of other machines: `clip serve-device` offers them, `clip pretrain --devices remote://HOST:PORT` uses them.
//!
//! Burn's remote backend does the work, over WebSocket. What is added here: a token is asked for on both sides, nothing
//! listens beyond this machine unless told to, and a machine that goes silent is noticed (`link.rs`).

mod address;
#[cfg(feature = "remote")]
mod device;
#[cfg(feature = "remote")]
mod link;
mod serve;
#[cfg_attr(
    not(feature = "remote"),
    allow(
        dead_code,
        reason = "a build without it takes the flags, to say how to build it"
    )
)]
mod token;

pub(crate) use address::RemoteAddress;
pub(crate) use serve::{Args, run};
pub(crate) use token::TokenArgs;

#[cfg(feature = "remote")]
pub(crate) use device::open;

/// A device elsewhere, in a build that has none.
///
/// # Errors
/// Always.
#[cfg(not(feature = "remote"))]
pub(crate) fn open(_: &RemoteAddress, _: &TokenArgs) -> anyhow::Result<burn::tensor::Device> {
    left_out()
}

#[cfg(not(feature = "remote"))]
fn left_out<T>() -> anyhow::Result<T> {
    anyhow::bail!(
        "this build of clip knows no devices of other machines: build it with `cargo xtask clip ...`, which adds them \
         where the arguments name any, or with `--features remote`"
    )
}
