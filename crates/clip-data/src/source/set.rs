use std::{
    collections::HashMap,
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

#[cfg(feature = "object-store")]
use super::remote::Remote;
use super::{
    Location, ShardItem, ShardReader, folder::Folder, pattern::Pattern, shard::Shard, table::Table,
};
use crate::{DataError, FaultKind};

/// Threads that count shards: most wait for a disk or a server.
const COUNTING_THREADS: usize = 8;

/// Shards that an error names.
const NAMED: usize = 3;

/// Samples of each tar of a folder, by file name: what `OpenCLIP`, `webdataset` and img2dataset read and write there.
pub const SIZES_FILE: &str = "sizes.json";

/// What a shard holds, judged without reading its samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardCount {
    /// Samples with an image and some text; their contents may still prove bad.
    pub samples: u64,
    /// Samples and faults: what a reader yields, and what one epoch draws.
    pub items: u64,
    /// Whether a `sizes.json` says so, which may count otherwise than a reader does.
    pub told: bool,
}

/// Shards that were named together.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) shards: Range<usize>,
    /// Visits of every shard an epoch.
    pub(crate) weight: f64,
}

/// An ordered list of shards: tars, and parts of tables and folders.
#[derive(Clone, Debug)]
pub struct ShardSet {
    pub(super) shards: Vec<Shard>,
    sources: Vec<Source>,
}

impl ShardSet {
    /// Reads a list of sources joined by `::`, each a name with brace ranges `{000..012}` or a glob.
    ///
    /// - A WebDataset tar, plain or compressed by gzip or Zstandard.
    /// - A `.csv` or `.tsv` file with a header, whose columns `filepath` and `title` (or other usual names) hold
    ///   an image's path and its caption.
    /// - A `.parquet` file, with images inside or by path.
    /// - A folder of images, each beside a `.txt`, `.json` or `.cls` of the same name; or, where none has such a file, a
    ///   folder of class folders, as torchvision's `ImageFolder` reads it.
    ///
    /// Files may be at `http(s)://`, which has no globs, `s3://`, `gs://` or `az://`; credentials come from the
    /// environment, as the stores' own tools read them. The images that a table there names are read beside it, one
    /// after the other.
    ///
    /// Options follow a name: `a.tar#weight=2` visits each of its shards twice an epoch, and
    /// `b.csv#image=file&caption=text&separator=tab` names columns.
    ///
    /// # Errors
    /// An empty list, a pattern that can't be understood or names nothing, a local file that doesn't exist, a table
    /// without the columns.
    pub fn parse(list: &str) -> Result<Self, DataError> {
        let mut set = Self {
            shards: Vec::new(),
            sources: Vec::new(),
        };
        #[cfg(feature = "object-store")]
        let remote = Remote::default();
        for text in list.split("::") {
            let pattern = Pattern::parse(text)?;
            let first = set.shards.len();
            match pattern.urls()? {
                #[cfg(not(feature = "object-store"))]
                Some(urls) => {
                    return Err(pattern.bad(&format!(
                        "this program was built without the feature `object-store`, so it can't read {}; \
                         build it with `cargo xtask clip`",
                        urls.join(", ")
                    )));
                }
                #[cfg(feature = "object-store")]
                Some(urls) => {
                    for url in urls {
                        let objects = remote.objects(&url);
                        for object in objects.map_err(|reason| pattern.bad(&reason))? {
                            set.add_file(Location::Remote(object), &pattern)?;
                        }
                    }
                }
                None => {
                    for path in pattern.paths()? {
                        if path.is_dir() {
                            set.add_folder(&path, &pattern)?;
                        } else {
                            set.add_file(Location::Local(path), &pattern)?;
                        }
                    }
                }
            }
            set.sources.push(Source {
                shards: first..set.shards.len(),
                weight: pattern.weight,
            });
        }
        Ok(set)
    }

    /// A list of local tars, in this order.
    pub fn from_paths(paths: Vec<PathBuf>) -> Self {
        let source = Source {
            shards: 0..paths.len(),
            weight: 1.0,
        };
        let tar = |path| Shard::Tar(Location::Local(path));
        Self {
            shards: paths.into_iter().map(tar).collect(),
            sources: vec![source],
        }
    }

    fn add_folder(&mut self, path: &Path, pattern: &Pattern<'_>) -> Result<(), DataError> {
        let folder = Arc::new(Folder::open(path)?);
        if !folder.has_images() {
            return Err(pattern.bad(
                "the folder holds no image with a caption; for the tars in it, end the name with `/*.tar`",
            ));
        }
        self.shards
            .extend((0..folder.parts()).map(|part| Shard::Files {
                folder: Arc::clone(&folder),
                part,
            }));
        Ok(())
    }

