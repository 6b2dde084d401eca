//! A transformer's residual block as one operation of Burn's CPU backend, with its backward pass, and what
//! contrastive losses do with a matrix of scores.
//!
//! Composed of Burn's operations, a block on a CPU spends as long between its matrix products as in them: every
//! operation allocates what it returns, writes it to memory and reads it again, and the graph keeps it. Here a block goes
//! through some sequences at a time, so that what the products hand to each other stays in the cache, and keeps what its
//! backward pass can't cheaply compute again. [`residual_block`] is that operation, [`supports`] tells where it is one.
//!
//! A contrastive loss has two softmaxes of one matrix, over its rows and over its columns: [`log_sum_exp`] and
//! [`sum_of_softmaxes`] compute them in vectors and keep no matrix but the result, where each of Burn's operations makes
//! one. [`pairwise_sigmoid`] is all of `SigLIP`'s loss but the products.
//!
//! What a step does with all parameters waits for memory: [`round_to_bf16`], [`add_gradient`], [`sum_of_squares`],
//! [`scale_gradient`], [`embedding_gradient`] and [`adamw`] cross it once, on all threads.
//!
//! The same from Burn's parts is in `clip-model`, whose tests hold the two against each other.

// A function is compiled for wider vectors where it is inlined into what `rows::vectorized` runs, and only there.
#![allow(clippy::inline_always)]
// Small whole numbers, and what has to be the same bits.
#![cfg_attr(test, allow(clippy::float_cmp))]

mod activation;
mod adamw;
mod block;
mod embedding;
mod gradients;
mod log_sums;
mod norm;
mod operation;
mod pairwise_sigmoid;
mod primitive;
mod product;
mod rounding;
mod rows;
mod softmax;
mod square;

pub use activation::Activation;
pub use adamw::{AdamWStep, adamw};
pub use embedding::embedding_gradient;
pub use gradients::{add_gradient, scale_gradient, sum_of_squares};
pub use log_sums::{log_sum_exp, sum_of_softmaxes};
pub use operation::{BlockParameters, residual_block, supports};
pub use pairwise_sigmoid::pairwise_sigmoid;
pub use primitive::{computes_on, is_cpu};
pub use rounding::round_to_bf16;
pub use square::SquareProduct;
