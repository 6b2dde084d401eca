//! Pages, each one file that needs nothing else: `report.html`, of what a run did and what its model can do; runs
//! compared; an evaluation with its drawings. They show what they are given, and compute no figure of a model.

#![forbid(unsafe_code)]

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
pub use data::{BadShard, Candidate, ClassRow, Facts, Pictured, Report, RetrievalSet, ZeroShotSet};
pub use evaluation::{Confusion, Evaluation, FewShotCurve, Reliability};
pub use picture::Picture;
