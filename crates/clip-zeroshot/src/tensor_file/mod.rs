//! A safetensors file of f32 matrices and one JSON object about them, whole or not at all, with a checksum of all. Beside
//! them it may hold codes: a coarse form of a matrix, with a checksum of its own, to be read without the matrix.

mod header;
mod part;
mod whole;

pub(crate) use self::{
    header::Fault,
    part::{Part, Rows, open},
    whole::{Matrix, load, save},
};

const ABOUT: &str = "about";
const CODES: &str = "codes";
const CHECKSUM: &str = "sha256";
const CODES_CHECKSUM: &str = "codes_sha256";
const FORMAT: &str = "format";
