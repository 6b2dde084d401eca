use std::{
    collections::HashSet,
    path::{Component, Path, PathBuf},
};

use super::{ShardFile, ShardIndex, ShardRecord};
use crate::{DataError, RawSample, ShardSet, source::is_image_extension};

/// A member's header, and what a body is padded to.
const TAR_BLOCK: u64 = 512;

/// Bytes of a name that a header has room for.
const HEADER_NAME: usize = 100;

/// How samples are laid out in new shards, `NAME-000000.tar` and on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardLayout {
    /// What the shards' names begin with.
    pub name: String,
    /// Most samples of a shard. 10,000, as img2dataset writes them.
    pub max_samples: usize,
    /// Most bytes of a shard, unless one sample alone has more. No limit unless one is set.
    pub max_bytes: u64,
    /// Whether samples are numbered anew instead of keeping their keys, which several sources may share.
    pub renumber: bool,
}

impl Default for ShardLayout {
    fn default() -> Self {
        Self {
            name: "shard".to_owned(),
            max_samples: 10_000,
            max_bytes: u64::MAX,
            renumber: false,
        }
    }
}

impl ShardLayout {
    /// Checks that shards can be laid out so.
    ///
    /// # Errors
    /// [`DataError::BadSetting`] with the first setting that is out of range.
    pub fn validate(&self) -> Result<(), DataError> {
        if self.name.is_empty()
            || self
                .name
                .contains(['/', '\\', '{', '}', ':', '*', '?', '['])
        {
            let reason = "must be a file name that shard patterns can hold: no slash, brace, colon, `*`, `?` or `[`";
            return Err(DataError::setting("name", &self.name, reason));
        }
        if self.max_samples == 0 {
            return Err(DataError::setting("max_samples", 0, "must be at least 1"));
        }
        if self.max_bytes == 0 {
            return Err(DataError::setting("max_bytes", 0, "must be at least 1"));
        }
        Ok(())
    }

    /// Says at the start what else ends the work once two samples of the same key meet in a shard, maybe hours later.
    pub(crate) fn warn_of_shared_keys(&self, shards: &ShardSet) {
        if self.may_share_keys(shards) {
            log::warn!(
                "{} sources keep their keys: if two of them use the same in a new shard, this will end with an error; \
                 `--renumber` numbers the samples anew",
                shards.sources().len()
            );
        }
    }

    fn may_share_keys(&self, shards: &ShardSet) -> bool {
        !self.renumber && shards.sources().len() > 1
    }
}

/// Writes samples to shards, in order.
pub(crate) struct SampleWriter {
    dir: PathBuf,
    layout: ShardLayout,
    open: Option<OpenShard>,
    index: ShardIndex,
    written: u64,
}

struct OpenShard {
    file: ShardFile,
    name: String,
    keys: HashSet<String>,
    bytes: u64,
}

impl SampleWriter {
    pub(crate) fn new(dir: &Path, layout: &ShardLayout) -> Self {
        Self {
            dir: dir.to_owned(),
            layout: layout.clone(),
            open: None,
            index: ShardIndex::default(),
            written: 0,
        }
    }

    /// # Errors
    /// [`DataError::DuplicateKey`] if the key stands in the shard already, [`DataError::Io`].
    pub(crate) fn write(&mut self, sample: RawSample) -> Result<(), DataError> {
        let key = if self.layout.renumber {
            format!("{:09}", self.written)
        } else {
            member_key(&sample.key)
        };
        let members = members(sample);
        let bytes = members
            .iter()
            .map(|(extension, body)| member_bytes(key.len() + 1 + extension.len(), body.len()))
            .sum::<u64>();
        let full = self.open.as_ref().is_some_and(|open| {
            open.keys.len() == self.layout.max_samples
                // A tar ends with two blocks.
                || open.bytes + bytes + 2 * TAR_BLOCK > self.layout.max_bytes
        });
        if full {
            self.close()?;
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.create()?,
        };
        if !open.keys.insert(key.clone()) {
            return Err(DataError::DuplicateKey { key });
        }
        for (extension, body) in members {
            open.file
                .append(&format!("{key}.{extension}"), &body)
                .map_err(clip_files::io("write", self.dir.join(&open.name)))?;
        }
        open.bytes += bytes;
        self.open = Some(open);
        self.written += 1;
        Ok(())
    }

    fn create(&self) -> Result<OpenShard, DataError> {
        let name = format!("{}-{:06}.tar", self.layout.name, self.index.shards.len());
        let path = self.dir.join(&name);
        Ok(OpenShard {
            file: ShardFile::create(&path).map_err(clip_files::io("create", path))?,
            name,
            keys: HashSet::new(),
            bytes: 0,
        })
    }

    fn close(&mut self) -> Result<(), DataError> {
        let Some(OpenShard {
            file, name, keys, ..
        }) = self.open.take()
        else {
            return Ok(());
        };
        let finished = file.finish();
        let (bytes, sha256) = finished.map_err(clip_files::io("write", self.dir.join(&name)))?;
        self.index.shards.push(ShardRecord {
            name,
            samples: keys.len() as u64,
            faults: 0,
            bytes,
            sha256,
        });
        Ok(())
    }

