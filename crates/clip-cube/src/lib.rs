//! What GPUs do as one kernel, where Burn would do it in many, or in one that is slower.
//!
//! The kernels are of Rust: CubeCL compiles them for the GPU at hand when they are first asked for. They compute on tensors
//! of Burn's backends by CubeCL, fused or not, without a graph: passes that know their own gradients call them. Only products
//! in f32 are on a graph, too (`graph.rs`). Each has a function that says where it computes; elsewhere callers compose Burn's
//! operations.
//!
//! `kernels/` holds what is compiled for a GPU, `backend.rs` makes operations of it that Burn's fusion queues, and the other
//! files are what callers see.
//!
//! Without the feature `gpu` the crate is empty.

// Of what the macro `cube` makes of a kernel; and a condition that is known when a kernel is compiled stands alone.
#![allow(clippy::collapsible_if, clippy::used_underscore_binding)]

#[cfg(feature = "gpu")]
mod activation;
#[cfg(feature = "gpu")]
mod adamw;
#[cfg(feature = "gpu")]
mod attention;
#[cfg(feature = "gpu")]
mod backend;
#[cfg(feature = "gpu")]
mod embedding;
#[cfg(feature = "gpu")]
mod graph;
#[cfg(feature = "gpu")]
mod kernels;
#[cfg(feature = "gpu")]
mod norm;
#[cfg(feature = "gpu")]
mod product;
#[cfg(all(test, feature = "gpu"))]
mod tests;

#[cfg(feature = "gpu")]
pub use {
    activation::{Activation, activation_back},
    adamw::{AdamWStep, adamw, steps},
    attention::{attends, attention, attention_back},
    embedding::{embedding_gradient, gathers},
    graph::{multiplies_on_graph, multiply, project},
    norm::{norm, norm_back, norm_sums, norms, sums},
    product::{
        multiplies, multiplies_any, multiplies_over_rows, product, product_activated, products,
        weight_gradient,
    },
};
