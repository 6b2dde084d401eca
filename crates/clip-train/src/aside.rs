use std::{
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

type Job = Box<dyn FnOnce() + Send>;

/// A thread that works beside this one, on whatever it is given, in that order.
///
/// A GPU keeps to the order of what each thread asks of it. A number that is read by the thread that has asked for the next
/// step already comes after that step; read by another, it comes as soon as it is there. The thread ends with this.
pub struct Aside {
    jobs: Sender<Job>,
}

/// What an [`Aside`] is working on.
pub struct Pending<T> {
    found: Receiver<thread::Result<T>>,
}

impl Aside {
    /// # Errors
    /// When the system gives no thread.
    pub fn new(name: &str) -> io::Result<Self> {
        let (jobs, given) = channel::<Job>();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || given.into_iter().for_each(|job| job()))?;
        Ok(Self { jobs })
    }

    /// Has it done, without waiting.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Pending<T> {
        let (sender, found) = channel();
        let job = move || {
            // Nobody may be waiting any more.
            let _ = sender.send(catch_unwind(AssertUnwindSafe(work)));
        };
        let given = self.jobs.send(Box::new(job));
        given.expect("invariant: the thread ends after its last job");
        Pending { found }
    }
}

impl<T> Pending<T> {
    /// Waits for it.
    ///
    /// # Panics
    /// When the work did, with what it said.
    pub fn wait(self) -> T {
        let found = self.found.recv();
        let found = found.expect("invariant: every job sends what became of it");
        found.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl fmt::Debug for Aside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aside").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_in_order_and_a_panic_is_the_waiters() {
        let aside = Aside::new("aside").unwrap();
        let (sender, order) = channel();
        let first = sender.clone();
        let panicking = aside.run(move || {
            first.send(1).unwrap();
            panic!("no number")
        });
        let second = aside.run(move || sender.send(2).unwrap());
        second.wait();
        assert_eq!(order.iter().collect::<Vec<_>>(), [1, 2]);
        let wait = || panicking.wait();
        let panic: Box<dyn std::any::Any + Send> =
            catch_unwind(AssertUnwindSafe(wait)).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"no number"));
    }
}
