use std::{
    any::Any,
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::{Builder, JoinHandle},
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::{DataError, ShardSet, watch::Watch};

/// Samples between the reader and the batch for each worker: enough that none waits for the others.
const IN_FLIGHT_A_WORKER: usize = 8;

/// How often a wait for a batch looks whether the reader hangs.
const LOOK_EVERY: Duration = Duration::from_secs(1);

type Numbered<T> = (u64, Result<T, DataError>);

/// How a reader that hangs is noticed.
pub(super) struct Watched {
    watch: Watch,
    limit: Duration,
    shards: ShardSet,
}

impl Watched {
    pub(super) fn new(watch: Watch, stall_seconds: u64, shards: &ShardSet) -> Self {
        Self {
            watch,
            limit: Duration::from_secs(stall_seconds),
            shards: shards.clone(),
        }
    }
}

/// A reader thread, decoding threads and a batching thread, joined by bounded queues.
///
/// The reader needs a permit for every sample and the batching thread gives it back, so that what is
/// in flight is bounded even when one sample takes long. Dropping the pipeline ends and joins all threads, unless
/// the reader hangs in the operating system: then they end when it lets go.
pub(super) struct Pipeline<B> {
    batches: Option<Receiver<B>>,
    threads: Vec<JoinHandle<()>>,
    watched: Watched,
}

/// Results in the order of their jobs.
pub(super) struct Ordered<T> {
    results: Receiver<Numbered<T>>,
    permits: Receiver<()>,
    waiting: BTreeMap<u64, Result<T, DataError>>,
    next: u64,
}

impl<T> Iterator for Ordered<T> {
    type Item = Result<T, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(result) = self.waiting.remove(&self.next) {
                self.next += 1;
                self.permits.try_recv().ok();
                return Some(result);
            }
            let Ok((number, result)) = self.results.recv() else {
                // All threads ended. A number that is missing was with a worker that stopped.
                let (number, result) = self.waiting.pop_first()?;
                self.next = number + 1;
                return Some(result);
            };
            self.waiting.insert(number, result);
        }
    }
}

impl<B: Send + 'static> Pipeline<B> {
    /// Starts the threads. Each worker gets its own clone of `work`; `assemble` hands batches to its
    /// second argument until that returns `false`, which means nobody wants more.
    ///
    /// # Errors
    /// [`DataError::Io`] if the system gives no thread.
    pub(super) fn start<J, T, S, W, A>(
        workers: usize,
        prefetch: usize,
        watched: Watched,
        source: S,
        work: W,
        assemble: A,
    ) -> Result<Self, DataError>
    where
        J: Send + 'static,
        T: Send + 'static,
        S: Iterator<Item = Result<J, DataError>> + Send + 'static,
        W: FnMut(J) -> T + Clone + Send + 'static,
        A: FnOnce(&mut Ordered<T>, &mut dyn FnMut(B) -> bool) + Send + 'static,
    {
        let in_flight = workers.max(1) * IN_FLIGHT_A_WORKER;
        let (permit_sender, permits) = bounded(in_flight);
        let (job_sender, jobs) = bounded::<(u64, J)>(in_flight);
        let (result_sender, results) = bounded::<Numbered<T>>(in_flight + workers + 1);
        // The batching thread holds one more batch while it waits to hand it over.
        let (batch_sender, batches) = bounded(prefetch.saturating_sub(1));
        let watch = watched.watch.clone();
        let mut pipeline = Self {
            batches: Some(batches),
            threads: Vec::new(),
            watched,
        };
        let jobs = Arc::new(jobs);
        let to_batching = result_sender.clone();
        pipeline.spawn("clip-read", move || {
            read(source, &watch, &permit_sender, &job_sender, &to_batching);
        })?;
        for _ in 0..workers.max(1) {
            let (jobs, results, work) = (Arc::clone(&jobs), result_sender.clone(), work.clone());
            pipeline.spawn("clip-decode", move || decode(&jobs, &results, work))?;
        }
        drop((jobs, result_sender));
        let mut ordered = Ordered {
            results,
            permits,
            waiting: BTreeMap::new(),
            next: 0,
        };
        pipeline.spawn("clip-batch", move || {
            assemble(&mut ordered, &mut |batch| batch_sender.send(batch).is_ok());
        })?;
        Ok(pipeline)
    }

    fn spawn(
        &mut self,
        name: &'static str,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<(), DataError> {
        let thread = Builder::new().name(name.to_owned()).spawn(body);
        // On failure the threads already started end as this pipeline is dropped.
        self.threads
            .push(thread.map_err(DataError::io("start the thread", name))?);
        Ok(())
    }

    /// The next batch; `None` when there are no more.
    ///
    /// # Errors
    /// [`DataError::ThreadPanicked`] if the batching thread did, [`DataError::Stalled`] if a shard gives nothing.
    pub(super) fn next(&mut self) -> Result<Option<B>, DataError> {
        let Some(batches) = &self.batches else {
            return self.join();
        };
        loop {
            match batches.recv_timeout(self.watched.limit.min(LOOK_EVERY)) {
                Ok(batch) => return Ok(Some(batch)),
                Err(RecvTimeoutError::Disconnected) => return self.join(),
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(shard) = self.watched.watch.stuck(self.watched.limit) {
                        self.batches = None;
                        // Nothing can wake a thread that the system holds: it is left to itself.
                        self.threads.clear();
                        return Err(DataError::Stalled {
                            shard: self.watched.shards.name(shard),
                            seconds: self.watched.limit.as_secs(),
                        });
                    }
                }
            }
        }
    }

    fn join(&mut self) -> Result<Option<B>, DataError> {
        self.batches = None;
        let mut outcome = Ok(None);
        for thread in self.threads.drain(..) {
            if let Err(panic) = thread.join() {
                outcome = Err(panicked("batch", panic.as_ref()));
            }
        }
        outcome
    }
}

