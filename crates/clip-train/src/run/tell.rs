//! What Burn's learner and the run's records are told of steps and evaluations.

use burn::{
    data::dataloader::Progress,
    train::{EventProcessorTraining, LearnerEvent, TrainingItem},
};

use super::steps::Steps;
use crate::{
    TrainError,
    checkpoint::RunState,
    progress::{EvalOutput, StepOutput},
};

impl Steps<'_> {
    pub(super) fn record(&mut self, output: StepOutput) -> Result<(), TrainError> {
        let RunState {
            step,
            samples,
            cursor,
            ..
        } = self.work.state;
        let epochs = self.epochs();
        let records = &mut self.work.records;
        let written = records.metrics.append_step(step, samples, epochs, &output);
        let written = written.and_then(|()| records.events.step(step, &output));
        written.map_err(TrainError::Record)?;
        if let Some(sign) = self.work.guards.observe(step, &output) {
            self.notes.say(sign);
        }
        let progress = self.progress(cursor.drawn);
        let item = TrainingItem::new(output, progress, Some(step as usize), None);
        self.notes.recorded(step);
        self.tell(LearnerEvent::ProcessedItem(item));
        Ok(())
    }

    pub(super) fn show(&mut self, step: u64, found: &EvalOutput) {
        self.end_split();
        let epoch_number = self.epoch();
        self.tell_valid(LearnerEvent::StartSplit {
            epoch_number,
            total_items: 1,
        });
        let progress = Progress::new(1, 1, Some("sets".to_owned()));
        let item = TrainingItem::new(found.clone(), progress, Some(step as usize), None);
        self.tell_valid(LearnerEvent::ProcessedItem(item));
        self.tell_valid(LearnerEvent::EndSplit(epoch_number));
        self.start_split();
    }

    /// Passes over the data so far, as a fraction.
    pub(super) fn epochs(&self) -> f64 {
        let cursor = self.work.state.cursor;
        cursor.epoch as f64 + cursor.drawn as f64 / self.plan.samples_per_epoch.max(1) as f64
    }

    /// The pass at hand, counted from 1 as Burn does.
    fn epoch(&self) -> usize {
        self.work.state.cursor.epoch as usize + 1
    }

    fn progress(&self, drawn: u64) -> Progress {
        let total = self.plan.samples_of_pass();
        Progress::new(drawn as usize, total, Some("images".to_owned()))
    }

    pub(super) fn start_split(&mut self) {
        let epoch_number = self.epoch();
        self.tell(LearnerEvent::StartSplit {
            epoch_number,
            total_items: self.plan.samples_of_pass(),
        });
    }

    pub(super) fn end_split(&mut self) {
        let epoch = self.epoch();
        self.tell(LearnerEvent::EndSplit(epoch));
    }

    pub(super) fn tell(&mut self, event: LearnerEvent<StepOutput>) {
        let told = self.processor.process_train(event);
        self.interrupter.fail_on_error(told);
    }

    fn tell_valid(&mut self, event: LearnerEvent<EvalOutput>) {
        let told = self.processor.process_valid(event);
        self.interrupter.fail_on_error(told);
    }
}
