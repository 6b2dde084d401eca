use std::{
    io::{Error, ErrorKind, Result},
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt;
use object_store::{GetOptions, GetRange, ObjectStore, path::Path};
use tokio::{
    sync::mpsc::Sender,
    time::{sleep, timeout},
};

/// Some bytes of an object; none at its end.
pub(super) type Piece = bytes::Bytes;

/// How long a server is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Without a byte, after which a connection counts as broken.
    pub(super) silence: Duration,
    /// Before the second try; doubled for each that follows.
    first_delay: Duration,
    longest_delay: Duration,
    /// One after the other without a byte, after which the object counts as unreadable.
    tries: u32,
}

impl Default for Patience {
    /// Five minutes in all: a server's restart, and less than a loader waits before it calls its source stuck.
    #[cfg(not(test))]
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(30),
            first_delay: Duration::from_millis(500),
            longest_delay: Duration::from_secs(30),
            tries: 8,
        }
    }

    #[cfg(test)]
    fn default() -> Self {
        Self {
            silence: Duration::from_millis(500),
            first_delay: Duration::from_millis(5),
            longest_delay: Duration::from_millis(20),
            tries: 8,
        }
    }
}

/// An object on its way.
pub(super) struct Fetch {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) path: Path,
    pub(super) url: Arc<str>,
    pub(super) patience: Patience,
    pub(super) send: Sender<Result<Piece>>,
    /// The next byte to hand over.
    pub(super) position: u64,
    /// Where to stop; at the object's end without it.
    pub(super) end: Option<u64>,
    /// What the object was when it was first seen.
    pub(super) version: Option<Version>,
}

/// What tells an object from the one that comes to stand in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    /// Bytes of the whole object.
    pub(super) size: u64,
    e_tag: Option<String>,
}

enum Stop {
    /// All bytes were handed over, or nobody wants more.
    Done,
    /// Trying again would not help.
    Failed(Error),
    /// The connection broke.
    Broken(String),
}

impl Fetch {
    /// Hands over the bytes, and goes on at the same one wherever a connection breaks. Says what object it was.
    pub(super) async fn run(mut self) -> Option<Version> {
        let end = self.deliver().await.map(|()| Piece::new());
        self.send.send(end).await.ok();
        self.version
    }

    async fn deliver(&mut self) -> Result<()> {
        let mut tries = 0;
        loop {
            let before = self.position;
            let reason = match self.transfer().await {
                Stop::Done => return Ok(()),
                Stop::Failed(error) => return Err(error),
                Stop::Broken(reason) => reason,
            };
            tries = if self.position > before { 1 } else { tries + 1 };
            if tries >= self.patience.tries {
                let message = format!("{reason}; gave up after {tries} tries in a row");
                return Err(Error::new(ErrorKind::TimedOut, message));
            }
            let delay = self.delay(tries);
            log::warn!(
                "{}: {reason}; going on from byte {} in {:.1} s",
                self.url,
                self.position,
                delay.as_secs_f64()
            );
            sleep(delay).await;
        }
    }

    /// Doubled with each try, and apart for each object, so that a crowd doesn't come back at once.
    fn delay(&self, tries: u32) -> Duration {
        let doubled = self.patience.first_delay * 2_u32.saturating_pow(tries - 1).min(1 << 16);
        let spread = self.url.bytes().map(u32::from).sum::<u32>() % 100;
        doubled.min(self.patience.longest_delay) * (100 - spread / 2) / 100
    }

    /// One connection, until it ends or breaks.
    async fn transfer(&mut self) -> Stop {
        let known = self.version.as_ref();
        if known.is_some_and(|known| self.position >= self.end(known.size)) {
            return Stop::Done;
        }
        let range = match self.end {
            Some(end) => Some(GetRange::Bounded(self.position..end)),
            None => (self.position > 0).then_some(GetRange::Offset(self.position)),
        };
        // A weak tag never matches in a condition (RFC 9110, section 13.1.1); it is compared below.
        let tag = known.and_then(|known| known.e_tag.clone());
        let strong = tag.filter(|tag| !tag.starts_with("W/"));
        let options = GetOptions {
            range,
            if_match: strong,
            ..GetOptions::default()
        };
        let mut asked = self.ask(options).await;
        if let Err(object_store::Error::NotSupported { .. }) = asked {
            // The server gave the whole instead of a range: pass over what is known.
            asked = self.ask(GetOptions::default()).await;
        }
        let found = match asked {
            Ok(found) => found,
            Err(error) => return stop(error),
        };
        let version = Version {
            size: found.meta.size,
            e_tag: found.meta.e_tag.clone(),
        };
        if self
            .version
            .get_or_insert_with(|| version.clone())
            .differs(&version)
        {
            return changed();
        }
        let end = self.end(version.size);
        let mut at = found.range.start;
        let mut stream = found.into_stream();
        while self.position < end {
            let mut piece = match timeout(self.patience.silence, stream.next()).await {
                Err(_) => return self.silent(),
                Ok(Some(Ok(piece))) => piece,
                Ok(Some(Err(error))) => return stop(error),
                Ok(None) => {
                    return Stop::Broken(format!("ended after {} of {end} bytes", self.position));
                }
            };
            let known = self.position.saturating_sub(at).min(piece.len() as u64);
            at += piece.len() as u64;
            let mut fresh = piece.split_off(known as usize);
            fresh.truncate((end - self.position) as usize);
            if fresh.is_empty() {
                continue;
            }
            self.position += fresh.len() as u64;
            if self.send.send(Ok(fresh)).await.is_err() {
                return Stop::Done;
            }
        }
        Stop::Done
    }

    fn end(&self, size: u64) -> u64 {
        self.end.map_or(size, |end| end.min(size))
    }

    async fn ask(&self, options: GetOptions) -> object_store::Result<object_store::GetResult> {
        let asked = timeout(
            self.patience.silence,
            self.store.get_opts(&self.path, options),
        );
        asked.await.unwrap_or_else(|_| {
            Err(object_store::Error::Generic {
                store: "remote",
                source: "no answer".into(),
            })
        })
    }

    fn silent(&self) -> Stop {
        let seconds = self.patience.silence.as_secs_f64();
        Stop::Broken(format!("nothing came for {seconds} s"))
    }
}

impl Version {
    /// A server need not give a tag each time.
    fn differs(&self, other: &Self) -> bool {
        let other_tag = matches!((&self.e_tag, &other.e_tag), (Some(a), Some(b)) if a != b);
        other_tag || self.size != other.size
    }
}

fn changed() -> Stop {
    Stop::Failed(Error::new(
        ErrorKind::ConnectionAborted,
        "it changed on the server while it was read; shards must not change during a run",
    ))
}

fn stop(error: object_store::Error) -> Stop {
    if let object_store::Error::Precondition { .. } = error {
        return changed();
    }
    match kind(&error) {
        Some(kind) => Stop::Failed(Error::new(kind, error.to_string())),
        None => Stop::Broken(error.to_string()),
    }
}

/// What is wrong that trying again would not help.
pub(super) fn kind(error: &object_store::Error) -> Option<ErrorKind> {
    use object_store::Error as E;
    match error {
        E::NotFound { .. } => Some(ErrorKind::NotFound),
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => Some(ErrorKind::PermissionDenied),
        E::InvalidPath { .. } | E::NotSupported { .. } | E::NotImplemented { .. } => {
            Some(ErrorKind::Unsupported)
        }
        _ => None,
    }
}
