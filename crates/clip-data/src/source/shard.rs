use std::{collections::HashSet, fs::File, path::Path};

use super::{
    RawSample,
    sample::{Group, Part, split_key},
    tar::{Member, Members, Next},
};
use crate::{DataError, FaultKind};

/// Largest member that is read into memory. The largest photographs of web crawls stay far below it.
const MAX_MEMBER_BYTES: u64 = 64 << 20;

/// What a shard yields next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardItem {
    /// A sample with an image and a caption or a class.
    Sample(RawSample),
    /// A sample that lacks something, and its key.
    Fault(FaultKind, String),
}

/// Reads a WebDataset tar from front to back.
///
/// Members that follow each other and share a key are one sample. A damaged or cut-off archive
/// yields what stands before the damage, and then [`FaultKind::TruncatedShard`].
#[derive(Debug)]
pub struct ShardReader {
    members: Members,
    shard: usize,
    bodies: bool,
    group: Option<Group>,
    seen: HashSet<String>,
    ended: bool,
    last: Option<ShardItem>,
}

impl ShardReader {
    /// Opens a tar; `shard` is its index in the set.
    ///
    /// # Errors
    /// [`DataError::Io`] if it can't be opened.
    pub fn open(path: &Path, shard: usize) -> Result<Self, DataError> {
        let file = File::open(path).map_err(DataError::io("read", path))?;
        let length = file.metadata().map_err(DataError::io("read", path))?.len();
        Ok(Self {
            members: Members::new(file, length),
            shard,
            bodies: true,
            group: None,
            seen: HashSet::new(),
            ended: false,
            last: None,
        })
    }

    /// Skips over images and captions: samples then carry their keys alone, and faults of their
    /// contents stay unseen. The number of items is that of a full reading.
    pub fn headers_only(mut self) -> Self {
        self.bodies = false;
        self
    }

    /// Reads the one sample that begins at `start`.
    pub(crate) fn read_at(path: &Path, shard: usize, start: u64) -> ShardItem {
        let unreadable = || ShardItem::Fault(FaultKind::UnreadableShard, String::new());
        let Ok(mut reader) = Self::open(path, shard) else {
            return unreadable();
        };
        if reader.members.seek(start).is_err() {
            return unreadable();
        }
        reader.next().unwrap_or_else(unreadable)
    }

    /// The next item and where it begins in the archive.
    pub(crate) fn next_located(&mut self) -> Option<(u64, ShardItem)> {
        while !self.ended {
            let taken = self.members.next().and_then(|next| match next {
                Next::Member(member) => self.take_member(&member),
                Next::End => {
                    self.ended = true;
                    Ok(self.finish())
                }
                Next::Cut(name) => {
                    let key = split_key(&name).0;
                    let complete = self
                        .group
                        .as_ref()
                        .is_some_and(|group| group.sample.key != key);
                    let finished = if complete { self.finish() } else { None };
                    self.stop(FaultKind::TruncatedShard, key);
                    Ok(finished)
                }
                Next::Damaged => {
                    // The sample being read may lack a part that lay beyond the damage.
                    let key = self
                        .group
                        .take()
                        .map_or_else(String::new, |group| group.sample.key);
                    self.stop(FaultKind::TruncatedShard, &key);
                    Ok(None)
                }
            });
            match taken {
                Ok(None) => {}
                Ok(item) => return item,
                Err(_) => self.stop(FaultKind::UnreadableShard, ""),
            }
        }
        self.last.take().map(|item| (0, item))
    }

    /// Adds a member to the sample being read; returns the previous sample when this one starts another.
    fn take_member(&mut self, member: &Member) -> std::io::Result<Option<(u64, ShardItem)>> {
        let (key, extension) = split_key(&member.name);
        let continues = self
            .group
            .as_ref()
            .is_some_and(|group| group.sample.key == key && !group.holds(extension));
        let mut finished = None;
        if !continues {
            finished = self.finish();
            let mut group = Group::new(self.shard, key, member.start);
            if !self.seen.insert(key.to_owned()) {
                group.fail(FaultKind::DuplicateKey);
            }
            self.group = Some(group);
        }
        let is_part = Part::of(extension).is_some();
        let too_large = is_part && member.size > MAX_MEMBER_BYTES;
        let body = if self.bodies && is_part && !too_large {
            Some(self.members.read_body(member.size)?)
        } else {
            self.members.skip_body(member.size)?;
            None
        };
        if let Some(group) = &mut self.group {
            if too_large {
                group.fail(FaultKind::TooLarge);
            }
            group.add(extension, body);
        }
        Ok(finished)
    }

    /// Ends the shard with a fault, which is yielded last.
    fn stop(&mut self, kind: FaultKind, key: &str) {
        self.ended = true;
        self.last = Some(ShardItem::Fault(kind, key.to_owned()));
    }

    fn finish(&mut self) -> Option<(u64, ShardItem)> {
        let group = self.group.take()?;
        let start = group.start;
        group.into_item(self.bodies).map(|item| (start, item))
    }
}

impl Iterator for ShardReader {
    type Item = ShardItem;

