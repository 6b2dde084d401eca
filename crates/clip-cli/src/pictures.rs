//! Image files: which are meant, and their pixels at the model's size.

use std::{
    io::BufRead,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use clip_data::{DataError, ImageResizer, RgbImage, read_image};
use clip_zeroshot::ClipEncoders;
use walkdir::WalkDir;

use crate::output;

/// Images encoded at once: past it a processor gets no faster.
const BATCH: usize = 64;

/// What `clip-data` decodes.
const EXTENSIONS: [&str; 6] = ["jpg", "jpeg", "png", "webp", "gif", "bmp"];

/// Reads image files as an evaluation reads a shard's.
pub(crate) struct Pictures {
    resizer: ImageResizer,
}

impl Pictures {
    /// At the size of a model, and resized as it wants images.
    pub(crate) fn new(encoders: &ClipEncoders) -> Self {
        Self {
            resizer: encoders.resizer(),
        }
    }

    /// `image_size * image_size * 3` bytes.
    pub(crate) fn read(&mut self, path: &Path) -> Result<Vec<u8>, DataError> {
        Ok(self.square(&read_image(path)?))
    }

    /// As [`read`](Self::read), of an image that was decoded already.
    pub(crate) fn square(&mut self, image: &RgbImage) -> Vec<u8> {
        self.resizer.square(image)
    }
}

/// Gives `use_batch` the images that can be read, some at a time: their positions in `images`, which rise, and what
/// [`Pictures::read`] makes of them one after the other. Tells which can't be, and returns how many those are.
pub(crate) fn in_batches(
    images: &[PathBuf],
    mut pictures: Pictures,
    mut use_batch: impl FnMut(&[usize], Vec<u8>) -> Result<()>,
) -> Result<usize> {
    let mut bad = 0;
    let positions: Vec<usize> = (0..images.len()).collect();
    for batch in positions.chunks(BATCH) {
        let (mut read, mut pixels) = (Vec::new(), Vec::new());
        for &at in batch {
            match pictures.read(&images[at]) {
                Ok(image) => {
                    pixels.extend(image);
                    read.push(at);
                }
                Err(error) => {
                    output::print_error(&error.into());
                    bad += 1;
                }
            }
        }
        if !read.is_empty() {
            use_batch(&read, pixels)?;
        }
    }
    Ok(bad)
}

/// The files that arguments mean: files as they are, the images below folders, what globs match, and for `-` a path a
/// line of stdin.
pub(crate) fn find(arguments: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for argument in arguments {
        let text = argument.to_string_lossy();
        if text == "-" {
            for line in std::io::stdin().lock().split(b'\n') {
                let line = line.context("cannot read the list of images on stdin")?;
                let line = line.trim_ascii_end();
                if !line.is_empty() {
                    found.push(path_of(line)?);
                }
            }
        } else if argument.is_dir() {
            let before = found.len();
            found.extend(below(argument)?.images);
            ensure!(
                found.len() > before,
                "{} holds no jpg, png, webp, gif or bmp",
                argument.display()
            );
        } else if text.contains(['*', '?', '[']) && !argument.exists() {
            let before = found.len();
            for path in glob::glob(&text).with_context(|| format!("`{text}` is no pattern"))? {
                let path = path?;
                if path.is_file() {
                    found.push(path);
                }
            }
            ensure!(found.len() > before, "no file matches `{text}`");
        } else {
            // A file that is missing costs only itself: reading it says so.
            found.push(argument.clone());
        }
    }
    if found.is_empty() {
        bail!("no image is named: give files, folders or globs, or a list on stdin with `-`");
    }
    Ok(found)
}

/// A path as its system writes it, which needn't be UTF-8 on Unix.
#[cfg(unix)]
#[allow(clippy::unnecessary_wraps, reason = "elsewhere it may be none")]
fn path_of(bytes: &[u8]) -> Result<PathBuf> {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

    Ok(PathBuf::from(OsStr::from_bytes(bytes)))
}

/// A path, which must be UTF-8.
#[cfg(not(unix))]
fn path_of(bytes: &[u8]) -> Result<PathBuf> {
    let text = str::from_utf8(bytes).context("the list of images on stdin is not UTF-8")?;
    Ok(PathBuf::from(text))
}

/// What lies below a folder.
#[derive(Default)]
pub(crate) struct Below {
    /// The images, sorted by path.
    pub(crate) images: Vec<PathBuf>,
    /// What couldn't be looked into, as another user's folder.
    pub(crate) closed: Vec<PathBuf>,
}

/// The images below a folder; symbolic links are not followed. What can't be read below it is named.
pub(crate) fn below(folder: &Path) -> Result<Below> {
    let mut found = Below::default();
    for entry in WalkDir::new(folder).sort_by_file_name() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) if error.depth() > 0 => {
                log::warn!("left out: {error}");
                // Without a path, a listing broke off: nobody knows of which folder.
                found.closed.push(error.path().unwrap_or(folder).to_owned());
                continue;
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", folder.display()));
            }
        };
        if entry.file_type().is_file() && is_image(entry.path()) {
            found.images.push(entry.into_path());
        }
    }
    Ok(found)
}

/// Whether a file's name ends as an image's.
pub(crate) fn is_image(path: &Path) -> bool {
    path.extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| {
            EXTENSIONS
                .iter()
                .any(|known| extension.eq_ignore_ascii_case(known))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_keep_their_positions_where_others_cannot_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let mut images = vec![folder.path().join("gone.png"); BATCH + 3];
        let good = folder.path().join("good.bmp");
        // A BMP of one red pixel: two headers of 14 and 40 bytes, and a row of 4.
        let mut bytes =
            b"BM\x3a\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\x18\0".to_vec();
        bytes.resize(54, 0);
        bytes.extend([0, 0, 255, 0]);
        std::fs::write(&good, bytes).unwrap();
        for at in [1, BATCH + 2] {
            images[at].clone_from(&good);
        }
        let pictures = Pictures {
            resizer: ImageResizer::new(1),
        };
        let mut found = Vec::new();
        let bad = in_batches(&images, pictures, |positions, pixels| {
            found.push((positions.to_vec(), pixels));
            Ok(())
        });
        assert_eq!(bad.unwrap(), BATCH + 1);
        let red = || vec![255, 0, 0];
        assert_eq!(found, [(vec![1], red()), (vec![BATCH + 2], red())]);
    }
}
