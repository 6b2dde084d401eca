//! Linear probes: how much of a data set's classes a linear classifier finds in frozen features.
//!
//! The paper's protocol: take the image encoder's features before the projection, fit a multinomial logistic
//! regression with L-BFGS, choose the strength of its L2 penalty on a validation split by a
//! [`StrengthSearch`], and fit once more to train and validation together ([`fit_probe`]). [`FewShot`] asks how few
//! examples do.
//!
//! # References
//! Radford et al. 2021, section 3.2 and appendix A.3.

mod few_shot;
mod lbfgs;
mod line_search;
mod logistic;
mod samples;
mod search;

pub use self::{
    few_shot::{FewShot, FewShotPoint, break_even, pick, split_by_class},
    lbfgs::Lbfgs,
    logistic::{LinearProbe, LogisticRegression},
    samples::Samples,
    search::{STEPS, StrengthSearch, Visit, fit_probe, strength},
};
