use std::{
    mem,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use super::{Mirror, RunState, mirror::Opened};
use crate::TrainError;

/// Copies a run's checkpoints into its mirror on a thread of its own. If they come faster than they can be copied, the
/// best and the newest are copied next.
///
/// A copy that fails is said and costs the run nothing: the next checkpoint's is the next try.
#[derive(Debug)]
pub struct Copier {
    mirror: Mirror,
    run: PathBuf,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    due: Mutex<Due>,
    changed: Condvar,
}

#[derive(Default)]
struct Due {
    next: Option<Opened>,
    /// The best, where `next` came before it was copied.
    best: Option<Opened>,
    /// No other will come.
    ended: bool,
    /// Why the last one isn't there.
    failed: Option<TrainError>,
}

impl std::fmt::Debug for Due {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Due")
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl Due {
    /// Takes the newest; returns what is not to be copied any more.
    fn offer(&mut self, newest: Opened) -> [Option<Opened>; 2] {
        let best = newest.best.filter(|best| *best != newest.step);
        let is_best = |waiting: &mut Opened| best == Some(waiting.step);
        let kept = self
            .next
            .take_if(is_best)
            .or_else(|| self.best.take_if(is_best));
        [
            self.next.replace(newest),
            mem::replace(&mut self.best, kept),
        ]
    }

    /// The next to copy: in the order in which they were written, for a later one is removed with an earlier's copy.
    fn take(&mut self) -> Option<Opened> {
        self.best.take().or_else(|| self.next.take())
    }
}

impl Shared {
    fn due(&self) -> MutexGuard<'_, Due> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, mirror: &Mirror, step: u64, error: TrainError) {
        log::warn!(
            "the checkpoint of step {step} isn't in {mirror}: {}",
            clip_files::one_line(&error)
        );
        self.due().failed = Some(error);
    }

    /// The next checkpoint, when there is one; `None` when none will come.
    fn next(&self) -> Option<Opened> {
        let due = self
            .changed
            .wait_while(self.due(), |due| due.next.is_none() && !due.ended);
        due.unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Copier {
    /// Copies the settings and records of the run in `run`, and from now on its checkpoints, of which `keep` stay.
    ///
    /// # Errors
    /// Where the mirror can't be written: a run must not find that out with its first checkpoint.
    pub fn start(mirror: Mirror, run: &Path, keep: usize) -> Result<Self, TrainError> {
        mirror.check_is_apart(run)?;
        mirror.save_records(run)?;
        let shared = Arc::<Shared>::default();
        let thread = std::thread::spawn({
            let (mirror, run, shared) = (mirror.clone(), run.to_owned(), Arc::clone(&shared));
            move || {
                while let Some(mut checkpoint) = shared.next() {
                    let copied = mirror
                        .check_is_of(&run)
                        .and_then(|()| mirror.save_records(&run))
                        .and_then(|()| mirror.save(&mut checkpoint, keep))
                        .and_then(|()| mirror.record_checkpoint(&run));
                    match copied {
                        Ok(()) => shared.due().failed = None,
                        Err(error) => {
                            // What another run keeps there is not to be mixed with this one's.
                            let ends = matches!(error, TrainError::SharedMirror { .. });
                            shared.fail(&mirror, checkpoint.step, error);
                            if ends {
                                return;
                            }
                        }
                    }
                }
            }
        });
        Ok(Self {
            mirror,
            run: run.to_owned(),
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Takes the checkpoint that a run goes on from as the next to copy, if the mirror doesn't have it: when it was
    /// written, the place may have been out of reach.
    pub(crate) fn offer_resumed(&self, checkpoint: &Path, state: &RunState) {
        match self.mirror.has(state.step) {
            Ok(true) => {}
            Ok(false) => self.offer(checkpoint, state),
            Err(error) => self.shared.fail(&self.mirror, state.step, error),
        }
    }

    /// Takes a checkpoint that is on the disk as the next to copy.
    pub(super) fn offer(&self, checkpoint: &Path, state: &RunState) {
        let best = state.best.as_ref().map(|best| best.step);
        let opened = Opened::of(checkpoint, state.step, best);
        let passed_over = match opened {
            Ok(opened) => self.shared.due().offer(opened),
            Err(error) => return self.shared.fail(&self.mirror, state.step, error),
        };
        // Its files are closed when nobody waits for the lock.
        drop(passed_over);
        self.shared.changed.notify_one();
    }

    /// Waits for the last checkpoint's copy, and copies the records again, and folders of what the run came to.
    ///
    /// # Errors
    /// Where one of these couldn't be read here or written there.
    pub fn finish(&self, folders: &[PathBuf]) -> Result<(), TrainError> {
        self.wait();
        if let Some(error) = self.shared.due().failed.take() {
            return Err(error);
        }
        self.mirror.check_is_of(&self.run)?;
        self.mirror.save_records(&self.run)?;
        folders
            .iter()
            .try_for_each(|folder| self.mirror.save_folder(folder))
    }

    fn wait(&self) {
        self.shared.due().ended = true;
        self.shared.changed.notify_one();
        let thread = mem::take(&mut *self.thread.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(thread) = thread {
            if !thread.is_finished() {
                log::info!("waiting for the last checkpoint's copy in {}", self.mirror);
            }
            if thread.join().is_err() {
                log::error!(
                    "copying into {} ended in a panic; please report this",
                    self.mirror
                );
            }
        }
    }
}

impl Drop for Copier {
    /// A run that fails must not lose the copy of its last checkpoint.
    fn drop(&mut self) {
        self.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A step, with the best of that time.
    type Written = (u64, Option<u64>);

    #[test]
    fn of_those_that_wait_the_best_and_the_newest_are_copied() {
        let empty = tempfile::tempdir().unwrap();
        // What is copied of them.
        let cases: [(&[Written], &[u64]); 6] = [
            (&[(1, None), (2, None)], &[2]),
            (&[(1, Some(1)), (2, Some(1)), (3, Some(1))], &[1, 3]),
            (&[(1, Some(1)), (2, Some(2)), (3, Some(2))], &[2, 3]),
            (&[(1, Some(1)), (2, Some(1)), (3, Some(3))], &[3]),
            // A best that was copied before.
            (&[(4, Some(1)), (5, Some(1))], &[5]),
            // The same step after a way back.
            (&[(4, Some(4)), (5, Some(4)), (4, Some(4))], &[4]),
        ];
        for (written, copied) in cases {
            let mut due = Due::default();
            for (step, best) in written {
                due.offer(Opened::of(empty.path(), *step, *best).unwrap());
            }
            let taken = std::iter::from_fn(|| due.take()).map(|opened| opened.step);
            assert_eq!(taken.collect::<Vec<_>>(), copied, "{written:?}");
        }
    }
}
