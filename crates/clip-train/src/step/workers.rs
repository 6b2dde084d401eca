//! Chunks on several threads, each of which computes on a device.

use std::{
    any::Any,
    cell::Cell,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, mpsc},
    thread,
};

use clip_model::loss::ContrastiveGradients;
use rayon::ThreadPool;

use super::encoder::{ChunkGradients, Encoder, Features};

/// The panic of a step of which one device stopped computing, as one does whose machine is gone. It unwinds out of
/// [`ContrastiveStep::gradients`](super::ContrastiveStep::gradients), for Burn's operations have no other way to fail.
#[derive(Debug)]
pub(crate) struct Stopped {
    /// The device's place in the list that the step was given.
    pub(crate) device: usize,
    /// What Burn said.
    pub(crate) reason: String,
}

/// A loss with its gradients by all features, and the factor by which they are enlarged on their way back.
pub(super) type Found = (ContrastiveGradients, f64);

/// Encoders of as many devices, shared by a number of threads in turn.
pub(super) struct Workers<'a> {
    pub(super) encoders: Vec<Encoder<'a>>,
    pub(super) threads: usize,
    /// What each thread computes in: an operation that spreads over the threads of its pool stays on one core.
    pub(super) pools: &'a [ThreadPool],
}

impl Workers<'_> {
    /// Encodes every chunk once, all at the same time; their graphs wait for the loss.
    pub(super) fn in_one_pass(
        &self,
        chunks: &[Range<usize>],
        loss: impl FnOnce(Vec<Features>) -> Found,
        mut add: impl FnMut(ChunkGradients),
    ) -> ContrastiveGradients {
        if let [whole] = chunks {
            return self.on_device(0, |encoder| {
                let encoded = encoder.encode(whole.clone());
                let (found, scale) = loss(vec![encoder.features_of(&encoded)]);
                add(encoder.back(encoded, &found, scale));
                found
            });
        }
        thread::scope(|scope| {
            let threads: Vec<_> = chunks
                .iter()
                .enumerate()
                .map(|(worker, chunk)| {
                    let (send_features, features) = mpsc::channel();
                    let (found, receive_found) = mpsc::channel::<Arc<Found>>();
                    let thread = scope.spawn(move || {
                        self.beside_others(worker, move |encoder| {
                            let encoded = encoder.encode(chunk.clone());
                            // Either end closes only when the other thread panicked, which `joined` passes on.
                            let sent = send_features.send(encoder.features_of(&encoded)).ok();
                            let found = sent.and_then(|()| receive_found.recv().ok())?;
                            let (found, scale) = &*found;
                            Some(encoder.back(encoded, found, *scale))
                        })
                    });
                    (thread, features, found)
                })
                .collect();
            let features = threads
                .iter()
                .map_while(|(_, features, _)| features.recv().ok());
            let features: Vec<Features> = features.collect();
            let found = (features.len() == threads.len()).then(|| Arc::new(loss(features)));
            for (_, _, send) in &threads {
                if let Some(found) = &found {
                    // A closed end is a panicked thread, as above.
                    let _ = send.send(Arc::clone(found));
                }
            }
            for (thread, _, send) in threads {
                drop(send);
                if let Some(grads) = joined(thread) {
                    add(grads);
                }
            }
            // invariant: without it a thread has panicked, and `joined` has not come back.
            let found = found.expect("invariant: every thread sent its features");
            Arc::unwrap_or_clone(found).0
        })
    }

    /// Encodes every chunk for its features alone, and again for its gradients once the loss is known.
    pub(super) fn in_two_passes(
        &self,
        chunks: &[Range<usize>],
        loss: impl FnOnce(Vec<Features>) -> Found,
        add: impl FnMut(ChunkGradients),
    ) -> ContrastiveGradients {
        let mut features = Vec::with_capacity(chunks.len());
        #[allow(clippy::redundant_closure_for_method_calls)]
        // The method is of one lifetime, the closure of any.
        self.each(
            chunks,
            |encoder, chunk| encoder.features(chunk),
            |part| features.push(part),
        );
        let (found, scale) = loss(features);
        self.each(
            chunks,
            |encoder, chunk| encoder.back(encoder.encode(chunk), &found, scale),
            add,
        );
        found
    }

    /// Does the same to each chunk, on all threads, and takes what comes of it in the chunks' order.
    fn each<T: Send>(
        &self,
        chunks: &[Range<usize>],
        work: impl Fn(&Encoder<'_>, Range<usize>) -> T + Sync,
        mut take: impl FnMut(T),
    ) {
        if self.threads == 1 {
            for chunk in chunks {
                take(self.on_device(0, |encoder| work(encoder, chunk.clone())));
            }
            return;
        }
        for wave in chunks.chunks(self.threads) {
            let work = &work;
            thread::scope(|scope| {
                let threads: Vec<_> = wave
                    .iter()
                    .enumerate()
                    .map(|(worker, chunk)| {
                        scope.spawn(move || {
                            self.beside_others(worker, |encoder| work(encoder, chunk.clone()))
                        })
                    })
                    .collect();
                for thread in threads {
                    take(joined(thread));
                }
            });
        }
    }

    /// What one of several workers does, on a core of its own.
    fn beside_others<T: Send>(
        &self,
        worker: usize,
        work: impl FnOnce(&Encoder<'_>) -> T + Send,
    ) -> T {
        self.pools[worker].install(|| self.on_device(worker, work))
    }

    /// What a worker does on its device; a panic there tells which one it was.
    fn on_device<T>(&self, worker: usize, work: impl FnOnce(&Encoder<'_>) -> T) -> T {
        let device = worker % self.encoders.len();
        let encoder = &self.encoders[device];
        named(device, || work(encoder))
    }
}

thread_local! {
    static COMPUTES: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread computes on a device for a contrastive step, so that a panic here ends as an error that names
/// the device. A panic hook can leave it to that error to tell.
pub fn computes_on_device() -> bool {
    COMPUTES.get()
}

/// Does something on a device. A panic goes on with the device's place in the list.
pub(crate) fn named<T>(device: usize, work: impl FnOnce() -> T) -> T {
    let before = COMPUTES.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    COMPUTES.set(before);
    done.unwrap_or_else(|panic| {
        let reason = reason(&*panic);
        resume_unwind(Box::new(Stopped { device, reason }))
    })
}

/// What Burn puts before the words of a panic in a device's queue, and closes with a parenthesis.
const IN_QUEUE: &str = "task panicked on device runner thread: ";

/// What a backend's error comes of, which it tells last, each of its causes after a line of its own.
pub fn innermost_cause(error: &str) -> &str {
    let cause = error.rsplit("Caused by:\n").next();
    let line = cause.and_then(|cause| cause.trim().lines().next());
    line.unwrap_or(error).trim()
}

/// What a panic came of.
pub(crate) fn reason(panic: &(dyn Any + Send)) -> String {
    let said = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    let line = said.map_or("unknown reason", innermost_cause);
    let in_queue = line.split_once(IN_QUEUE).map(|(_, words)| words);
    let words = in_queue.map(|words| words.strip_suffix(')').unwrap_or(words));
    words.unwrap_or(line).to_owned()
}

/// What a thread returned; its panic goes on in this one.
fn joined<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_by_what_it_comes_of() {
        let tree = "An error happened during execution\nCaused by:\n  A launch error happened\nCaused by:\n  compiling \
                    'f': libdevice.10.bc was not found\nBacktrace:\nNo backtrace available";
        assert_eq!(
            innermost_cause(tree),
            "compiling 'f': libdevice.10.bc was not found"
        );
        assert_eq!(innermost_cause("out of memory\n"), "out of memory");
    }

    #[test]
    fn a_reason_is_the_first_line_without_what_burn_puts_around_it() {
        let wrapped = format!("Service call failed: CallError({IN_QUEUE}channel (3) closed)");
        for (said, told) in [
            (wrapped.as_str(), "channel (3) closed"),
            ("no device\nat line 3", "no device"),
        ] {
            assert_eq!(reason(&said.to_owned()), told);
        }
        assert_eq!(reason(&"static"), "static");
        assert_eq!(reason(&7), "unknown reason");
    }
}
