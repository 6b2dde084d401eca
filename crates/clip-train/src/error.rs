/// What can go wrong in training.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// An optimizer's saved state can't be written or taken up.
    #[error("optimizer state: {reason}; resume from another checkpoint, or start a new run")]
    OptimizerState {
        /// What is wrong with it.
        reason: String,
    },
}
