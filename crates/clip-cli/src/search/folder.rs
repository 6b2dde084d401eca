//! A folder's images as they are on disk, and their features.

use std::{
    collections::{HashMap, HashSet},
    fs::Metadata,
    io::ErrorKind,
    mem,
    path::{Component, Path, PathBuf},
    time::{Duration, Instant, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use clip_files::PathLock;
use clip_model::weights::without_local_dir;
use clip_zeroshot::{ClipEncoders, EncodeTexts, Found, ImageIndex, IndexChanges, IndexedImage};

use crate::pictures::{self, Pictures};

/// The index's name in the folder that it is of; hidden, and no image.
const INDEX_FILE: &str = ".clip-index.safetensors";

pub(crate) fn index_file(dir: &Path, named: Option<&Path>) -> PathBuf {
    named.map_or_else(|| dir.join(INDEX_FILE), Path::to_owned)
}

/// While images are encoded, so often is what there is saved: an interrupted run goes on from there.
const SAVE_EVERY: Duration = Duration::from_mins(2);

/// Held for as long as an index is brought up to date: two that write one would lose one's work.
pub(super) fn lock(index: &Path) -> Result<PathLock> {
    let mut name = index.file_name().unwrap_or_default().to_owned();
    name.push(".lock");
    let path = index.with_file_name(name);
    let lock = PathLock::try_take(&path).map_err(clip_files::io("lock", path))?;
    lock.with_context(|| {
        format!(
            "another process is bringing {} up to date: wait until it has ended",
            index.display()
        )
    })
}

/// The index of a file if it is this model's, else a new one. A damaged file is an error: it may be no index at all.
pub(super) fn open_or_new(file: &Path, encoders: &ClipEncoders, model: &str) -> Result<ImageIndex> {
    let hash = encoders.model_hash();
    let mut approximate = false;
    if file.exists() {
        let index = ImageIndex::load(file)?;
        if index.is_of(&hash) {
            return Ok(index);
        }
        log::warn!(
            "{} was made with another model ({}): encoding all images again",
            file.display(),
            index.model()
        );
        approximate = index.is_approximate();
    }
    // As an absolute path, so that queries find the model from everywhere.
    let path = Path::new(without_local_dir(model));
    let model = if path.exists() {
        let whole = std::path::absolute(path).map_err(clip_files::io("read", path))?;
        whole.display().to_string()
    } else {
        model.to_owned()
    };
    let mut index = ImageIndex::new(hash, model, encoders.config().embed_dim);
    index.set_approximate(approximate);
    Ok(index)
}

/// Encodes what is new or changed below a folder, and saves it. What is indexed below folders that can't be looked into stays.
/// Returns what was done, and how many images and folders could not be read.
pub(super) fn update(
    index: &mut ImageIndex,
    file: &Path,
    dir: &Path,
    encoders: &ClipEncoders,
) -> Result<(IndexChanges, usize)> {
    let below = pictures::below(dir)?;
    let mut present = scan(dir, below.images)?;
    let listed: HashSet<String> = present.iter().map(|image| image.path.clone()).collect();
    let is_closed = |image: &&IndexedImage| {
        let path = dir.join(&image.path);
        !listed.contains(&image.path) && below.closed.iter().any(|closed| path.starts_with(closed))
    };
    present.extend(index.images().iter().filter(is_closed).cloned());
    let missing: Vec<IndexedImage> = index.missing(&present).into_iter().cloned().collect();
    let files: Vec<PathBuf> = missing.iter().map(|image| dir.join(&image.path)).collect();
    let mut encoded = HashMap::new();
    let before: HashSet<String> = paths(index).collect();
    let mut changes = IndexChanges {
        kept: present.len() - missing.len(),
        ..IndexChanges::default()
    };
    let mut saved = Instant::now();
    let pictures = Pictures::new(encoders);
    let unreadable = pictures::in_batches(&files, pictures, |positions, pixels| {
        let features = encoders.encode_images(pixels).try_into_vec_as::<f32>()?;
        let rows = features.chunks_exact(features.len() / positions.len());
        for (&at, row) in positions.iter().zip(rows) {
            let image = &missing[at];
            anyhow::ensure!(
                row.iter().all(|value| value.is_finite()),
                "the feature of {} is not finite: the model's weights are damaged",
                image.path
            );
            encoded.insert(image.clone(), row.to_vec());
        }
        changes.encoded += positions.len();
        log::info!("{} of {} images encoded", changes.encoded, missing.len());
        if saved.elapsed() >= SAVE_EVERY {
            index.update(present.clone(), mem::take(&mut encoded));
            index.save(file)?;
            saved = Instant::now();
        }
        Ok(())
    })?;
    index.update(present, encoded);
    index.save(file)?;
    let after: HashSet<String> = paths(index).collect();
    changes.removed = before.difference(&after).count();
    Ok((changes, unreadable + below.closed.len()))
}

fn paths(index: &ImageIndex) -> impl Iterator<Item = String> {
    index.images().iter().map(|image| image.path.clone())
}

/// The images of a folder as they are now. Those whose path is no text are left out and named.
fn scan(dir: &Path, images: Vec<PathBuf>) -> Result<Vec<IndexedImage>> {
    let mut present = Vec::new();
    for path in images {
        let about = match path.metadata() {
            Ok(about) => about,
            // Deleted since the folder was listed.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            error => error.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let Some(relative) = relative(dir, &path) else {
            log::warn!("{} is left out: its name is not UTF-8", path.display());
            continue;
        };
        present.push(image_of(relative, &about));
    }
    Ok(present)
}

fn image_of(path: String, about: &Metadata) -> IndexedImage {
    let changed = about.modified().ok();
    let changed = changed.and_then(|changed| changed.duration_since(UNIX_EPOCH).ok());
    IndexedImage {
        path,
        size: about.len(),
        changed: changed.map_or(0, |changed| changed.as_nanos() as u64),
    }
}

fn relative(dir: &Path, path: &Path) -> Option<String> {
    let parts = path.strip_prefix(dir).ok()?.components();
    let parts: Option<Vec<&str>> = parts.map(|part| part.as_os_str().to_str()).collect();
    Some(parts?.join("/"))
}

/// Where an indexed image lies, or nothing if the file is gone or another than the one indexed, or isn't below the folder:
/// by an index that someone has forged, or by a symbolic link that has taken the image's place.
pub(crate) fn resolve(dir: &Path, image: &IndexedImage) -> Option<PathBuf> {
    resolve_below(&dir.canonicalize().ok()?, image)
}

/// As [`resolve`], of a folder by its canonical path.
fn resolve_below(dir: &Path, image: &IndexedImage) -> Option<PathBuf> {
    let relative = Path::new(&image.path);
    let inside = relative
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    let whole = dir.join(relative).canonicalize().ok()?;
    let about = whole.metadata().ok()?;
    (inside
        && pictures::is_image(relative)
        && whole.starts_with(dir)
        && about.is_file()
        && image_of(image.path.clone(), &about) == *image)
        .then_some(whole)
}

/// The `top` best of a search among the images that are still as they were indexed, and how many others there were
/// among them. `search` finds so many as it is asked for.
pub(crate) fn unchanged(
    dir: &Path,
    images: &[IndexedImage],
    top: usize,
    search: impl Fn(usize) -> Result<Vec<Found>>,
) -> Result<(Vec<Found>, usize)> {
    // A folder that is gone has no images.
    let dir = dir.canonicalize().ok();
    let is_there = |image| {
        let dir = dir.as_deref();
        dir.is_some_and(|dir| resolve_below(dir, image).is_some())
    };
    let mut asked = top;
    loop {
        let mut found = search(asked)?;
        let all = found.len() < asked;
        let before = found.len();
        found.retain(|found| is_there(&images[found.position]));
        let others = before - found.len();
        if all || found.len() >= top {
            found.truncate(top);
            return Ok((found, others));
        }
        asked = asked.saturating_mul(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(path: &str) -> IndexedImage {
        IndexedImage {
            path: path.to_owned(),
            size: 1,
            changed: 0,
        }
    }

    /// A folder `pictures` with `own.png` and `notes.txt`, beside `secret.png`.
    fn folders() -> (tempfile::TempDir, PathBuf) {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("pictures");
        std::fs::create_dir(&dir).unwrap();
        for file in ["../secret.png", "own.png", "notes.txt"] {
            std::fs::write(dir.join(file), b"x").unwrap();
        }
        (outer, dir)
    }

    /// An image with the size and time of a file, whatever its path leads to.
    fn like(path: &str, file: &Path) -> IndexedImage {
        image_of(path.to_owned(), &file.metadata().unwrap())
    }

    #[cfg(unix)]
    #[test]
    fn no_path_leads_out_of_the_folder() {
        let (outer, dir) = folders();
        let secret = outer.path().join("secret.png");
        std::os::unix::fs::symlink("../secret.png", dir.join("link.png")).unwrap();
        assert!(resolve(&dir, &like("own.png", &dir.join("own.png"))).is_some());
        for path in [
            "../secret.png",
            "link.png",
            "gone.png",
            secret.to_str().unwrap(),
        ] {
            assert_eq!(resolve(&dir, &like(path, &secret)), None, "{path}");
        }
        let notes = like("notes.txt", &dir.join("notes.txt"));
        assert_eq!(resolve(&dir, &notes), None);
    }

    #[test]
    fn a_file_that_has_changed_is_not_the_one_indexed() {
        let (_outer, dir) = folders();
        let own = like("own.png", &dir.join("own.png"));
        std::fs::write(dir.join("own.png"), b"longer").unwrap();
        assert_eq!(resolve(&dir, &own), None);
    }

    #[test]
    fn others_are_found_in_place_of_those_that_are_gone() {
        let (_outer, dir) = folders();
        let own = like("own.png", &dir.join("own.png"));
        let mut images: Vec<IndexedImage> =
            (0..9).map(|at| image(&format!("gone-{at}.png"))).collect();
        images.push(own);
        let search = |k: usize| -> Result<Vec<Found>> {
            let positions = 0..images.len().min(k);
            let found = positions.map(|position| Found {
                position,
                cosine: 0.0,
            });
            Ok(found.collect())
        };
        let (found, others) = unchanged(&dir, &images, 1, search).unwrap();
        assert_eq!((found[0].position, found.len(), others), (9, 1, 9));
        let (found, others) = unchanged(&dir, &images[..9], 20, |k| {
            let mut found = search(k)?;
            found.truncate(9);
            Ok(found)
        })
        .unwrap();
        assert_eq!((found.len(), others), (0, 9));
        assert!(unchanged(&dir, &images, 0, search).unwrap().0.is_empty());
    }
}
