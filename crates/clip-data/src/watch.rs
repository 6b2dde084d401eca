use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Which shard a thread reads, and since when, for another that waits for it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watch(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    shard: usize,
    since: Option<Instant>,
}

impl Watch {
    /// A read begins.
    pub(crate) fn begin(&self) {
        self.state().since = Some(Instant::now());
    }

    /// The read came back.
    pub(crate) fn end(&self) {
        self.state().since = None;
    }

    /// This shard is what is read now.
    pub(crate) fn reads(&self, shard: usize) {
        let mut state = self.state();
        state.shard = shard;
        // A read that goes through many shards is not stuck.
        if state.since.is_some() {
            state.since = Some(Instant::now());
        }
    }

    /// The shard that a read has waited for since longer than `limit`.
    pub(crate) fn stuck(&self, limit: Duration) -> Option<usize> {
        let state = self.state();
        let since = state.since?;
        (since.elapsed() > limit).then_some(state.shard)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
