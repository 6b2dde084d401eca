//! Shards on servers, as streams of bytes that survive broken connections.

#[cfg(feature = "parquet")]
mod blocks;
mod fetch;
mod folder;
mod glob;
mod patience;
mod reason;
mod store;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt,
    fs::File,
    io::{Error, ErrorKind, Read, Result, Write},
    sync::{Arc, Mutex, PoisonError},
};

use object_store::{ClientOptions, ObjectStore, path::Path};
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc::{Receiver, channel},
    task::JoinHandle,
};

#[cfg(feature = "parquet")]
pub(in crate::source) use blocks::Blocks;
use fetch::{Fetch, Piece, Version};
pub use folder::RemoteFolder;
use patience::Patience;

use crate::DataError;

/// Pieces that wait for the reader: some 16 to 64 KiB each, so that a slow moment of the server doesn't show.
const PIECES_AHEAD: usize = 64;

/// Bytes that are copied at once.
const COPIED: usize = 1 << 18;

/// Gives the objects of one list of shards their client.
#[derive(Default)]
pub(in crate::source) struct Remote {
    client: Mutex<Option<Arc<Client>>>,
}

/// Connections, driven by a thread of their own.
#[derive(Debug)]
struct Client {
    /// `None` once it ends.
    runtime: Option<Runtime>,
    /// By scheme and host or bucket.
    stores: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Without waiting for a name server that doesn't answer.
            runtime.shutdown_background();
        }
    }
}

/// A file on a server.
#[derive(Clone)]
pub(in crate::source) struct RemoteObject {
    url: Arc<str>,
    path: Path,
    store: Arc<dyn ObjectStore>,
    client: Arc<Client>,
}

impl Remote {
    /// The object at a URL; nothing is asked of its server yet.
    pub(in crate::source) fn object(&self, url: &str) -> std::result::Result<RemoteObject, String> {
        self.client()?.object(url)
    }

    fn client(&self) -> std::result::Result<Arc<Client>, String> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*client {
            return Ok(Arc::clone(client));
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("clip-remote")
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start a thread for it: {error}"))?;
        let made = Arc::new(Client {
            runtime: Some(runtime),
            stores: Mutex::default(),
        });
        *client = Some(Arc::clone(&made));
        Ok(made)
    }
}

/// `https://host/a/b` to `https://host` and `a/b`.
fn split(url: &str) -> std::result::Result<(&str, &str), String> {
    if url.contains(['?', '#']) {
        return Err(
            "a URL with `?` or `#` is not supported; give the plain address, with those of a file's name as `%3F` and `%23`"
                .to_owned(),
        );
    }
    let host = url.find("://").map_or(0, |scheme| scheme + 3);
    match url[host..].split_once('/') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            Ok((&url[..host + name.len()], path))
        }
        _ => Err("it names no file; give scheme://host-or-bucket/path".to_owned()),
    }
}

/// The URL of a path, as [`Client::object`] reads it.
fn address(base: &str, path: &Path) -> String {
    let path = path.as_ref().replace('%', "%25");
    format!("{base}/{}", path.replace('?', "%3F").replace('#', "%23"))
}

impl Client {
    fn object(self: Arc<Self>, url: &str) -> std::result::Result<RemoteObject, String> {
        let (base, path) = split(url)?;
        Ok(RemoteObject {
            store: self.store(base)?,
            path: Path::from_url_path(path).map_err(|error| error.to_string())?,
            url: url.into(),
            client: self,
        })
    }

    fn store(&self, base: &str) -> std::result::Result<Arc<dyn ObjectStore>, String> {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = stores.get(base) {
            return Ok(Arc::clone(store));
        }
        let options = ClientOptions::new()
            // Whole transfers may take hours; silence is timed by the fetch.
            .with_timeout_disabled();
        let store = store::of(base, options)?;
        stores.insert(base.to_owned(), Arc::clone(&store));
        Ok(store)
    }
}

impl RemoteObject {
    /// Its bytes from `start` on.
    pub(in crate::source) fn open(&self, start: u64) -> Result<impl Read + Send + use<>> {
        self.fetch(start, None, None).map(|(body, _)| body)
    }

    /// Its bytes from `start` to `end`, or to its own end; what object it is, is known once all of them are read.
    fn fetch(
        &self,
        start: u64,
        end: Option<u64>,
        version: Option<Version>,
    ) -> Result<(Body, JoinHandle<Option<Version>>)> {
        let Some(runtime) = &self.client.runtime else {
            return Err(Error::other("the connection was closed"));
        };
        let (send, pieces) = channel(PIECES_AHEAD);
        let fetch = Fetch {
            store: Arc::clone(&self.store),
            path: self.path.clone(),
            url: Arc::clone(&self.url),
            patience: Patience::default(),
            send,
            position: start,
            end,
            version,
        };
        let body = Body {
            pieces,
            piece: Piece::new(),
            ended: false,
            _client: Arc::clone(&self.client),
        };
        Ok((body, runtime.spawn(fetch.run())))
    }

    /// The file that a name within this one means: its address, or its path from this one's folder or from the root.
    pub(in crate::source) fn named(&self, name: &str) -> std::result::Result<Self, String> {
        if name.contains("://") {
            return Arc::clone(&self.client).object(name);
        }
        let own = self.path.as_ref();
        let mut parts: Vec<&str> = own.split('/').collect();
        parts.pop();
        if name.starts_with('/') {
            parts.clear();
        }
        for part in name.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                _ => parts.push(part),
            }
        }
        // As it is written: a store's names hold what a folder's do.
        let path = Path::parse(parts.join("/")).map_err(|error| error.to_string())?;
        let (base, _) = split(&self.url)?;
        Ok(Self {
            url: address(base, &path).into(),
            path,
            ..self.clone()
        })
    }

    /// Writes all of it into a file.
    pub(in crate::source) fn copy_to(
        &self,
        path: &std::path::Path,
    ) -> std::result::Result<(), DataError> {
        let mut from = self.open(0).map_err(clip_files::io("read", &*self.url))?;
        let mut to = File::create(path).map_err(clip_files::io("write", path))?;
        let mut buffer = vec![0; COPIED];
        loop {
            let read = from
                .read(&mut buffer)
                .map_err(clip_files::io("read", &*self.url))?;
            if read == 0 {
                return Ok(());
            }
            to.write_all(&buffer[..read])
                .map_err(clip_files::io("write", path))?;
        }
    }

    /// All of it, if it has at most `limit` bytes; else one byte more.
    pub(in crate::source) fn read(&self, limit: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open(0)?.take(limit + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl fmt::Debug for RemoteObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

impl fmt::Display for RemoteObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

/// The bytes that a fetch brings.
struct Body {
    pieces: Receiver<Result<Piece>>,
    piece: Piece,
    ended: bool,
    /// Drives the fetch.
    _client: Arc<Client>,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        while self.piece.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                // The end is told, so that a fetch that vanishes isn't taken for one.
                Some(Ok(piece)) => {
                    self.ended = piece.is_empty();
                    self.piece = piece;
                }
                Some(Err(error)) => {
                    self.ended = true;
                    return Err(error);
                }
                None => {
                    return Err(Error::new(
                        ErrorKind::ConnectionAborted,
                        "the transfer ended without a reason; please report this",
                    ));
                }
            }
        }
        let read = buffer.len().min(self.piece.len());
        buffer[..read].copy_from_slice(&self.piece.split_to(read));
        Ok(read)
    }
}
