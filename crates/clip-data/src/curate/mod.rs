//! Curation as the paper built its 400 million pairs: a list of queries, the pairs whose captions hold one, and no
//! query for which too many are taken.
//!
//! # References
//! Radford et al. 2021, section 2.2; Xu et al. 2024, *Demystifying CLIP Data* (`MetaCLIP`), algorithm 1.

mod balance;
mod build;
mod corpus;
mod curation;
mod matcher;
mod spaced;

pub use build::{QueryConfig, QueryList, build_queries};
pub use corpus::Corpus;
pub use curation::{CurateConfig, Curated, TABLE_FILE, curate};
pub use matcher::Queries;
