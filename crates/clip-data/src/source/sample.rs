use clip_files::sha256::Parts;

use crate::FaultKind;

use super::{ShardItem, shard::Bodies};

/// A sample as it stands in a shard, not decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawSample {
    /// Index of the shard in its [`ShardSet`](super::ShardSet).
    pub shard: usize,
    /// Of a tar, the member's path up to the first dot of its file name; of a folder, up to the last. Of a table, what its key
    /// column says, or else the image's path.
    pub key: String,
    /// The encoded image.
    pub image: Vec<u8>,
    /// Every caption, at least one unless the sample has a class.
    pub captions: Vec<String>,
    /// Index of the class, from `cls`, or of the sub-folder of an image without text.
    pub class: Option<usize>,
    /// The `json` member as it stands, with whatever it says beside the captions; empty if there is none.
    pub json: Vec<u8>,
}

impl RawSample {
    /// A number for the image's file and its captions together, whatever their key and shard: 64 bits of a SHA-256.
    pub fn pair_id(&self) -> u64 {
        let captions = self.captions.iter().map(String::as_bytes);
        let hash = Parts::of(std::iter::once(self.image.as_slice()).chain(captions)).digest();
        u64::from_le_bytes(std::array::from_fn(|byte| hash[byte]))
    }

    /// Bytes that the sample holds, near enough to bound memory by.
    pub(crate) fn held_bytes(&self) -> usize {
        let captions: usize = self.captions.iter().map(String::len).sum();
        self.image.len() + captions + self.key.len() + self.json.len()
    }
}

/// Extensions of images. Of several in a sample the first of these is taken, as in `OpenCLIP`: the others may be masks.
const IMAGE_EXTENSIONS: [&str; 4] = ["jpg", "png", "jpeg", "webp"];

/// Whether files with this extension are images.
pub(crate) fn is_image_extension(extension: &str) -> bool {
    image_rank(extension).is_some()
}

/// The place among [`IMAGE_EXTENSIONS`], the lower the better.
fn image_rank(extension: &str) -> Option<usize> {
    IMAGE_EXTENSIONS
        .iter()
        .position(|name| extension.eq_ignore_ascii_case(name))
}

/// What a member is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Image,
    Text,
    Json,
    Class,
}

impl Part {
    pub(super) fn of(extension: &str) -> Option<Self> {
        let is = |name: &str| extension.eq_ignore_ascii_case(name);
        if is_image_extension(extension) {
            Some(Self::Image)
        } else if is("txt") {
            Some(Self::Text)
        } else if is("json") {
            Some(Self::Json)
        } else if is("cls") {
            Some(Self::Class)
        } else {
            None
        }
    }

    pub(super) fn is_read(self, bodies: Bodies) -> bool {
        match bodies {
            Bodies::All => true,
            Bodies::Text => self != Self::Image,
            Bodies::None => false,
        }
    }
}

/// The members of a shard that share a key.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) sample: RawSample,
    /// Where the group's first header stands in its archive.
    pub(super) start: u64,
    extensions: Vec<String>,
    text: Option<String>,
    /// `captions` of the `json` member.
    listed: Vec<String>,
    /// `caption` of the `json` member.
    told: Option<String>,
    /// The rank of the image that is taken so far.
    image_rank: Option<usize>,
    has_text: bool,
    fault: Option<FaultKind>,
}

impl Group {
    pub(super) fn new(shard: usize, key: &str, start: u64) -> Self {
        let mut group = Self {
            start,
            ..Self::default()
        };
        group.sample.shard = shard;
        key.clone_into(&mut group.sample.key);
        group
    }

    /// Whether a part with this extension stands in the group already.
    pub(super) fn holds(&self, extension: &str) -> bool {
        self.extensions.iter().any(|held| held == extension)
    }

    /// Whether a file with this extension is of use: not an image, where a better one stands in the group already.
    pub(super) fn wants(&self, extension: &str) -> bool {
        match (image_rank(extension), self.image_rank) {
            (Some(rank), Some(held)) => rank < held,
            _ => true,
        }
    }

    /// Records a fault; the first one stays, as it is known from the headers alone.
    pub(super) fn fail(&mut self, kind: FaultKind) {
        self.fault.get_or_insert(kind);
    }