    fn add_file(&mut self, location: Location, pattern: &Pattern<'_>) -> Result<(), DataError> {
        if location.has_extension("csv") || location.has_extension("tsv") {
            let table = Arc::new(Table::open(location, &pattern.columns)?);
            self.shards
                .extend((0..table.parts()).map(|part| Shard::Rows {
                    table: Arc::clone(&table),
                    part,
                }));
        } else if location.has_extension("parquet") {
            #[cfg(not(feature = "parquet"))]
            return Err(pattern.bad("this program was built without the feature `parquet`; build it with `cargo xtask clip`"));
            #[cfg(feature = "parquet")]
            {
                let file = super::parquet::ParquetFile::open(location, &pattern.columns)?;
                let file = Arc::new(file);
                self.shards
                    .extend((0..file.groups()).map(|group| Shard::RowGroup {
                        file: Arc::clone(&file),
                        group,
                    }));
            }
        } else {
            self.shards.push(Shard::Tar(location));
        }
        Ok(())
    }

    /// The set of some of its shards.
    ///
    /// # Panics
    /// If there are no such shards.
    #[must_use]
    pub fn only(&self, shards: Range<usize>) -> Self {
        let source = Source {
            shards: 0..shards.len(),
            weight: 1.0,
        };
        Self {
            shards: self.shards[shards].to_vec(),
            sources: vec![source],
        }
    }

    /// Shards of all sources.
    pub fn len(&self) -> usize {
        self.shards.len()
    }

    /// Whether there is no shard.
    pub fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    /// The name of a shard as reports show it; the parts of a table or folder share one.
    pub fn name(&self, shard: usize) -> String {
        self.shards[shard].name()
    }

    /// The first shards by name, such as `a.tar (no sample)`, for an error about all of them.
    pub(crate) fn without_samples(&self) -> String {
        let mut names: Vec<String> = (0..self.len()).map(|shard| self.name(shard)).collect();
        // The parts of a table share a name.
        names.dedup();
        let more = match names.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        names.truncate(NAMED);
        format!("{} (no sample){more}", names.join(", "))
    }

    /// The paths of the shards, if all are whole tars on this machine.
    ///
    /// # Errors
    /// [`DataError::NoLocalTar`].
    pub fn local_tars(&self) -> Result<Vec<&Path>, DataError> {
        let mut paths = Vec::with_capacity(self.shards.len());
        for shard in &self.shards {
            match shard {
                Shard::Tar(Location::Local(path)) => paths.push(path.as_path()),
                other => return Err(DataError::NoLocalTar { name: other.name() }),
            }
        }
        Ok(paths)
    }

    pub(crate) fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Opens a shard at its first sample.
    ///
    /// # Errors
    /// [`DataError::Io`] if it can't be opened.
    pub fn open(&self, shard: usize) -> Result<ShardReader, DataError> {
        let opened = self.shards[shard].open(shard, 0);
        Ok(opened.map_err(clip_files::io("read", self.name(shard)))?)
    }

    /// Whether [`read_at`](Self::read_at) costs no more than the sample.
    pub(crate) fn is_seekable(&self, shard: usize) -> bool {
        self.shards[shard].is_seekable()
    }

    /// Reads the one sample that begins at `start`.
    pub(crate) fn read_at(&self, shard: usize, start: u64) -> ShardItem {
        let opened = self.shards[shard].open(shard, start);
        let item = opened.ok().and_then(|mut reader| reader.next());
        item.unwrap_or_else(|| ShardItem::Fault(FaultKind::UnreadableShard, String::new()))
    }

    /// Counts every shard: a plain tar by its headers, seeking over the bodies; a compressed or remote tar by the
    /// `sizes.json` beside it, or by reading it through.
    ///
    /// # Errors
    /// [`DataError::Io`] if a shard can't be opened, or read to its end.
    pub fn count(&self) -> Result<Vec<ShardCount>, DataError> {
        let sizes = Mutex::new(HashMap::new());
        let next = AtomicUsize::new(0);
        let counts: Mutex<Vec<(usize, Result<ShardCount, DataError>)>> = Mutex::default();
        let count = || {
            loop {
                let shard = next.fetch_add(1, Ordering::Relaxed);
                if shard >= self.len() {
                    return;
                }
                let told = self.told_count(shard, &sizes).map(Ok);
                let count = told.unwrap_or_else(|| self.count_one(shard));
                if count.is_err() {
                    // The others need not be counted.
                    next.store(self.len(), Ordering::Relaxed);
                }
                lock(&counts).push((shard, count));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..COUNTING_THREADS.min(self.len()) {
                scope.spawn(count);
            }
            count();
        });
        let mut counts = counts.into_inner().unwrap_or_else(PoisonError::into_inner);
        counts.sort_by_key(|(shard, _)| *shard);
        counts.into_iter().map(|(_, count)| count).collect()
    }

    /// Counts a shard by what it holds, however its neighbours are counted.
    ///
    /// # Errors
    /// [`DataError::Io`] if it can't be opened, or read to its end.
    pub(crate) fn count_one(&self, shard: usize) -> Result<ShardCount, DataError> {
        let count = self.shards[shard].count();
        Ok(count.map_err(clip_files::io("read", self.name(shard)))?)
    }

