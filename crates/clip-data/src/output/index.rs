use std::{
    collections::{BTreeMap, HashSet},
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use clip_files::sha256::{self, FileHash};
use rayon::prelude::*;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;

use crate::{DataError, SIZES_FILE, ShardSet};

/// What [`ShardIndex`] knows.
pub const INDEX_FILE: &str = "index.json";

/// A shard as it was when it was written or indexed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRecord {
    /// The file's name within its folder.
    pub name: String,
    /// Samples with an image and text, by their tar headers.
    pub samples: u64,
    /// What a reader yields beside them, by the headers: samples that lack a part, come twice, are too large or cut off.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub faults: u64,
    /// Size of the file.
    pub bytes: u64,
    /// SHA-256 of the file.
    pub sha256: String,
}

/// The shards of one folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardIndex {
    /// In the set's order, or that of their names where they were indexed in parts.
    pub shards: Vec<ShardRecord>,
}

impl ShardIndex {
    /// Counts and hashes the shards of a set, a folder at a time.
    ///
    /// # Errors
    /// [`DataError::Io`], [`DataError::NoLocalTar`].
    pub fn by_folder(shards: &ShardSet) -> Result<BTreeMap<PathBuf, Self>, DataError> {
        let paths = shards.local_tars()?;
        let records: Vec<ShardRecord> = paths
            .par_iter()
            .enumerate()
            .map(|(shard, path)| record(shards, shard, path))
            .collect::<Result<_, _>>()?;
        let mut folders: BTreeMap<PathBuf, Self> = BTreeMap::new();
        for (path, record) in paths.iter().zip(records) {
            let folder = path.parent().unwrap_or(Path::new("")).to_owned();
            folders.entry(folder).or_default().shards.push(record);
        }
        Ok(folders)
    }

    /// Samples of all shards.
    pub fn samples(&self) -> u64 {
        self.shards.iter().map(|shard| shard.samples).sum()
    }

    /// Bytes of all shards.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.bytes).sum()
    }

    /// Writes [`INDEX_FILE`] and [`SIZES_FILE`] into the folder of the shards.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn write(&self, folder: &Path) -> Result<(), DataError> {
        self.write_with(folder, BTreeMap::new())
    }

    /// Adds what both files of the folder say of other shards that are still there, in the order of their names, and
    /// writes them: an index of a part leaves the rest as it was.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn merge_into(&mut self, folder: &Path) -> Result<(), DataError> {
        let own: HashSet<String> = self.shards.iter().map(|shard| shard.name.clone()).collect();
        let other = |name: &String| !own.contains(name) && folder.join(name).is_file();
        let mut kept: Self = read_json(&folder.join(INDEX_FILE))?;
        kept.shards.retain(|shard| other(&shard.name));
        // Whoever else writes it knows no index.
        let mut sizes: BTreeMap<String, u64> = read_json(&folder.join(SIZES_FILE))?;
        sizes.retain(|name, _| other(name));
        if !kept.shards.is_empty() {
            self.shards.append(&mut kept.shards);
            self.shards.sort_by(|a, b| a.name.cmp(&b.name));
        }
        self.write_with(folder, sizes)
    }

    /// Writes both, with the sizes of shards that it doesn't hold.
    fn write_with(&self, folder: &Path, mut sizes: BTreeMap<String, u64>) -> Result<(), DataError> {
        // All that a reader yields: an epoch draws as many.
        let own = self.shards.iter();
        sizes.extend(own.map(|shard| (shard.name.clone(), shard.samples + shard.faults)));
        write_json(&folder.join(SIZES_FILE), &json!(sizes))?;
        let index = json!({
            "version": 1,
            "samples": self.samples(),
            "bytes": self.bytes(),
            "shards": self.shards,
        });
        write_json(&folder.join(INDEX_FILE), &index)
    }

    /// Reads the index of a folder.
    ///
    /// # Errors
    /// [`DataError::Io`], [`DataError::BadIndex`].
    pub fn read(folder: &Path) -> Result<Self, DataError> {
        let path = folder.join(INDEX_FILE);
        let json = fs::read(&path).map_err(clip_files::io("read", &path))?;
        serde_json::from_slice(&json).map_err(|error| DataError::BadIndex {
            path,
            reason: error.to_string(),
        })
    }

    /// Names of the shards that aren't as the index of their folder has them, each with how they differ.
    pub fn differences(&self, indexed: &Self) -> Vec<(String, &'static str)> {
        let by_name = |index: &Self| -> BTreeMap<String, ShardRecord> {
            let entry = |shard: &ShardRecord| (shard.name.clone(), shard.clone());
            index.shards.iter().map(entry).collect()
        };
        let (found, mut indexed) = (by_name(self), by_name(indexed));
        let mut differences = Vec::new();
        for (name, shard) in found {
            match indexed.remove(&name) {
                None => differences.push((name, "not in the index")),
                Some(known) if known.sha256 != shard.sha256 => {
                    differences.push((name, "changed since it was indexed"));
                }
                Some(_) => {}
            }
        }
        differences.extend(
            indexed
                .into_keys()
                .map(|name| (name, "not among the shards")),
        );
        differences
    }
}

fn record(shards: &ShardSet, shard: usize, path: &Path) -> Result<ShardRecord, DataError> {
    let count = shards.count_one(shard)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let hash = sha256::of_file(path).map_err(clip_files::io("read", path))?;
    let FileHash { bytes, sha256 } = hash;
    Ok(ShardRecord {
        name: name.into_owned(),
        samples: count.samples,
        faults: count.items - count.samples,
        bytes,
        sha256,
    })
}