    /// Takes a member; `None` for a body that was skipped.
    pub(super) fn add(&mut self, extension: &str, body: Option<Vec<u8>>) {
        let Some(part) = Part::of(extension) else {
            return;
        };
        self.extensions.push(extension.to_owned());
        if !self.wants(extension) {
            return;
        }
        match part {
            Part::Image => self.image_rank = image_rank(extension),
            Part::Text | Part::Json | Part::Class => self.has_text = true,
        }
        let Some(body) = body else { return };
        match part {
            Part::Text => self.text = Some(String::from_utf8_lossy(&body).into_owned()),
            Part::Class => match String::from_utf8_lossy(&body).trim().parse() {
                Ok(class) => self.sample.class = Some(class),
                Err(_) => self.fail(FaultKind::BadClass),
            },
            Part::Json => match serde_json::from_slice::<serde_json::Value>(&body) {
                Ok(value) => {
                    (self.listed, self.told) = json_captions(&value);
                    self.sample.json = body;
                }
                Err(_) => self.fail(FaultKind::BadJson),
            },
            Part::Image => self.sample.image = body,
        }
    }

    /// `None` for a group that has neither an image nor text: not a sample at all.
    pub(super) fn into_item(mut self, bodies: bool) -> Option<ShardItem> {
        if self.image_rank.is_none() && !self.has_text {
            return None;
        }
        let key = std::mem::take(&mut self.sample.key);
        let fault = |kind, key| Some(ShardItem::Fault(kind, key));
        if let Some(kind) = self.fault {
            return fault(kind, key);
        }
        if self.image_rank.is_none() {
            return fault(FaultKind::NoImage, key);
        }
        let had_caption = !self.listed.is_empty() || self.text.is_some() || self.told.is_some();
        let mut captions = self.listed;
        captions.retain(|caption| !caption.trim().is_empty());
        if captions.is_empty() {
            // Shards with new captions keep the old ones in the metadata of their download.
            let one = [self.text, self.told].into_iter().flatten();
            captions.extend(one.filter(|text| !text.trim().is_empty()).take(1));
        }
        if bodies && captions.is_empty() && self.sample.class.is_none() {
            return fault(
                if had_caption {
                    FaultKind::EmptyCaption
                } else {
                    FaultKind::NoCaption
                },
                key,
            );
        }
        self.sample.captions = captions;
        self.sample.key = key;
        Some(ShardItem::Sample(self.sample))
    }
}

/// WebDataset's rule: the key ends at the first dot of the file name. `None` where nothing stands before it, or there is
/// no dot: such a file is no part of a sample.
pub(super) fn split_key(name: &str) -> Option<(&str, &str)> {
    let name = name.strip_prefix("./").unwrap_or(name);
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = name[file..].find('.').filter(|dot| *dot > 0)?;
    Some((&name[..file + dot], &name[file + dot + 1..]))
}

/// `captions` and `caption`.
fn json_captions(value: &serde_json::Value) -> (Vec<String>, Option<String>) {
    let listed = value.get("captions").and_then(serde_json::Value::as_array);
    let text = |caption: &serde_json::Value| caption.as_str().map(str::to_owned);
    let captions = listed.into_iter().flatten().filter_map(text).collect();
    (captions, value.get("caption").and_then(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_ends_at_the_first_dot_of_the_file_name() {
        assert_eq!(split_key("./d.x/a.b.jpg"), Some(("d.x/a", "b.jpg")));
        assert_eq!(split_key("d.x/readme"), None);
        assert_eq!(split_key(".hidden"), None);
        assert_eq!(split_key("d.x/._a.jpg"), None);
    }

    #[test]
    fn captions_come_before_text_and_text_before_caption() {
        let captions = |json: &[u8], text: &[u8]| {
            let mut group = Group::new(0, "k", 0);
            group.add("jpg", Some(vec![1]));
            group.add("txt", Some(text.to_vec()));
            group.add("json", Some(json.to_vec()));
            match group.into_item(true) {
                Some(ShardItem::Sample(sample)) => sample.captions,
                other => panic!("{other:?}"),
            }
        };
        let both = br#"{"captions": ["one", " ", "two"], "caption": "three"}"#;
        assert_eq!(captions(both, b"four"), ["one", "two"]);
        assert_eq!(captions(br#"{"caption": "three"}"#, b"four"), ["four"]);
        assert_eq!(captions(br#"{"caption": "three"}"#, b" \n"), ["three"]);
        let blank = br#"{"captions": [" "], "caption": "three"}"#;
        assert_eq!(captions(blank, b"four"), ["four"]);
        assert_eq!(captions(br#"{"name": "x"}"#, b"four"), ["four"]);
    }
}