impl<B> Drop for Pipeline<B> {
    fn drop(&mut self) {
        // Every thread waits on a channel whose other end goes away in turn.
        self.batches = None;
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

fn read<J, T>(
    mut source: impl Iterator<Item = Result<J, DataError>>,
    watch: &Watch,
    permits: &Sender<()>,
    jobs: &Sender<(u64, J)>,
    results: &Sender<Numbered<T>>,
) {
    let mut number = 0;
    let done = catch_unwind(AssertUnwindSafe(|| {
        loop {
            watch.begin();
            let job = source.next();
            watch.end();
            let Some(job) = job else { return };
            if permits.send(()).is_err() {
                return;
            }
            let sent = match job {
                Ok(job) => jobs.send((number, job)).is_ok(),
                Err(error) => results.send((number, Err(error))).is_ok(),
            };
            if !sent {
                return;
            }
            number += 1;
        }
    }));
    if let Err(panic) = done {
        results
            .send((number, Err(panicked("reading", panic.as_ref()))))
            .ok();
    }
}

fn decode<J, T>(
    jobs: &Receiver<(u64, J)>,
    results: &Sender<Numbered<T>>,
    mut work: impl FnMut(J) -> T,
) {
    while let Ok((number, job)) = jobs.recv() {
        let result = catch_unwind(AssertUnwindSafe(|| work(job)))
            .map_err(|panic| panicked("decoding", panic.as_ref()));
        let stop = result.is_err();
        if results.send((number, result)).is_err() || stop {
            return;
        }
    }
}

fn panicked(thread: &'static str, panic: &(dyn Any + Send)) -> DataError {
    let message = panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "no message".to_owned());
    DataError::ThreadPanicked { thread, message }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn watched() -> Watched {
        let shards = ShardSet::from_paths(vec!["a.tar".into()]);
        Watched::new(Watch::default(), 1, &shards)
    }

    fn each<T>(ordered: &mut Ordered<T>, send: &mut dyn FnMut(Result<T, DataError>) -> bool) {
        for result in ordered {
            if !send(result) {
                return;
            }
        }
    }

    fn collect<T: Send + 'static>(
        mut pipeline: Pipeline<Result<T, DataError>>,
    ) -> Vec<Result<T, DataError>> {
        std::iter::from_fn(|| pipeline.next().unwrap()).collect()
    }

    #[test]
    fn results_keep_the_order_of_their_jobs() {
        let work = |number: u64| {
            std::thread::sleep(Duration::from_micros(number * 7919 % 500));
            number
        };
        let pipeline = Pipeline::start(4, 2, watched(), (0..200).map(Ok), work, each).unwrap();
        let found: Vec<u64> = collect(pipeline).into_iter().map(Result::unwrap).collect();
        assert_eq!(found, (0..200).collect::<Vec<_>>());
    }

    #[test]
    fn a_slow_consumer_holds_the_reader_back() {
        let read = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&read);
        let source = (0..).map(move |number: u64| {
            counter.fetch_add(1, Ordering::SeqCst);
            Ok(number)
        });
        let mut pipeline = Pipeline::start(2, 2, watched(), source, |number| number, each).unwrap();
        pipeline.next().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        // In flight, ready, in the batching thread's hands, in the reader's, and the one taken.
        assert!(read.load(Ordering::SeqCst) <= 2 * 8 + 1 + 1 + 1 + 1 + 1);
    }

    #[test]
    fn a_panic_in_any_thread_is_an_error() {
        let work = |number: u64| {
            assert!(number != 5, "job five");
            number
        };
        let pipeline = Pipeline::start(2, 2, watched(), (0..50).map(Ok), work, each).unwrap();
        let found = collect(pipeline);
        let error = found[5].as_ref().unwrap_err().to_string();
        assert!(
            error.contains("decoding thread panicked: job five"),
            "{error}"
        );

        let source = (0..50).map(|number: u64| {
            assert!(number != 3, "job three");
            Ok(number)
        });
        let found =
            collect(Pipeline::start(2, 2, watched(), source, |number| number, each).unwrap());
        assert_eq!(found.len(), 4);
        assert!(
            found[3]
                .as_ref()
                .unwrap_err()
                .to_string()
                .contains("reading")
        );

        let mut pipeline = Pipeline::<u64>::start(
            1,
            2,
            watched(),
            (0..9_u64).map(Ok),
            |n| n,
            |_, _| panic!("no batch"),
        )
        .unwrap();
        let error = pipeline.next().unwrap_err().to_string();
        assert!(error.contains("no batch"), "{error}");
    }

    #[test]
    fn a_source_that_hangs_is_named() {
        let (release, hang) = bounded::<()>(0);
        let source = (0..5).map(move |number: u64| {
            if number == 3 {
                hang.recv().ok();
            }
            Ok(number)
        });
        let mut pipeline = Pipeline::start(1, 2, watched(), source, |number| number, each).unwrap();
        let found: Vec<_> = std::iter::from_fn(|| pipeline.next().transpose())
            .take(4)
            .collect();
        assert!(found[..3].iter().all(Result::is_ok));
        let error = found[3].as_ref().unwrap_err().to_string();
        assert!(error.contains("nothing came from a.tar for 1 s"), "{error}");
        drop((pipeline, release));
    }
}
