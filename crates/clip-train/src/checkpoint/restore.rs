use std::thread;

use clip_model::{Clip, weights::load_weights};

use super::{Checkpoint, unit::joined};
use crate::{Ema, Optimizer, OptimizerState, TrainError};

impl Checkpoint {
    /// Puts its values in place of those given. Averaged weights that it doesn't have, because the run began without
    /// them, start from its weights.
    ///
    /// # Errors
    /// [`TrainError::OptimizerState`] if the optimizer is of another kind or for other parameters, [`TrainError::Model`]
    /// if the weights are another model's.
    pub fn restore(
        &self,
        model: Clip,
        optimizer: Optimizer,
        ema: Option<Ema>,
    ) -> Result<(Clip, Optimizer, Option<Ema>), TrainError> {
        let adapters = self.adapters.as_deref();
        let read = || OptimizerState::read(&self.optimizer, adapters, self.optimizer_of.clone());
        let (state, model) = thread::scope(|scope| {
            let state = scope.spawn(read);
            let model = load_weights(model, &self.weights);
            (joined(state), model)
        });
        let optimizer = optimizer.with_state(state?)?;
        let ema = match ema {
            Some(ema) => {
                let average = self.ema.as_ref().unwrap_or(&self.weights);
                Some(ema.try_map(|model| load_weights(model, average))?)
            }
            None => None,
        };
        Ok((model?, optimizer, ema))
    }
}
