use std::{
    collections::HashSet,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    io::{Error, ErrorKind, Result},
};

use super::{
    Location, ShardItem,
    sample::{Group, Part, split_key},
    shard::{Bodies, Items, MAX_FILE_BYTES},
    tar::{Member, Members, Next},
};
use crate::FaultKind;

/// The samples of a WebDataset tar.
pub(super) struct Archive {
    members: Members,
    name: String,
    shard: usize,
    bodies: Bodies,
    group: Option<Group>,
    /// Hashes of the keys, which take less memory than the keys.
    seen: HashSet<u64>,
    ended: bool,
    last: Option<ShardItem>,
}

impl Archive {
    /// Begins at the sample whose first header stands at `start`.
    pub(super) fn open(location: &Location, shard: usize, start: u64) -> Result<Self> {
        Ok(Self {
            members: Members::open(location, start)?,
            name: location.to_string(),
            shard,
            bodies: Bodies::All,
            group: None,
            seen: HashSet::new(),
            ended: false,
            last: None,
        })
    }

    /// Adds a member to the sample being read; returns the previous sample when this one starts another.
    fn take_member(&mut self, member: &Member) -> Option<(u64, ShardItem)> {
        let Some((key, extension)) = split_key(&member.name) else {
            // Such as macOS's `._a.jpg`, which stands before each `a.jpg`: the sample around it goes on.
            self.pass_over(member.size);
            return None;
        };
        let continues = self
            .group
            .as_ref()
            .is_some_and(|group| group.sample.key == key && !group.holds(extension));
        let mut finished = None;
        if !continues {
            finished = self.finish();
            let mut group = Group::new(self.shard, key, member.start);
            if !self.seen.insert(hash(key)) {
                group.fail(FaultKind::DuplicateKey);
            }
            self.group = Some(group);
        }
        let of_use = self
            .group
            .as_ref()
            .is_some_and(|group| group.wants(extension));
        let part = Part::of(extension).filter(|_| of_use);
        let too_large = part.is_some() && member.size > MAX_FILE_BYTES;
        let wanted = part.is_some_and(|part| part.is_read(self.bodies));
        let read = if wanted && !too_large {
            self.members
                .read_body(member.size)
                .map(|body| body.map(Some))
        } else {
            self.members
                .skip_body(member.size)
                .map(|whole| whole.then_some(None))
        };
        match read {
            Ok(Some(body)) => {
                if let Some(group) = &mut self.group {
                    if too_large {
                        group.fail(FaultKind::TooLarge);
                    }
                    group.add(extension, body);
                }
            }
            Ok(None) => self.stop(FaultKind::TruncatedShard),
            Err(error) => self.fail(&error),
        }
        finished
    }

    fn pass_over(&mut self, size: u64) {
        match self.members.skip_body(size) {
            Ok(true) => {}
            Ok(false) => self.stop(FaultKind::TruncatedShard),
            Err(error) => self.fail(&error),
        }
    }

    /// Ends the shard with an error of its file.
    fn fail(&mut self, error: &Error) {
        log::warn!("{}: {error}", self.name);
        let damaged = matches!(
            error.kind(),
            ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::UnexpectedEof
        );
        self.stop(if damaged {
            FaultKind::TruncatedShard
        } else {
            FaultKind::UnreadableShard
        });
    }

    /// Ends the shard with a fault, which is yielded last. It takes the place of the sample being read, which may
    /// lack a part.
    fn stop(&mut self, kind: FaultKind) {
        self.ended = true;
        let key = self.group.take().map(|group| group.sample.key);
        self.last = Some(ShardItem::Fault(kind, key.unwrap_or_default()));
    }

    fn finish(&mut self) -> Option<(u64, ShardItem)> {
        let group = self.group.take()?;
        let start = group.start;
        group
            .into_item(self.bodies != Bodies::None)
            .map(|item| (start, item))
    }
}

impl Items for Archive {
    fn next_located(&mut self) -> Option<(u64, ShardItem)> {
        while !self.ended {
            let item = match self.members.next() {
                Ok(Next::Member(member)) => self.take_member(&member),
                Ok(Next::End) => {
                    self.ended = true;
                    self.finish()
                }
                Ok(Next::NoTar) => {
                    self.stop(FaultKind::NoTar);
                    None
                }
                Ok(Next::Damaged) => {
                    self.stop(FaultKind::TruncatedShard);
                    None
                }
                Err(error) => {
                    self.fail(&error);
                    None
                }
            };
            if item.is_some() {
                return item;
            }
        }
        self.last.take().map(|item| (0, item))
    }

    fn read_bodies(&mut self, bodies: Bodies) {
        self.bodies = bodies;
    }
}

fn hash(key: &str) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ShardReader, ShardSet,
        testing::{Tar, write},
    };

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
    fn files_that_are_no_part_of_a_sample_break_none() {
        let tar = Tar::new()
            .file("._a.jpg", b"of a file system")
            .file("a.jpg", b"image")
            .file("._a.txt", b"of a file system")
            .file("a.txt", b"one")
            .file("d/b.jpg", b"image")
            .file("d/.DS_Store", b"of a file system")
            .file("d/README", b"of a person")
            .file("d/._b.txt", b"of a file system")
            .file("d/b.txt", b"two");
        assert_eq!(keys(&items(&tar.bytes())), ["a", "d/b"]);
        let bytes = tar.bytes();
        // Within the body of `d/README`.
        let cut = keys(&items(&bytes[..6 * 1024 + 512 + 5]));
        assert_eq!(cut, ["a", "d/b:TruncatedShard"]);
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
    fn what_does_not_begin_as_a_tar_is_none() {
        let page = "<html>not found</html>".repeat(100);
        for bytes in [&b""[..], &page.as_bytes()[..100], page.as_bytes()] {
            assert_eq!(keys(&items(bytes)), [":NoTar"]);
        }
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
    fn of_several_images_the_one_that_openclip_takes_is_read() {
        for (extensions, taken) in [
            (["jpg", "png", "webp"], 0),
            (["webp", "jpeg", "png"], 2),
            (["png", "JPG", "jpeg"], 1),
        ] {
            let tar = Tar::new().file("a.txt", b"one");
            let tar = extensions.iter().enumerate().fold(tar, |tar, (at, name)| {
                tar.file(&format!("a.{name}"), &[at as u8])
            });
            let items = items(&tar.bytes());
            assert!(
                matches!(&items[..], [ShardItem::Sample(sample)] if sample.image == [taken]),
                "{items:?}"
            );
        }
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
        let set = ShardSet::from_paths(vec![path]);
        let whole: Vec<_> = set.open(0).unwrap().collect();
        let mut headers = set.open(0).unwrap().headers_only();
        let again: Vec<_> = std::iter::from_fn(|| headers.next_located())
            .map(|(start, _)| set.read_at(0, start))
            .collect();
        assert_eq!(again, whole);
    }
}
