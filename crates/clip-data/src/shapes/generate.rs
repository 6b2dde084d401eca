use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use clip_files::{NewFolder, sha256};

use super::dataset::{CLASSES, CLASSES_FILE, Split, TEMPLATES, TEMPLATES_FILE, shard_file};
use super::manifest::{Found, MANIFEST_FILE, Manifest, inspect, remove};
use super::shard::write_shard;
use super::split::PairSplit;
use super::{ShapesConfig, ShapesDataset};
use crate::DataError;

/// Makes the dataset in `dir`, or finds that it is there already.
///
/// A folder whose parameters differ or whose files are damaged is made anew. It is written beside `dir` and renamed
/// when complete, so that a run cut off leaves no half of it, and of several programs at once one writes and the
/// others wait. The bytes depend on `config` alone, not on the number of threads.
///
/// # Errors
/// [`DataError::BadSetting`], [`DataError::BadPattern`] for a folder whose name no shard pattern can hold,
/// [`DataError::ForeignFolder`] if `dir` holds other files, [`DataError::Folder`] and [`DataError::Io`].
pub fn generate(config: &ShapesConfig, dir: &Path) -> Result<ShapesDataset, DataError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    generate_on(config, dir, threads)
}

fn generate_on(
    config: &ShapesConfig,
    dir: &Path,
    threads: usize,
) -> Result<ShapesDataset, DataError> {
    config.validate()?;
    let dataset = |reused| ShapesDataset::new(config, dir, reused);
    dataset(true)?;
    // Before the lock, which a finished dataset in a folder that can't be written to doesn't need.
    if is_whole(config, dir)? {
        return dataset(true);
    }
    let Some(folder) = NewFolder::create_once(dir, || is_whole(config, dir))? else {
        return dataset(true);
    };
    write(config, folder.path(), threads)?;
    remove(dir)?;
    folder.publish()?;
    dataset(false)
}

fn is_whole(config: &ShapesConfig, dir: &Path) -> Result<bool, DataError> {
    match inspect(dir, config)? {
        Found::Whole => Ok(true),
        Found::Replaceable => Ok(false),
        Found::Foreign(file) => Err(DataError::ForeignFolder {
            path: dir.to_owned(),
            file,
        }),
    }
}

fn write(config: &ShapesConfig, dir: &Path, threads: usize) -> Result<(), DataError> {
    let jobs: Vec<(Split, usize)> = Split::ALL
        .into_iter()
        .flat_map(|split| (0..split.shards(config)).map(move |shard| (split, shard)))
        .collect();
    let pairs = PairSplit::new();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut written = Vec::new();
        while let Some(&(split, shard)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let name = shard_file(split, shard);
            let digest = write_shard(dir, config, split, &pairs, shard)
                .map_err(clip_files::io("write", dir.join(&name)))?;
            written.push((name, digest));
        }
        Ok::<_, DataError>(written)
    };
    let mut files = BTreeMap::new();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.clamp(1, jobs.len()))
            .map(|_| scope.spawn(work))
            .collect();
        for worker in workers {
            let written = worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            files.extend(written?);
        }
        Ok::<_, DataError>(())
    })?;
    for (name, text) in [(CLASSES_FILE, CLASSES), (TEMPLATES_FILE, TEMPLATES)] {
        write_text(dir, name, text)?;
        files.insert(name.to_owned(), sha256::of_bytes(text.as_bytes()));
    }
    write_text(dir, MANIFEST_FILE, &Manifest::new(config, files).to_json())
}

