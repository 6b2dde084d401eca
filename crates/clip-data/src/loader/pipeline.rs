use std::{
    any::Any,
    collections::BTreeMap,
    iter::Fuse,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::{Builder, JoinHandle},
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::{DataError, ShardSet, watch::Watch};

/// Chunks of samples between the reader and the batch for each worker: enough that none waits for the others.
const IN_FLIGHT_A_WORKER: usize = 8;
/// Samples go from thread to thread together until they have so many bytes, or are so many: to wake a thread costs as
/// much as to decode a picture of 36 pixels.
const CHUNK_BYTES: usize = 32 << 10;
const CHUNK: usize = 16;

/// How often a wait for a batch looks whether the reader hangs.
const LOOK_EVERY: Duration = Duration::from_secs(1);

type Numbered<T> = (u64, Result<Vec<T>, DataError>);

/// What a worker is given.
pub(super) trait Job: Send + 'static {
    /// Of the file that is to be decoded.
    fn bytes(&self) -> usize;
}

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
/// The reader needs a permit for every chunk and the batching thread gives it back, so that what is
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
    waiting: BTreeMap<u64, Result<Vec<T>, DataError>>,
    next: u64,
    chunk: std::vec::IntoIter<T>,
}

impl<T> Iterator for Ordered<T> {
    type Item = Result<T, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(result) = self.chunk.next() {
                return Some(Ok(result));
            }
            match self.next_chunk()? {
                Ok(chunk) => self.chunk = chunk.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl<T> Ordered<T> {
    fn next_chunk(&mut self) -> Option<Result<Vec<T>, DataError>> {
        loop {
            if let Some(chunk) = self.waiting.remove(&self.next) {
                self.next += 1;
                self.permits.try_recv().ok();
                return Some(chunk);
            }
            let Ok((number, chunk)) = self.results.recv() else {
                // All threads ended. A number that is missing was with a worker that stopped.
                let (number, chunk) = self.waiting.pop_first()?;
                self.next = number + 1;
                return Some(chunk);
            };
            self.waiting.insert(number, chunk);
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
        J: Job,
        T: Send + 'static,
        S: Iterator<Item = Result<J, DataError>> + Send + 'static,
        W: FnMut(J) -> T + Clone + Send + 'static,
        A: FnOnce(&mut Ordered<T>, &mut dyn FnMut(B) -> bool) + Send + 'static,
    {
        let watch = watched.watch.clone();
        // The batching thread holds one more batch while it waits to hand it over.
        let (batch_sender, batches) = bounded(prefetch.saturating_sub(1));
        // Before the channels of its threads, which are gone when it is dropped on a failure and waits for them.
        let mut pipeline = Self {
            batches: Some(batches),
            threads: Vec::new(),
            watched,
        };
        let in_flight = workers.max(1) * IN_FLIGHT_A_WORKER;
        let (permit_sender, permits) = bounded(in_flight);
        let (job_sender, jobs) = bounded::<(u64, Vec<J>)>(in_flight);
        let (result_sender, results) = bounded::<Numbered<T>>(in_flight + workers + 1);
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
            chunk: Vec::new().into_iter(),
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
            .push(thread.map_err(clip_files::io("start the thread", name))?);
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

/// Samples as the reader hands them on: an error after all that came before it.
struct Chunks<'a, S> {
    source: Fuse<S>,
    watch: &'a Watch,
    failed: Option<DataError>,
}

impl<J: Job, S: Iterator<Item = Result<J, DataError>>> Iterator for Chunks<'_, S> {
    type Item = Result<Vec<J>, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while self.failed.is_none() && chunk.len() < CHUNK && bytes < CHUNK_BYTES {
            self.watch.begin();
            let job = self.source.next();
            self.watch.end();
            match job {
                Some(Ok(job)) => {
                    bytes += job.bytes();
                    chunk.push(job);
                }
                Some(Err(error)) => self.failed = Some(error),
                None => break,
            }
        }
        if chunk.is_empty() {
            return self.failed.take().map(Err);
        }
        Some(Ok(chunk))
    }
}

fn read<J: Job, T>(
    source: impl Iterator<Item = Result<J, DataError>>,
    watch: &Watch,
    permits: &Sender<()>,
    jobs: &Sender<(u64, Vec<J>)>,
    results: &Sender<Numbered<T>>,
) {
    let mut number = 0;
    let chunks = Chunks {
        source: source.fuse(),
        watch,
        failed: None,
    };
    let done = catch_unwind(AssertUnwindSafe(|| {
        for chunk in chunks {
            if permits.send(()).is_err() {
                return;
            }
            let sent = match chunk {
                Ok(chunk) => jobs.send((number, chunk)).is_ok(),
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
    jobs: &Receiver<(u64, Vec<J>)>,
    results: &Sender<Numbered<T>>,
    mut work: impl FnMut(J) -> T,
) {
    while let Ok((number, chunk)) = jobs.recv() {
        let result = catch_unwind(AssertUnwindSafe(|| {
            chunk.into_iter().map(&mut work).collect()
        }))
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

    /// So large that it is a chunk of its own.
    impl Job for u64 {
        fn bytes(&self) -> usize {
            CHUNK_BYTES
        }
    }

    /// So small that chunks are as long as may be.
    impl Job for u32 {
        fn bytes(&self) -> usize {
            1
        }
    }

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
    fn small_jobs_keep_their_order_and_all_come_before_an_error() {
        let source = (0..200_u32).map(|number| match number {
            150 => Err(DataError::ThreadPanicked {
                thread: "test",
                message: "150".to_owned(),
            }),
            number => Ok(number),
        });
        let pipeline = Pipeline::start(3, 2, watched(), source, |number| number, each).unwrap();
        let found = collect(pipeline);
        let numbers = |part: &[Result<u32, DataError>]| -> Vec<u32> {
            part.iter()
                .filter_map(|found| found.as_ref().ok().copied())
                .collect()
        };
        assert_eq!(numbers(&found[..150]), (0..150).collect::<Vec<_>>());
        assert!(found[150].is_err());
        assert_eq!(numbers(&found[151..]), (151..200).collect::<Vec<_>>());
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
