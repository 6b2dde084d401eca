//! `report.html`: what a run did and what its model can do, on one page that needs nothing else; and runs compared.

mod chart;
mod charts;
mod comparison;
mod curves;
mod data;
mod drawing;
mod drawings;
mod evaluation;
mod html;
mod numbers;
mod page;
mod picture;
mod results;

pub use comparison::{ComparedRun, Comparison};
pub use curves::{Curves, Series};
pub use data::{
    BadShard, Candidate, ClassAccuracy, Facts, Prediction, Report, Retrieval, ZeroShot,
};
pub use evaluation::{Confusion, Evaluation, FewShotCurve, Reliability};
pub use picture::Picture;
