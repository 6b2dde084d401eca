use clip_model::{Clip, weights::load_weights};

use crate::{Ema, Optimizer, OptimizerState, TrainError, checkpoint::Checkpoint};

/// Puts a checkpoint's values in place of those given. Averaged weights that the checkpoint doesn't have, because the
/// run began without them, start from its weights.
pub(super) fn restore(
    found: &Checkpoint,
    model: Clip,
    optimizer: Optimizer,
    ema: Option<Ema>,
) -> Result<(Clip, Optimizer, Option<Ema>), TrainError> {
    let state = OptimizerState::read(&found.optimizer, found.optimizer_of.clone())?;
    let optimizer = optimizer.with_state(state)?;
    let model = load_weights(model, &found.weights)?;
    let ema = match ema {
        Some(ema) => {
            let average = found.ema.as_ref().unwrap_or(&found.weights);
            Some(ema.try_map(|model| load_weights(model, average))?)
        }
        None => None,
    };
    Ok((model, optimizer, ema))
}
