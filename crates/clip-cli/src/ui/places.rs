use std::sync::atomic::{AtomicUsize, Ordering};

/// A number of places, of which each is taken until its [`Place`] is dropped, in a panic too.
pub(super) struct Places {
    free: AtomicUsize,
}

/// A place that is taken.
pub(super) struct Place<'a>(&'a Places);

impl Places {
    pub(super) fn new(places: usize) -> Self {
        Self {
            free: AtomicUsize::new(places),
        }
    }

    /// A place, if one is free.
    pub(super) fn take(&self) -> Option<Place<'_>> {
        let less = |free: usize| free.checked_sub(1);
        let taken = self
            .free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        taken.is_ok().then_some(Place(self))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.free.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_even_after_a_panic() {
        let places = Places::new(1);
        let taken = places.take();
        assert!(taken.is_some() && places.take().is_none());
        drop(taken);
        let hook = std::panic::AssertUnwindSafe(|| {
            let _place = places.take();
            std::panic::resume_unwind(Box::new("no message"));
        });
        assert!(std::panic::catch_unwind(hook).is_err());
        assert!(places.take().is_some());
    }
}