// By reference, as Serde asks.
#[expect(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a file says that is to be written anew: nothing, if it isn't there or can't be understood.
fn read_json<T: Default + DeserializeOwned>(path: &Path) -> Result<T, DataError> {
    let json = match fs::read(path) {
        Ok(json) => json,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(T::default()),
        Err(error) => return Err(clip_files::io("read", path)(error).into()),
    };
    let parsed = serde_json::from_slice(&json);
    Ok(parsed.unwrap_or_else(|error| {
        log::warn!(
            "{} is replaced, as it makes no sense: {error}",
            path.display()
        );
        T::default()
    }))
}

fn write_json(path: &Path, json: &serde_json::Value) -> Result<(), DataError> {
    Ok(clip_files::replace(path, format!("{json:#}\n").as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Tar, compressed::gzip, shards, write};

    #[test]
    fn an_index_knows_when_a_shard_changes() {
        let dir = tempfile::tempdir().unwrap();
        let set = shards(&dir, &[3, 2]);
        let folders = ShardIndex::by_folder(&set).unwrap();
        let index = &folders[dir.path()];
        assert_eq!((index.samples(), index.shards.len()), (5, 2));
        index.write(dir.path()).unwrap();
        let sizes = fs::read_to_string(dir.path().join(SIZES_FILE)).unwrap();
        assert_eq!(sizes, "{\n  \"s-0.tar\": 3,\n  \"s-1.tar\": 2\n}\n");
        let indexed = ShardIndex::read(dir.path()).unwrap();
        assert_eq!(&indexed, index);

        let mut bytes = fs::read(set.local_tars().unwrap()[1]).unwrap();
        bytes[700] ^= 1;
        fs::write(set.local_tars().unwrap()[1], bytes).unwrap();
        let changed = &ShardIndex::by_folder(&set).unwrap()[dir.path()];
        let expected = ("s-1.tar".to_owned(), "changed since it was indexed");
        assert_eq!(changed.differences(&indexed), [expected]);
        let first = ShardSet::from_paths(vec![set.local_tars().unwrap()[0].to_owned()]);
        let fewer = &ShardIndex::by_folder(&first).unwrap()[dir.path()];
        assert_eq!(fewer.differences(&indexed)[0].1, "not among the shards");
        assert_eq!(indexed.differences(fewer)[0].1, "not in the index");
    }

    #[test]
    fn sizes_count_all_that_a_reader_yields_and_samples_the_good_alone() {
        let dir = tempfile::tempdir().unwrap();
        let tar = Tar::new()
            .file("a.jpg", b"image")
            .file("a.txt", b"one")
            .file("b.txt", b"an orphan")
            .file("c.jpg", b"image")
            .file("c.txt", b"three")
            .file("a.jpg", b"again")
            .file("a.txt", b"one");
        let path = write(&dir, "a.tar.gz", &gzip(&tar.bytes()));
        let set = ShardSet::from_paths(vec![path]);
        let index = &ShardIndex::by_folder(&set).unwrap()[dir.path()];
        assert_eq!((index.samples(), index.shards[0].faults), (2, 2));
        index.write(dir.path()).unwrap();
        assert_eq!(&ShardIndex::read(dir.path()).unwrap(), index);
        let count = set.count().unwrap()[0];
        assert!(count.told);
        assert_eq!(count.items, set.open(0).unwrap().count() as u64);
    }

    #[test]
    fn an_index_of_a_part_keeps_the_shards_that_are_still_there() {
        let dir = tempfile::tempdir().unwrap();
        let set = shards(&dir, &[3, 2, 1]);
        let paths = set.local_tars().unwrap();
        let all = ShardIndex::by_folder(&set).unwrap().remove(dir.path());
        all.unwrap().write(dir.path()).unwrap();
        let sizes = r#"{"s-0.tar": 3, "s-1.tar": 2, "s-2.tar": 1, "by-others.tar.gz": 9}"#;
        write(&dir, SIZES_FILE, sizes.as_bytes());
        write(&dir, "by-others.tar.gz", b"");
        fs::remove_file(paths[0]).unwrap();
        fs::copy(paths[1], paths[2]).unwrap();

        let part = ShardSet::from_paths(vec![paths[2].to_owned()]);
        let mut index = ShardIndex::by_folder(&part)
            .unwrap()
            .remove(dir.path())
            .unwrap();
        index.merge_into(dir.path()).unwrap();
        let found: Vec<_> = index
            .shards
            .iter()
            .map(|shard| (&shard.name[..], shard.samples))
            .collect();
        assert_eq!(found, [("s-1.tar", 2), ("s-2.tar", 2)]);
        assert_eq!(ShardIndex::read(dir.path()).unwrap(), index);
        let sizes = fs::read_to_string(dir.path().join(SIZES_FILE)).unwrap();
        let expected = r#"{"by-others.tar.gz":9,"s-1.tar":2,"s-2.tar":2}"#;
        assert_eq!(sizes.split_whitespace().collect::<String>(), expected);

        write(&dir, INDEX_FILE, b"{");
        index.merge_into(dir.path()).unwrap();
        assert_eq!(ShardIndex::read(dir.path()).unwrap(), index);
    }
}
