//! The kernels, as CubeCL compiles them, and what launches them. Each file says with `fits` where its kernels compute.

pub(crate) mod activation;
pub(crate) mod adamw;
pub(crate) mod attention;
pub(crate) mod embedding;
mod limits;
mod matrix_units;
pub(crate) mod memory;
pub(crate) mod norm;
pub(crate) mod product;
