//! Contrastive losses over a whole batch, with their gradients.

mod batch;
mod caption;
mod groups;
mod infonce;
mod scores;
mod siglip;
mod softmaxes;
#[cfg(test)]
mod testing;

pub use batch::{ContrastiveBatch, ContrastiveGradients, TeacherFeatures};
pub use caption::caption_loss;
pub use groups::Groups;
pub use infonce::InfoNce;
pub use siglip::SigLip;

/// What training minimises.
#[derive(Clone, Copy, Debug)]
pub enum ContrastiveLoss {
    /// CLIP's.
    InfoNce(InfoNce),
    /// SigLIP's.
    SigLip(SigLip),
}

impl ContrastiveLoss {
    /// The loss and its gradients, tile by tile; see [`InfoNce::with_gradients`] and [`SigLip::with_gradients`].
    pub fn with_gradients(&self, batch: ContrastiveBatch) -> ContrastiveGradients {
        match self {
            Self::InfoNce(loss) => loss.with_gradients(batch),
            Self::SigLip(loss) => loss.with_gradients(batch),
        }
    }
}

impl Default for ContrastiveLoss {
    fn default() -> Self {
        Self::InfoNce(InfoNce::default())
    }
}
