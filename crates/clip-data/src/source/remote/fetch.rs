use std::{
    io::{Error, ErrorKind, Result},
    sync::Arc,
};

use futures_util::StreamExt;
use object_store::{GetOptions, GetRange, ObjectStore, path::Path};
use tokio::{sync::mpsc::Sender, time::timeout};

use super::{patience::Patience, reason::Reason};

/// Some bytes of an object; none at its end.
pub(super) type Piece = bytes::Bytes;

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
            let then = format!("going on from byte {}", self.position);
            self.patience.wait(tries, &self.url, &reason, &then).await?;
        }
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
            Err(error) => return self.stop(&error),
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
                Ok(Some(Err(error))) => return self.stop(&error),
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

    fn stop(&self, error: &object_store::Error) -> Stop {
        if let object_store::Error::Precondition { .. } = error {
            return changed();
        }
        let reason = Reason::of(error, &self.url);
        match reason.kind {
            Some(kind) => Stop::Failed(Error::new(kind, reason.text)),
            None => Stop::Broken(reason.text),
        }
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
