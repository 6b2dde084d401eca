use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;

use crate::{DataError, ShardItem, ShardSet};

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
    /// Calls `line` with every line, in order, until it returns `false`.
    ///
    /// # Errors
    /// [`DataError::Io`], and [`DataError::Queries`] for a line of more than a MiB. A bad sample of a shard has no captions.
    pub fn read(&self, mut line: impl FnMut(&str) -> bool) -> Result<(), DataError> {
        for path in &self.texts {
            if !read_lines(path, &mut line)? {
                return Ok(());
            }
        }
        let Some(shards) = &self.shards else {
            return Ok(());
        };
        for shard in 0..shards.len() {
            for item in shards.open(shard)?.without_images() {
                if let ShardItem::Sample(sample) = item
                    && !sample.captions.iter().all(|caption| line(caption))
                {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

fn read_lines(path: &Path, line: &mut impl FnMut(&str) -> bool) -> Result<bool, DataError> {
    let file = File::open(path).map_err(DataError::io("read", path))?;
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
        if read.map_err(DataError::io("read", path))? == 0 {
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
    use crate::testing::{shards, write};

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