    fn next(&mut self) -> Option<ShardItem> {
        self.next_located().map(|(_, item)| item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Tar, write};

    fn items(bytes: &[u8]) -> Vec<ShardItem> {
        let dir = tempfile::tempdir().unwrap();
        ShardReader::open(&write(&dir, "a.tar", bytes), 0)
            .unwrap()
            .collect()
    }

    fn keys(items: &[ShardItem]) -> Vec<String> {
        let key = |item: &ShardItem| match item {
            ShardItem::Sample(sample) => sample.key.clone(),
            ShardItem::Fault(kind, key) => format!("{key}:{kind:?}"),
        };
        items.iter().map(key).collect()
    }

    #[test]
    fn members_that_share_a_key_are_one_sample() {
        let tar = Tar::new()
            .file("d.x/a.jpg", b"image")
            .file("d.x/a.txt", b"first")
            .file("d.x/a.json", br#"{"captions": ["one", "two"]}"#)
            .file("b.png", b"image")
            .file("b.cls", b"7\n");
        let items = items(&tar.bytes());
        let ShardItem::Sample(first) = &items[0] else {
            panic!("{items:?}")
        };
        assert_eq!(first.key, "d.x/a");
        assert_eq!(first.captions, ["one", "two"]);
        let ShardItem::Sample(second) = &items[1] else {
            panic!("{items:?}")
        };
        assert_eq!((second.class, second.captions.len()), (Some(7), 0));
    }

    #[test]
    fn what_a_sample_lacks_is_its_fault() {
        let tar = Tar::new()
            .file("a.jpg", b"image")
            .file("b.txt", b"text")
            .file("c.jpg", b"i")
            .file("c.txt", b"  \n")
            .file("d.jpg", b"i")
            .file("d.json", b"{not json")
            .file("readme.md", b"no sample")
            .file("e.jpg", b"i")
            .file("e.txt", "\u{65e5}\u{672c}".as_bytes())
            .file("e2.jpg", b"i")
            .file("e2.txt", b"x")
            .file("e.jpg", b"i")
            .file("e.txt", b"again");
        assert_eq!(
            keys(&items(&tar.bytes())),
            [
                "a:NoCaption",
                "b:NoImage",
                "c:EmptyCaption",
                "d:BadJson",
                "e",
                "e2",
                "e:DuplicateKey",
            ]
        );
    }

    #[test]
    fn a_cut_tar_keeps_what_stands_before_the_cut() {
        let tar = Tar::new()
            .file("a.jpg", &[1; 700])
            .file("a.txt", b"one")
            .file("b.jpg", &[2; 700])
            .file("b.txt", b"two");
        let bytes = tar.bytes();
        for cut in (0..bytes.len()).step_by(100) {
            let found = keys(&items(&bytes[..cut]));
            assert!(found.len() <= 3, "{found:?}");
            if cut >= 3 * 512 + 1024 + 512 {
                assert_eq!(found[0], "a", "cut at {cut}: {found:?}");
            }
        }
        let flipped = {
            let mut bytes = bytes.clone();
            bytes[512 + 1024 + 1024 + 10] ^= 0xff; // the third header
            bytes
        };
        assert_eq!(keys(&items(&flipped)).last().unwrap(), "a:TruncatedShard");
    }

    #[test]
    fn long_names_are_read() {
        let name = format!("{}/sample.jpg", "folder".repeat(30));
        let tar = Tar::new()
            .file(&name, b"image")
            .file(&name.replace("jpg", "txt"), b"text");
        let found = keys(&items(&tar.bytes()));
        assert_eq!(found, [name.replace(".jpg", "")]);
    }

    #[test]
    fn a_key_twice_in_a_row_keeps_the_first() {
        let tar = Tar::new()
            .file("a.jpg", b"first")
            .file("a.txt", b"x")
            .file("a.jpg", b"second")
            .file("a.txt", b"y");
        let items = items(&tar.bytes());
        assert_eq!(keys(&items), ["a", "a:DuplicateKey"]);
        assert!(matches!(&items[0], ShardItem::Sample(sample) if sample.image == b"first"));
    }

    #[test]
    fn a_sample_is_read_again_from_where_it_begins() {
        let long = "folder".repeat(30);
        let tar = Tar::new()
            .file("a.jpg", &[1; 700])
            .file("a.txt", b"one")
            .file(&format!("{long}/b.jpg"), &[2; 700])
            .file(&format!("{long}/b.txt"), b"two")
            .file("c.jpg", &[3; 700])
            .file("c.txt", b"three");
        let dir = tempfile::tempdir().unwrap();
        let path = write(&dir, "a.tar", &tar.bytes());
        let whole: Vec<_> = ShardReader::open(&path, 4).unwrap().collect();
        let mut headers = ShardReader::open(&path, 4).unwrap().headers_only();
        let again: Vec<_> = std::iter::from_fn(|| headers.next_located())
            .map(|(start, _)| ShardReader::read_at(&path, 4, start))
            .collect();
        assert_eq!(again, whole);
    }
}
