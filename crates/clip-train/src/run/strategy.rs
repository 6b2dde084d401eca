use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use burn::{
    module::Module,
    train::{
        Learner, SupervisedLearningStrategy, SupervisedTrainingEventProcessor,
        TrainLoader as BurnTrainLoader, TrainingComponents, ValidLoader,
    },
};
use clip_data::{FaultReport, TrainLoader};

use super::{ContrastiveLearner, Evaluate, Trained, plan::Plan, records::Records, steps::Steps};
use crate::{
    Ema, Optimizer, TrainError,
    checkpoint::{RunState, Writer},
    guard::Guards,
    progress::Notes,
};

/// What the loop changes as it goes.
pub(super) struct Work {
    pub(super) state: RunState,
    /// Bad samples of the parts of the run before this one.
    pub(super) earlier_faults: FaultReport,
    pub(super) optimizer: Optimizer,
    pub(super) ema: Option<Ema>,
    pub(super) evaluator: Option<Box<dyn Evaluate>>,
    pub(super) writer: Writer,
    pub(super) guards: Guards,
    pub(super) records: Records,
}

/// The loop over steps, in place of Burn's over epochs.
pub(super) struct ContrastiveStrategy {
    pub(super) plan: Plan,
    /// Tells position and faults of the batches that Burn's trait object gives.
    pub(super) loader: TrainLoader,
    pub(super) notes: Notes,
    /// The step of the checkpoint that the run goes on from.
    pub(super) resumed_from: Option<u64>,
    /// Taken by the one call of `fit`, which has no `&mut self`.
    pub(super) work: Mutex<Option<Work>>,
    pub(super) outcome: Mutex<Option<Result<Trained, TrainError>>>,
}

impl ContrastiveStrategy {
    /// What became of the run.
    pub(super) fn outcome(&self) -> Result<Trained, TrainError> {
        let outcome = self
            .outcome
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        outcome.unwrap_or_else(|| {
            Err(TrainError::Learner(
                "Burn's training ended without running the loop; please report this".to_owned(),
            ))
        })
    }
}

impl SupervisedLearningStrategy<ContrastiveLearner> for ContrastiveStrategy {
    fn fit(
        &self,
        components: TrainingComponents<ContrastiveLearner>,
        learner: Learner<ContrastiveLearner>,
        batches: BurnTrainLoader<ContrastiveLearner>,
        _validation: ValidLoader<ContrastiveLearner>,
        _starting_epoch: usize,
    ) -> (
        ContrastiveLearner,
        SupervisedTrainingEventProcessor<ContrastiveLearner>,
    ) {
        let mut model = learner.model();
        // Its copy of the weights would keep every step's old ones in memory.
        drop(learner);
        let work = self
            .work
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(work) = work else {
            return (model, components.event_processor);
        };
        let now = Instant::now();
        let mut steps = Steps {
            plan: &self.plan,
            work,
            loader: &self.loader,
            notes: &self.notes,
            interrupter: components.interrupter,
            processor: components.event_processor,
            evaluation: None,
            begun: None,
            reader: None,
            ready: now,
            waited: Duration::ZERO,
            since: now,
            saved: now,
            saved_step: self.resumed_from,
            suspect: None,
        };
        let ended = steps.run(&mut model, &batches);
        let outcome = ended.map(|interrupted| Trained {
            model: model.clip().valid(),
            ema: steps.work.ema.take().map(Ema::into_model),
            state: steps.work.state.clone(),
            total_steps: self.plan.total_steps,
            interrupted,
            evaluation: steps.evaluation.take(),
        });
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        (model, steps.processor)
    }
}
