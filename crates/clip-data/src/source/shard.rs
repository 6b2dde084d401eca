use std::{
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use crate::{DataError, FaultKind};

/// Bytes of a tar block.
const BLOCK: usize = 512;

/// Largest member that is read into memory. The largest photographs of web crawls stay far below it.
const MAX_MEMBER_BYTES: u64 = 64 << 20;

/// A sample as it stands in a shard, not decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawSample {
    /// Index of the shard in its [`ShardSet`](super::ShardSet).
    pub shard: usize,
    /// The member's path up to the first dot of its file name.
    pub key: String,
    /// The encoded image.
    pub image: Vec<u8>,
    /// Every caption, at least one unless the sample has a class.
    pub captions: Vec<String>,
    /// Index of the class, from `cls`.
    pub class: Option<usize>,
}

/// What a shard yields next.
#[derive(Debug)]
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
    file: BufReader<File>,
    length: u64,
    position: u64,
    path: PathBuf,
    shard: usize,
    bodies: bool,
    group: Option<Group>,
    seen: std::collections::HashSet<String>,
    ended: bool,
    last: Option<ShardItem>,
}

#[derive(Debug, Default)]
struct Group {
    sample: RawSample,
    text: Option<String>,
    listed: Vec<String>,
    has_image: bool,
    has_text: bool,
    fault: Option<FaultKind>,
}

struct Member {
    name: String,
    size: u64,
}

enum Next {
    Member(Member),
    End,
    /// A whole header whose body runs past the file's end.
    Cut(String),
    Damaged,
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
            file: BufReader::with_capacity(1 << 18, file),
            length,
            position: 0,
            path: path.to_owned(),
            shard,
            bodies: true,
            group: None,
            seen: std::collections::HashSet::new(),
            ended: false,
            last: None,
        })
    }

    /// Skips over images and captions: samples then carry their keys alone.
    pub fn headers_only(mut self) -> Self {
        self.bodies = false;
        self
    }

    /// The file being read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn next_member(&mut self) -> std::io::Result<Next> {
        let mut long_name: Option<String> = None;
        loop {
            let mut block = [0_u8; BLOCK];
            if self.position == self.length {
                // No end marker, but whole members: some writers leave it out.
                return Ok(Next::End);
            }
            if self.position + BLOCK as u64 > self.length {
                return Ok(Next::Damaged);
            }
            self.file.read_exact(&mut block)?;
            self.position += BLOCK as u64;
            if block.iter().all(|byte| *byte == 0) {
                return Ok(Next::End);
            }
            let header = tar::Header::from_byte_slice(&block);
            let (Ok(size), Ok(sum)) = (header.entry_size(), header.cksum()) else {
                return Ok(Next::Damaged);
            };
            if sum != checksum(&block) {
                return Ok(Next::Damaged);
            }
            let kind = header.entry_type();
            if size > self.length - self.position {
                return Ok(if kind.is_file() && long_name.is_none() {
                    Next::Cut(String::from_utf8_lossy(&header.path_bytes()).into_owned())
                } else {
                    Next::Damaged
                });
            }
            if kind.is_gnu_longname() || kind.is_pax_local_extensions() {
                if size > 1 << 20 {
                    return Ok(Next::Damaged);
                }
                let body = self.read_body(size)?;
                long_name = if kind.is_gnu_longname() {
                    let name = String::from_utf8_lossy(&body);
                    Some(name.trim_end_matches('\0').to_owned())
                } else {
                    pax_path(&body)
                };
            } else if kind.is_file() {
                let name = long_name
                    .take()
                    .unwrap_or_else(|| String::from_utf8_lossy(&header.path_bytes()).into_owned());
                return Ok(Next::Member(Member { name, size }));
            } else {
                long_name = None;
                self.skip_body(size)?;
            }
        }
    }

    fn read_body(&mut self, size: u64) -> std::io::Result<Vec<u8>> {
        let mut body = vec![0; size as usize];
        self.file.read_exact(&mut body)?;
        self.position += size;
        self.skip_padding(size)?;
        Ok(body)
    }

    fn skip_body(&mut self, size: u64) -> std::io::Result<()> {
        self.file.seek_relative(size as i64)?;
        self.position += size;
        self.skip_padding(size)
    }

    fn skip_padding(&mut self, size: u64) -> std::io::Result<()> {
        // The last member of a cut-off archive may lack its padding.
        let padding = size.next_multiple_of(BLOCK as u64) - size;
        let padding = padding.min(self.length - self.position);
        self.file.seek_relative(padding as i64)?;
        self.position += padding;
        Ok(())
    }

    /// Adds a member to the sample being read; returns the previous sample when this one starts another.
    fn take_member(&mut self, member: &Member) -> std::io::Result<Option<ShardItem>> {
        let (key, extension) = split_key(&member.name);
        let mut finished = None;
        if self
            .group
            .as_ref()
            .is_none_or(|group| group.sample.key != key)
        {
            finished = self.finish();
            let mut group = Group::default();
            group.sample.shard = self.shard;
            key.clone_into(&mut group.sample.key);
            if !self.seen.insert(key.to_owned()) {
                group.fault = Some(FaultKind::DuplicateKey);
            }
            self.group = Some(group);
        }
        let part = extension.to_ascii_lowercase();
        let is_image = matches!(part.as_str(), "jpg" | "jpeg" | "png" | "webp");
        let is_text = matches!(part.as_str(), "txt" | "json" | "cls");
        let too_large = (is_image || is_text) && member.size > MAX_MEMBER_BYTES;
        let body = if self.bodies && (is_image || is_text) && !too_large {
            Some(self.read_body(member.size)?)
        } else {
            self.skip_body(member.size)?;
            None
        };
        // invariant: a group was made above if there was none.
        let group = self.group.as_mut().expect("invariant: made above");
        if too_large {
            group.fault = Some(FaultKind::TooLarge);
        }
        group.has_image |= is_image;
        group.has_text |= is_text;
        if let Some(body) = body {
            group.add(&part, body);
        }
        Ok(finished)
    }

    /// Ends the shard with a fault, which is yielded last.
    fn stop(&mut self, kind: FaultKind, key: &str) {
        self.ended = true;
        self.last = Some(ShardItem::Fault(kind, key.to_owned()));
    }

    fn finish(&mut self) -> Option<ShardItem> {
        let group = self.group.take()?;
        let bodies = self.bodies;
        group.into_item(bodies)
    }
}

