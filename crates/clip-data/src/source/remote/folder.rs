use std::{
    collections::BTreeMap,
    fs::File,
    future::Future,
    io::{self, Error, ErrorKind, Read, Write},
    iter,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::{ClientOptions, ObjectStoreExt, path::Path};

use super::{
    Client, Remote, RemoteObject,
    patience::Patience,
    split,
    store::{self, Writable},
};
use crate::DataError;

/// Bytes that are sent at once, and sent again where a connection breaks. Stores take 10,000 parts a file, so this is
/// enough for 160 GB.
const PART: usize = 16 << 20;

/// Parts on their way at once.
const PARTS_AHEAD: usize = 2;

/// How long a part may take: 27 KB/s.
const PART_TIMEOUT: Duration = Duration::from_mins(10);

/// A folder of an object store, to keep files in.
#[derive(Clone, Debug)]
pub struct RemoteFolder {
    url: Arc<str>,
    /// Scheme and bucket.
    base: Arc<str>,
    path: Path,
    store: Arc<dyn Writable>,
    /// Reads, going on wherever a connection breaks.
    client: Arc<Client>,
}

impl RemoteFolder {
    /// The folder at an address, `s3://`, `gs://` or `az://`; nothing is asked of its server yet. Credentials come from the
    /// environment, as the stores' own tools read them.
    ///
    /// # Errors
    /// [`DataError::Io`] if the address is none of these.
    pub fn open(url: &str) -> Result<Self, DataError> {
        let url = url.trim_end_matches('/');
        Self::try_open(url).map_err(|reason| {
            clip_files::io("use", url)(Error::new(ErrorKind::InvalidInput, reason)).into()
        })
    }

    fn try_open(url: &str) -> Result<Self, String> {
        // A bucket is a folder too.
        let (base, path) = match url.split_once("://") {
            Some((_, bucket)) if !bucket.is_empty() && !bucket.contains(['/', '?', '#']) => {
                (url, "")
            }
            _ => split(url)?,
        };
        let options = ClientOptions::new().with_timeout(PART_TIMEOUT);
        let store = store::writable(base, options)?
            .ok_or("files are kept at s3://, gs:// or az://, or in a folder of this machine")?;
        Ok(Self {
            url: url.into(),
            base: base.into(),
            path: Path::from_url_path(path).map_err(|error| error.to_string())?,
            client: Remote::default().client()?,
            store,
        })
    }

    /// Tries whether files can be written and removed, by one that is empty.
    ///
    /// # Errors
    /// [`DataError::Io`] if the store refuses either.
    pub fn check_writable(&self) -> Result<(), DataError> {
        let name = ".writable";
        let url = self.url(name);
        let written = self.path(name).and_then(|path| {
            let put = async || self.store.put(&path, Bytes::new().into()).await;
            self.wait(self.ask(&url, put))
        });
        written.map_err(clip_files::io("write", url))?;
        self.remove(name)
    }

    /// Writes a file, which is there as a whole or as it was.
    ///
    /// # Errors
    /// [`DataError::Io`] if it can't be read here or written there, after some minutes of trying.
    pub fn put(&self, name: &str, file: &mut File) -> Result<(), DataError> {
        let sent = self
            .path(name)
            .and_then(|path| self.wait(self.send(name, &path, file)));
        Ok(sent.map_err(clip_files::io("write", self.url(name)))?)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`DataError::Io`] if it isn't there, can't be read there, after some minutes of trying, or written to `to`.
    pub fn get(&self, name: &str, to: &mut impl Write) -> Result<(), DataError> {
        let url = self.url(name);
        let copied = self
            .object(name)
            .and_then(|object| io::copy(&mut object.open(0)?, to));
        Ok(copied.map(drop).map_err(clip_files::io("read", url))?)
    }

    /// The files in the folder and in those within it, by their paths from here; sorted.
    ///
    /// # Errors
    /// [`DataError::Io`] if the store doesn't tell.
    pub fn names(&self) -> Result<Vec<String>, DataError> {
        let found = self.wait(store::list(&*self.store, &self.url, &self.path, false));
        let mut sizes = BTreeMap::new();
        for object in found.map_err(clip_files::io("list", &*self.url))? {
            let Some(parts) = object.location.prefix_match(&self.path) else {
                continue;
            };
            let parts: Vec<_> = parts.map(|part| part.as_ref().to_owned()).collect();
            sizes.insert(parts.join("/"), object.size);
        }
        // The stores' own pages make folders as empty files, whose names lose their slash on the way.
        let is_folder = |name: &str| {
            let inside = format!("{name}/");
            let next = sizes.range(inside.clone()..).next();
            name.is_empty() || next.is_some_and(|(next, _)| next.starts_with(&inside))
        };
        let files = sizes
            .iter()
            .filter(|(name, size)| **size > 0 || !is_folder(name));
        Ok(files.map(|(name, _)| name.clone()).collect())
    }

    /// Removes a file.
    ///
    /// # Errors
    /// [`DataError::Io`] if the store refuses. A file that isn't there is no error.
    pub fn remove(&self, name: &str) -> Result<(), DataError> {
        let url = self.url(name);
        let removed = self
            .path(name)
            .and_then(|path| self.wait(self.ask(&url, async || self.store.delete(&path).await)));
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(clip_files::io("remove", url)(error).into())
            }
            _ => Ok(()),
        }
    }

    /// A large file goes in parts, so that neither memory nor a broken connection counts for all of it.
    async fn send(&self, name: &str, path: &Path, file: &mut File) -> io::Result<()> {
        let url = self.url(name);
        let first = part(file)?;
        if first.len() < PART {
            let put = self.ask(&url, async || {
                self.store.put(path, first.clone().into()).await
            });
            return put.await.map(drop);
        }
        let upload = self
            .ask(&url, async || self.store.create_multipart(path).await)
            .await?;
        let rest = iter::from_fn(|| {
            Some(part(file)).filter(|part| !matches!(part, Ok(part) if part.is_empty()))
        });
        let parts = stream::iter(iter::once(Ok(first)).chain(rest).enumerate());
        let sent = parts.map(async |(number, part)| {
            let part = part?;
            let put = async || {
                self.store
                    .put_part(path, &upload, number, part.clone().into())
                    .await
            };
            self.ask(&url, put).await
        });
        let sent: io::Result<Vec<_>> = sent.buffered(PARTS_AHEAD).try_collect().await;
        let whole = match sent {
            Ok(parts) => {
                let complete = async || {
                    self.store
                        .complete_multipart(path, &upload, parts.clone())
                        .await
                };
                self.ask(&url, complete).await
            }
            Err(reason) => Err(reason),
        };
        if whole.is_err() {
            // The parts would be kept, and paid for, without ever being a file.
            self.store.abort_multipart(path, &upload).await.ok();
        }
        whole.map(drop)
    }

    async fn ask<T>(
        &self,
        url: &str,
        ask: impl AsyncFnMut() -> object_store::Result<T>,
    ) -> io::Result<T> {
        Patience::default().ask(url, ask).await
    }

    fn wait<T>(&self, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let closed = || Error::other("the connection was closed");
        self.client
            .runtime
            .as_ref()
            .ok_or_else(closed)?
            .block_on(work)
    }

    fn object(&self, name: &str) -> io::Result<RemoteObject> {
        Ok(RemoteObject {
            url: self.url(name).into(),
            path: self.path(name)?,
            store: self.client.store(&self.base).map_err(Error::other)?,
            client: Arc::clone(&self.client),
        })
    }

    /// As it is written: a store's names hold what a folder's do.
    fn path(&self, name: &str) -> io::Result<Path> {
        let invalid = |error| Error::new(ErrorKind::InvalidInput, format!("{error}"));
        Path::parse(format!("{}/{name}", self.path)).map_err(invalid)
    }

    fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.url)
    }
}

/// The next bytes of a file; fewer than a part at its end only.
fn part(file: &mut File) -> io::Result<Bytes> {
    let mut bytes = Vec::with_capacity(PART);
    file.take(PART as u64).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}
