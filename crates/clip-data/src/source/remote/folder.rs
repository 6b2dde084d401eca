use std::{
    fs::File,
    future::Future,
    io::{self, Error, ErrorKind, Read, Write},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::{
    ClientOptions, ObjectStore, ObjectStoreExt, RetryConfig, WriteMultipart, path::Path,
};

use super::{Client, Remote, kind, split, store};
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
    path: Path,
    store: Arc<dyn ObjectStore>,
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
            DataError::io("use", url)(Error::new(ErrorKind::InvalidInput, reason))
        })
    }

    fn try_open(url: &str) -> Result<Self, String> {
        let (base, path) = split(url)?;
        if !["s3://", "gs://", "az://"]
            .iter()
            .any(|scheme| base.starts_with(scheme))
        {
            return Err(
                "files are kept at s3://, gs:// or az://, or in a folder of this machine"
                    .to_owned(),
            );
        }
        let options = ClientOptions::new().with_timeout(PART_TIMEOUT);
        Ok(Self {
            url: url.into(),
            path: Path::from_url_path(path).map_err(|error| error.to_string())?,
            client: Remote::default().client()?,
            // It sends a part again by itself.
            store: store(base, options, RetryConfig::default())?,
        })
    }

    /// Writes a file, which is there as a whole or as it was.
    ///
    /// # Errors
    /// [`DataError::Io`] if it can't be read here or written there, after some minutes of trying.
    pub fn put(&self, name: &str, file: &mut File) -> Result<(), DataError> {
        self.wait(self.send(&self.path(name), file))
            .map_err(DataError::io("write", self.url(name)))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`DataError::Io`] if it isn't there, can't be read there, after some minutes of trying, or written to `to`.
    pub fn get(&self, name: &str, to: &mut impl Write) -> Result<(), DataError> {
        let url = self.url(name);
        let object = Arc::clone(&self.client).object(&url).map_err(Error::other);
        let copied = object.and_then(|object| io::copy(&mut object.open(0)?, to));
        copied.map(drop).map_err(DataError::io("read", url))
    }

    /// The files in the folder and in those within it, by their paths from here; sorted.
    ///
    /// # Errors
    /// [`DataError::Io`] if the store doesn't tell.
    pub fn names(&self) -> Result<Vec<String>, DataError> {
        let found = self.wait(async {
            let objects = self.store.list(Some(&self.path));
            let objects: Vec<_> = objects.try_collect().await.map_err(error)?;
            let names = objects.into_iter().filter_map(|object| {
                let parts = object.location.prefix_match(&self.path)?;
                let parts: Vec<_> = parts.map(|part| part.as_ref().to_owned()).collect();
                Some(parts.join("/"))
            });
            Ok(names.collect::<Vec<String>>())
        });
        let mut names = found.map_err(DataError::io("list", &*self.url))?;
        names.sort_unstable();
        Ok(names)
    }

    /// Removes a file.
    ///
    /// # Errors
    /// [`DataError::Io`] if the store refuses. A file that isn't there is no error.
    pub fn remove(&self, name: &str) -> Result<(), DataError> {
        let path = self.path(name);
        let removed = self.wait(async { self.store.delete(&path).await.map_err(error) });
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(DataError::io("remove", self.url(name))(error))
            }
            _ => Ok(()),
        }
    }

    /// A large file goes in parts, so that neither memory nor a broken connection counts for all of it.
    async fn send(&self, path: &Path, file: &mut File) -> io::Result<()> {
        let first = part(file)?;
        if first.len() < PART {
            return self
                .store
                .put(path, first.into())
                .await
                .map(drop)
                .map_err(error);
        }
        let upload = self.store.put_multipart(path).await.map_err(error)?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART);
        let mut next = Ok(first);
        let sent = loop {
            match next {
                Ok(part) if part.is_empty() => break Ok(()),
                Ok(part) => upload.put(part),
                Err(error) => break Err(error),
            }
            if let Err(broken) = upload.wait_for_capacity(PARTS_AHEAD).await {
                break Err(error(broken));
            }
            next = part(file);
        };
        match sent {
            Ok(()) => upload.finish().await.map(drop).map_err(error),
            Err(reason) => {
                // The parts would be kept, and paid for, without ever being a file.
                upload.abort().await.ok();
                Err(reason)
            }
        }
    }

    fn wait<T>(&self, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let closed = || Error::other("the connection was closed");
        self.client
            .runtime
            .as_ref()
            .ok_or_else(closed)?
            .block_on(work)
    }

    fn path(&self, name: &str) -> Path {
        let inside = name.split('/').map(Into::into);
        self.path.parts().chain(inside).collect()
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

fn error(error: object_store::Error) -> Error {
    Error::new(kind(&error).unwrap_or(ErrorKind::Other), error.to_string())
}
