//! A full report of a set of shards: what training and evaluation would find in it, without either.

mod diagnosis;
mod duplicates;
mod examine;
mod perceptual;
mod summary;

pub use diagnosis::{BadSample, CaptionReport, Diagnosis, DuplicateReport, ImageReport, Twin};
pub use examine::{DoctorConfig, examine};
pub use summary::Summary;