impl Group {
    fn add(&mut self, part: &str, body: Vec<u8>) {
        match part {
            "txt" => self.text = Some(String::from_utf8_lossy(&body).into_owned()),
            "cls" => match String::from_utf8_lossy(&body).trim().parse() {
                Ok(class) => self.sample.class = Some(class),
                Err(_) => self.fault = Some(FaultKind::BadClass),
            },
            "json" => match serde_json::from_slice::<serde_json::Value>(&body) {
                Ok(value) => self.listed = json_captions(&value),
                Err(_) => self.fault = Some(FaultKind::BadJson),
            },
            _ => self.sample.image = body,
        }
    }

    /// `None` for a group that has neither an image nor text: not a sample at all.
    fn into_item(mut self, bodies: bool) -> Option<ShardItem> {
        if !self.has_image && !self.has_text && self.fault.is_none() {
            return None;
        }
        let key = self.sample.key.clone();
        let fault = |kind| Some(ShardItem::Fault(kind, key.clone()));
        if let Some(kind) = self.fault {
            return fault(kind);
        }
        if !self.has_image {
            return fault(FaultKind::NoImage);
        }
        if !bodies {
            return Some(ShardItem::Sample(self.sample));
        }
        let had_caption = !self.listed.is_empty() || self.text.is_some();
        let mut captions = self.listed;
        if captions.is_empty() {
            captions.extend(self.text);
        }
        captions.retain(|caption| !caption.trim().is_empty());
        if captions.is_empty() && self.sample.class.is_none() {
            return fault(if had_caption {
                FaultKind::EmptyCaption
            } else {
                FaultKind::NoCaption
            });
        }
        self.sample.captions = captions;
        Some(ShardItem::Sample(self.sample))
    }
}

impl Iterator for ShardReader {
    type Item = ShardItem;

    fn next(&mut self) -> Option<ShardItem> {
        while !self.ended {
            let taken = self.next_member().and_then(|next| match next {
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
        self.last.take()
    }
}

/// WebDataset's rule: the key ends at the first dot of the file name.
fn split_key(name: &str) -> (&str, &str) {
    let name = name.strip_prefix("./").unwrap_or(name);
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[file..].find('.') {
        Some(dot) => (&name[..file + dot], &name[file + dot + 1..]),
        None => (name, ""),
    }
}

fn json_captions(value: &serde_json::Value) -> Vec<String> {
    let listed = value.get("captions").and_then(serde_json::Value::as_array);
    let strings: Vec<String> = listed
        .into_iter()
        .flatten()
        .filter_map(|caption| caption.as_str().map(str::to_owned))
        .collect();
    if !strings.is_empty() {
        return strings;
    }
    value
        .get("caption")
        .and_then(serde_json::Value::as_str)
        .map(str::to_owned)
        .into_iter()
        .collect()
}

/// The header's sum, its own field counted as spaces.
fn checksum(block: &[u8; BLOCK]) -> u32 {
    let field = 148..156;
    block
        .iter()
        .enumerate()
        .map(|(at, byte)| {
            if field.contains(&at) {
                32
            } else {
                u32::from(*byte)
            }
        })
        .sum()
}

/// The `path` record of a pax header, `LENGTH path=VALUE\n`.
fn pax_path(body: &[u8]) -> Option<String> {
    String::from_utf8_lossy(body)
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find_map(|(_, record)| record.strip_prefix("path=").map(str::to_owned))
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
}
