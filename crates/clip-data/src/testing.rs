//! Shards made in tests.

use std::path::PathBuf;

/// A tar in memory.
#[derive(Default)]
pub(crate) struct Tar {
    members: Vec<(String, Vec<u8>)>,
}

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn file(mut self, name: &str, body: &[u8]) -> Self {
        self.members.push((name.to_owned(), body.to_vec()));
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, body) in &self.members {
            let mut header = tar::Header::new_gnu();
            header.set_size(body.len() as u64);
            header.set_mode(0o644);
            header.set_entry_type(tar::EntryType::Regular);
            builder
                .append_data(&mut header, name, body.as_slice())
                .unwrap();
        }
        builder.into_inner().unwrap()
    }
}

/// Writes a file of a temporary folder.
pub(crate) fn write(dir: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// A picture whose first pixel says which one it is.
pub(crate) fn png(number: u8) -> Vec<u8> {
    let image = image::RgbImage::from_pixel(9, 8, image::Rgb([number, 100, 200]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// Shards `s-0.tar`, ... of `samples` samples each; sample `n` of all is `k<n>`, captioned `<n>` and `<n>b`.
pub(crate) fn shards(dir: &tempfile::TempDir, samples: &[usize]) -> crate::ShardSet {
    let mut number = 0;
    let mut paths = Vec::new();
    for (shard, count) in samples.iter().enumerate() {
        let mut tar = Tar::new();
        for _ in 0..*count {
            let captions = format!(r#"{{"captions": ["{number}", "{number}b"]}}"#);
            tar = tar
                .file(&format!("k{number}.png"), &png(number as u8))
                .file(&format!("k{number}.json"), captions.as_bytes());
            number += 1;
        }
        paths.push(write(dir, &format!("s-{shard}.tar"), &tar.bytes()));
    }
    crate::ShardSet::from_paths(paths)
}