fn write_text(dir: &Path, name: &str, text: &str) -> Result<(), DataError> {
    let path = dir.join(name);
    Ok(std::fs::write(&path, text).map_err(clip_files::io("write", path))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> ShapesConfig {
        ShapesConfig {
            train: 1_100,
            val: 30,
            zeroshot: 20,
            image_size: 32,
            ..ShapesConfig::default()
        }
    }

    fn bytes(dir: &Path) -> BTreeMap<String, Vec<u8>> {
        std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                (name, std::fs::read(entry.path()).unwrap())
            })
            .collect()
    }

    #[test]
    fn bytes_depend_on_the_configuration_and_not_on_threads() {
        let root = tempfile::tempdir().unwrap();
        let made = |name: &str, config: &ShapesConfig, threads| {
            let dir = root.path().join(name);
            assert!(!generate_on(config, &dir, threads).unwrap().reused);
            bytes(&dir)
        };
        let one = made("one", &small(), 1);
        let names: Vec<&str> = one.keys().map(String::as_str).collect();
        let expected = [
            "classes.txt",
            "shapes.json",
            "templates.txt",
            "train-000000.tar",
            "train-000001.tar",
            "val-000000.tar",
            "zeroshot-seen-000000.tar",
            "zeroshot-unseen-000000.tar",
        ];
        assert_eq!(names, expected);
        assert!(one == made("three", &small(), 3));
        let other = ShapesConfig { seed: 1, ..small() };
        let other = made("other", &other, 2);
        assert!(one["val-000000.tar"] != other["val-000000.tar"]);
    }

    #[test]
    fn a_whole_folder_is_reused_and_any_other_of_ours_made_anew() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("new/shapes");
        let config = ShapesConfig {
            train: 20,
            ..small()
        };
        let reused = |config: &ShapesConfig| generate(config, &dir).unwrap().reused;
        assert!(!reused(&config));
        let first = bytes(&dir);
        assert!(reused(&config));

        let val = dir.join("val-000000.tar");
        let mut torn = first["val-000000.tar"].clone();
        torn.truncate(4_096);
        std::fs::write(&val, &torn).unwrap();
        assert!(!reused(&config), "a file cut off");
        std::fs::remove_file(&val).unwrap();
        assert!(!reused(&config), "a file gone");
        std::fs::write(dir.join("train-000001.tar"), b"").unwrap();
        assert!(!reused(&config), "a file too many");
        std::fs::write(dir.join(MANIFEST_FILE), b"").unwrap();
        assert!(!reused(&config), "an empty manifest");
        assert!(bytes(&dir) == first);

        let other = ShapesConfig { val: 31, ..config };
        assert!(!reused(&other), "other parameters");
        // What a program cut off while writing leaves behind.
        let partial = root.path().join("new/.shapes.partial");
        std::fs::create_dir(&partial).unwrap();
        std::fs::write(partial.join("train-000000.tar"), b"half").unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(!reused(&other));
        assert!(!partial.exists() && reused(&other));
    }

    #[test]
    fn files_of_others_are_never_removed() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("mine");
        std::fs::create_dir(&dir).unwrap();
        let config = ShapesConfig {
            train: 1,
            val: 1,
            zeroshot: 1,
            ..small()
        };
        // Shards of one's own, in names like ours.
        std::fs::write(dir.join("train-000000.tar"), b"mine").unwrap();
        let error = generate(&config, &dir).unwrap_err().to_string();
        assert!(
            error.contains("train-000000.tar") && error.contains("another folder"),
            "{error}"
        );
        assert_eq!(
            std::fs::read(dir.join("train-000000.tar")).unwrap(),
            b"mine"
        );

        std::fs::remove_file(dir.join("train-000000.tar")).unwrap();
        assert!(
            !generate(&config, &dir).unwrap().reused,
            "an empty folder will do"
        );
        std::fs::write(dir.join("notes.md"), b"mine").unwrap();
        let error = generate(&config, &dir).unwrap_err().to_string();
        assert!(error.contains("notes.md"), "{error}");
        assert!(dir.join("notes.md").exists());
    }

    #[test]
    fn several_at_once_make_one_dataset() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("shapes");
        let config = ShapesConfig {
            train: 40,
            ..small()
        };
        let made = std::thread::scope(|scope| {
            let runs: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| generate(&config, &dir).unwrap()))
                .collect();
            runs.into_iter()
                .map(|run| run.join().unwrap())
                .filter(|dataset| !dataset.reused)
                .count()
        });
        assert_eq!(made, 1);
    }
}