    /// Ends the last shard and writes the index.
    pub(crate) fn finish(mut self) -> Result<ShardIndex, DataError> {
        self.close()?;
        self.index.write(&self.dir)?;
        Ok(self.index)
    }
}

/// What a file takes in a tar. A name that is too long for its header is a file before it, which ends with a zero.
fn member_bytes(name: usize, body: usize) -> u64 {
    let file = |bytes: usize| TAR_BLOCK + (bytes as u64).next_multiple_of(TAR_BLOCK);
    let of_name = if name > HEADER_NAME {
        file(name + 1)
    } else {
        0
    };
    of_name + file(body)
}

/// The key under which a reader finds a sample again; a key that was read from a tar is one already.
///
/// Tables and folders have paths for keys, and a reader takes a name up to its first dot for the key. So a file name loses an
/// image's extension and its other dots, and a path what would lead out of the folder that a tar is unpacked into.
fn member_key(key: &str) -> String {
    let mut parts = Vec::new();
    for part in Path::new(key).components() {
        match part {
            Component::Normal(part) => parts.push(part.to_string_lossy()),
            Component::ParentDir => parts.push("_".into()),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    let name = parts.pop().unwrap_or_default();
    let stem = match name.rsplit_once('.') {
        Some((stem, extension)) if is_image_extension(extension) => stem,
        _ => &name,
    };
    let stem = if stem.is_empty() { "_" } else { stem };
    parts.push(stem.replace('.', "_").into());
    parts.join("/")
}

/// Extensions and bodies of a sample's files.
fn members(sample: RawSample) -> Vec<(&'static str, Vec<u8>)> {
    let extension = image_extension(&sample.image).unwrap_or("jpg");
    let mut members = vec![(extension, sample.image)];
    if !sample.json.is_empty() {
        // Several captions stand in there too: no other source has more than one.
        members.push(("json", sample.json));
    }
    if let Some(caption) = sample.captions.into_iter().next() {
        // For readers that know one caption a sample.
        members.push(("txt", caption.into_bytes()));
    }
    if let Some(class) = sample.class {
        members.push(("cls", class.to_string().into_bytes()));
    }
    members
}

/// The extension by which readers know an image of this format; `None` if it is of none that can be decoded.
pub(crate) fn image_extension(bytes: &[u8]) -> Option<&'static str> {
    use image::ImageFormat::{Bmp, Gif, Jpeg, Png, WebP};
    match image::guess_format(bytes) {
        Ok(Png) => Some("png"),
        Ok(WebP) => Some("webp"),
        // OpenCLIP takes no members called gif or bmp, and opens what is called jpg by its bytes.
        Ok(Jpeg | Gif | Bmp) => Some("jpg"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_becomes_a_key_that_is_read_as_it_was_written() {
        for (path, key) in [
            ("k0", "k0"),
            ("d.x/a", "d.x/a"),
            ("img/plain.jpg", "img/plain"),
            ("/data/img/a.JPEG", "data/img/a"),
            ("./a.b.jpg", "a_b"),
            ("v1.0 pic", "v1_0 pic"),
            ("../up/a.png", "_/up/a"),
            (".hidden.png", "_hidden"),
            ("http://host/a.jpg", "http:/host/a"),
            ("", "_"),
            ("..", "_"),
        ] {
            assert_eq!(member_key(path), key, "{path}");
        }
    }

    #[test]
    fn a_shard_has_no_more_bytes_than_it_may_whatever_its_keys() {
        let sizes = |key: usize, samples: usize, max_bytes: u64| -> Vec<(u64, u64)> {
            let dir = tempfile::tempdir().unwrap();
            let layout = ShardLayout {
                max_bytes,
                ..ShardLayout::default()
            };
            let mut writer = SampleWriter::new(dir.path(), &layout);
            for number in 0..samples {
                let sample = RawSample {
                    key: format!("{number:0key$}"),
                    captions: vec!["one".to_owned()],
                    ..RawSample::default()
                };
                writer.write(sample).unwrap();
            }
            let shards = writer.finish().unwrap().shards;
            shards.iter().map(|of| (of.samples, of.bytes)).collect()
        };
        // 96 bytes, a dot and `jpg` are the longest name of a header; one of 512 takes another block for its zero.
        for key in [5, 96, 97, 507, 508, 600] {
            let two = sizes(key, 2, u64::MAX)[0].1;
            assert_eq!(sizes(key, 4, two), [(2, two), (2, two)], "{key}");
            assert_eq!(sizes(key, 4, two - 1).len(), 4, "{key}");
        }
    }

    #[test]
    fn several_sources_that_keep_their_keys_are_warned_of() {
        let dir = tempfile::tempdir().unwrap();
        let tar = dir.path().join("a.tar");
        std::fs::write(&tar, b"").unwrap();
        let one = tar.display().to_string();
        let warned = |list: &str, renumber: bool| {
            let layout = ShardLayout {
                renumber,
                ..ShardLayout::default()
            };
            layout.may_share_keys(&ShardSet::parse(list).unwrap())
        };
        let two = format!("{one}::{one}");
        assert!(warned(&two, false));
        assert!(!warned(&two, true) && !warned(&one, false));
    }
}