    /// Copies a tar on a server into a folder, so that what is counted first and read then comes once; `None` of other
    /// sets, and where a `sizes.json` spares the counting.
    ///
    /// # Errors
    /// [`DataError::Io`] if it can't be read there or written here.
    pub fn copied_to(&self, folder: &Path) -> Result<Option<Self>, DataError> {
        #[cfg(feature = "object-store")]
        if let [Shard::Tar(Location::Remote(object))] = &self.shards[..]
            && self.told_count(0, &Mutex::default()).is_none()
        {
            let (_, file) = Location::Remote(object.clone()).folder_and_file();
            let path = folder.join(file);
            std::fs::create_dir_all(folder).map_err(clip_files::io("create", folder))?;
            object.copy_to(&path)?;
            return Ok(Some(Self::from_paths(vec![path])));
        }
        let _ = folder;
        Ok(None)
    }

    /// What the `sizes.json` beside a shard says, where counting would be reading it through.
    fn told_count(
        &self,
        shard: usize,
        sizes: &Mutex<HashMap<String, Sizes>>,
    ) -> Option<ShardCount> {
        let Shard::Tar(location) = &self.shards[shard] else {
            return None;
        };
        if self.is_seekable(shard) {
            return None;
        }
        let (folder, file) = location.folder_and_file();
        let mut sizes = lock(sizes);
        let known = sizes.entry(folder).or_insert_with(|| Sizes::read(location));
        let items = *known.0.get(&file)?;
        Some(ShardCount {
            samples: items,
            items,
            told: true,
        })
    }
}

/// The `sizes.json` of a folder, empty if there is none or it makes no sense.
struct Sizes(HashMap<String, u64>);

impl Sizes {
    fn read(location: &Location) -> Self {
        let example = r#"{"00000.tar": 1000}"#;
        match Self::parse(location.read_beside(SIZES_FILE)) {
            Ok(Some(sizes)) => return sizes,
            Ok(None) => log::info!(
                "{}: reading it and its neighbours through to count their samples; a {SIZES_FILE} beside them, such \
                 as {example}, would save that",
                location.folder_and_file().0
            ),
            Err(error) => log::warn!(
                "the {SIZES_FILE} beside {location} is of no use, so the shards there are read through to count their \
                 samples: {error}; it should be such as {example}"
            ),
        }
        Self(HashMap::new())
    }

    /// `None` if there is no such file.
    fn parse(read: io::Result<Vec<u8>>) -> io::Result<Option<Self>> {
        match read {
            Ok(bytes) => Ok(Some(Self(serde_json::from_slice(&bytes)?))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_globs_and_missing_shards() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["t-0.tar", "t-1.tar", "v.tar"] {
            std::fs::write(dir.path().join(name), b"").unwrap();
        }
        let root = dir.path().display();
        let set = ShardSet::parse(&format!("{root}/t-*.tar::{root}/v.tar")).unwrap();
        assert_eq!(set.len(), 3);
        let missing = ShardSet::parse(&format!("{root}/t-{{0..2}}.tar"))
            .unwrap_err()
            .to_string();
        assert!(missing.contains("t-2.tar does not exist"), "{missing}");
        let none = ShardSet::parse(&format!("{root}/x-*.tar"))
            .unwrap_err()
            .to_string();
        assert!(none.contains("no file matches"), "{none}");
        assert!(
            ShardSet::parse("")
                .unwrap_err()
                .to_string()
                .contains("empty")
        );
        assert!(ShardSet::parse("a.tar::").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_into_nowhere_is_no_shard_fewer() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("t-1.tar");
        std::fs::write(dir.path().join("t-0.tar"), b"").unwrap();
        std::os::unix::fs::symlink("/nowhere/t-1.tar", &gone).unwrap();
        let pattern = format!("{}/t-*.tar", dir.path().display());
        let error = ShardSet::parse(&pattern).unwrap_err().to_string();
        assert!(error.contains("t-1.tar"), "{error}");
        // What can be read once is no shard.
        let socket = dir.path().join("t.tar");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let error = ShardSet::parse(&socket.display().to_string()).unwrap_err();
        assert!(error.to_string().contains("can't be read twice"), "{error}");
        // A folder isn't meant by a shard's name.
        std::fs::remove_file(&gone).unwrap();
        std::fs::create_dir(&gone).unwrap();
        assert_eq!(ShardSet::parse(&pattern).unwrap().len(), 1);
    }

    #[test]
    fn sizes_that_make_no_sense_are_told_from_none() {
        let absent = Sizes::parse(Err(io::ErrorKind::NotFound.into()));
        assert!(absent.unwrap().is_none());
        let sizes = Sizes::parse(Ok(br#"{"a.tar": 3}"#.to_vec())).unwrap();
        assert_eq!(sizes.unwrap().0["a.tar"], 3);
        for (text, place) in [
            ("{\n\"a.tar\": 3", "line 2"),
            (r#"{"a.tar": "3"}"#, "line 1 column 13"),
        ] {
            let error = Sizes::parse(Ok(text.into())).err().unwrap().to_string();
            assert!(error.contains(place), "{error}");
        }
        assert!(Sizes::parse(Err(io::ErrorKind::PermissionDenied.into())).is_err());
    }
}
