use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;

use crate::{DataError, FaultReport, ShardItem, ShardSet};

/// Longest line of a text file: in a file without line ends, or one that is no text, the first would be all of it.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// Text to learn words from: files, and the captions of shards.
#[derive(Clone, Debug, Default)]
pub struct Corpus {
    /// Text files, plain or `.gz`; lines are looked at one by one.
    pub texts: Vec<PathBuf>,
    /// Shards, whose samples' captions are lines.
    pub shards: Option<ShardSet>,
}

impl Corpus {
    /// Calls `line` with every line, in order, until it returns `false`. A bad sample of a shard has no captions; how
    /// many there are, and where, is warned of.
    ///
    /// # Errors
    /// [`DataError::Io`], [`DataError::Queries`] for a line of more than a MiB, and [`DataError::Unread`] at the end,
    /// if a shard could not be read to its own.
    pub fn read(&self, line: impl FnMut(&str) -> bool) -> Result<(), DataError> {
        let faults = self.read_again(line)?;
        if faults.bad() > 0 {
            log::warn!(
                "{} of {} samples are bad, so their captions are left out; worst shards: {}",
                faults.bad(),
                faults.samples,
                faults.worst_shards(3)
            );
        }
        Ok(())
    }

    /// As [`read`](Self::read), for another pass, of whose faults the first one warned.
    pub(super) fn read_again(
        &self,
        mut line: impl FnMut(&str) -> bool,
    ) -> Result<FaultReport, DataError> {
        let mut faults = FaultReport::default();
        for path in &self.texts {
            if !read_lines(path, &mut line)? {
                return Ok(faults);
            }
        }
        let Some(shards) = &self.shards else {
            return Ok(faults);
        };
        for shard in 0..shards.len() {
            for item in shards.open(shard)?.without_images() {
                match item {
                    ShardItem::Sample(sample) => {
                        faults.samples += 1;
                        if !sample.captions.iter().all(|caption| line(caption)) {
                            return Ok(faults);
                        }
                    }
                    ShardItem::Fault(kind, _) => {
                        faults.fault(&shards.name(shard), kind);
                    }
                }
            }
        }
        faults.require_read()?;
        Ok(faults)
    }
}

fn read_lines(path: &Path, line: &mut impl FnMut(&str) -> bool) -> Result<bool, DataError> {
    let file = File::open(path).map_err(clip_files::io("read", path))?;
    let is_gz = path.extension().is_some_and(|extension| extension == "gz");
    let source: Box<dyn Read> = if is_gz {
        Box::new(MultiGzDecoder::new(BufReader::new(file)))
    } else {
        Box::new(file)
    };
    let mut reader = BufReader::with_capacity(1 << 18, source);
    let mut bytes = Vec::new();
    for number in 1.. {
        bytes.clear();
        let mut limited = (&mut reader).take(MAX_LINE_BYTES + 1);
        let read = limited.read_until(b'\n', &mut bytes);
        if read.map_err(clip_files::io("read", path))? == 0 {
            break;
        }
        if bytes.len() as u64 > MAX_LINE_BYTES {
            return Err(DataError::Queries {
                origin: path.display().to_string(),
                reason: format!(
                    "line {number} has more than {MAX_LINE_BYTES} bytes; is it text, with a line end after each text?"
                ),
            });
        }
        if !line(String::from_utf8_lossy(&bytes).trim_end()) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;
    use crate::testing::{Tar, shards, write};

    #[test]
    fn lines_come_from_files_and_captions() {
        let dir = tempfile::tempdir().unwrap();
        let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
        gz.write_all(b"three\nfour").unwrap();
        let corpus = Corpus {
            texts: vec![
                write(&dir, "a.txt", b"one\r\ntwo\n"),
                write(&dir, "b.txt.gz", &gz.finish().unwrap()),
            ],
            shards: Some(shards(&dir, &[1])),
        };
        let mut lines = Vec::new();
        corpus
            .read(|line| {
                lines.push(line.to_owned());
                true
            })
            .unwrap();
        assert_eq!(lines, ["one", "two", "three", "four", "0", "0b"]);
        let bad = Tar::new()
            .file("a.png", b"image")
            .file("a.txt", b"five")
            .file("b.txt", b"of no image")
            .file("c.png", b"image");
        let bad = Corpus {
            shards: Some(ShardSet::from_paths(vec![write(
                &dir,
                "bad.tar",
                &bad.bytes(),
            )])),
            ..Corpus::default()
        };
        let faults = bad.read_again(|line| line == "five").unwrap();
        assert_eq!((faults.samples, faults.bad()), (3, 2));
        let mut read = 0;
        corpus
            .read(|_| {
                read += 1;
                read < 3
            })
            .unwrap();
        assert_eq!(read, 3);
        let long = [&b"one\n"[..], &vec![b'x'; (1 << 20) + 1]].concat();
        let long = Corpus {
            texts: vec![write(&dir, "long.txt", &long)],
            shards: None,
        };
        let error = long.read(|_| true).unwrap_err().to_string();
        assert!(error.contains("long.txt: line 2"), "{error}");
        let gone = Corpus {
            texts: vec!["gone.txt".into()],
            shards: None,
        };
        assert!(gone.read(|_| true).is_err());
    }
}
