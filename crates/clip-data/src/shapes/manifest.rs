use std::{collections::BTreeMap, path::Path};

use clip_files::sha256;
use serde::{Deserialize, Serialize};

use super::ShapesConfig;
use super::dataset::{CLASSES_FILE, Split, TEMPLATES_FILE};
use crate::DataError;

/// The file that says what a folder holds; it is written last.
pub(super) const MANIFEST_FILE: &str = "shapes.json";

/// Rises whenever a configuration gives other scenes, captions or files than it gave before.
const VERSION: u32 = 4;

/// What a folder was made from, and the hashes of its files.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    version: u32,
    config: ShapesConfig,
    /// SHA-256 of each file.
    files: BTreeMap<String, String>,
}

/// What a folder is, seen by someone who wants to put a dataset there.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The dataset that is wanted, whole.
    Whole,
    /// Nothing, or only files of ours, which may be replaced.
    Replaceable,
    /// A file that isn't ours, and must stay.
    Foreign(String),
}

impl Manifest {
    pub(super) fn new(config: &ShapesConfig, files: BTreeMap<String, String>) -> Self {
        Self {
            version: VERSION,
            config: config.clone(),
            files,
        }
    }

    pub(super) fn to_json(&self) -> String {
        let json = serde_json::to_string_pretty(self);
        // invariant: numbers and strings under string keys are always JSON.
        json.expect("a manifest is JSON") + "\n"
    }
}

/// Looks at a folder, and reads all of its files if its parameters are those wanted.
pub(super) fn inspect(dir: &Path, config: &ShapesConfig) -> Result<Found, DataError> {
    let names = match list(dir) {
        Ok(names) => names,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Found::Replaceable);
        }
        Err(error) => return Err(clip_files::io("read", dir)(error).into()),
    };
    let has_manifest = names.iter().any(|name| name == MANIFEST_FILE);
    // Without a manifest, even names like ours may be somebody's own shards.
    let foreign = |name: &&String| !has_manifest || !is_ours(name);
    if let Some(foreign) = names.iter().find(foreign) {
        return Ok(Found::Foreign(foreign.clone()));
    }
    if !has_manifest {
        return Ok(Found::Replaceable);
    }
    let manifest = std::fs::read(dir.join(MANIFEST_FILE))
        .ok()
        .and_then(|json| serde_json::from_slice::<Manifest>(&json).ok());
    let whole = manifest.is_some_and(|manifest| {
        manifest.version == VERSION
            && manifest.config == *config
            && manifest.files.len() + 1 == names.len()
            && manifest.files.iter().all(|(name, hash)| {
                let found = sha256::of_file(&dir.join(name));
                found.is_ok_and(|found| found.sha256 == *hash)
            })
    });
    Ok(if whole {
        Found::Whole
    } else {
        Found::Replaceable
    })
}

/// Removes a folder's files, all of which have names of ours, and the folder.
pub(super) fn remove(dir: &Path) -> Result<(), DataError> {
    let names = match list(dir) {
        Ok(names) => names,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(clip_files::io("read", dir)(error).into()),
    };
    // The manifest last: a folder that is half removed is still known to be ours.
    let (manifest, files): (Vec<String>, Vec<String>) =
        names.into_iter().partition(|name| name == MANIFEST_FILE);
    for name in files.iter().chain(&manifest).filter(|name| is_ours(name)) {
        let path = dir.join(name);
        std::fs::remove_file(&path).map_err(clip_files::io("remove", path))?;
    }
    Ok(std::fs::remove_dir(dir).map_err(clip_files::io("remove", dir))?)
}

fn list(dir: &Path) -> std::io::Result<Vec<String>> {
    std::fs::read_dir(dir)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

fn is_ours(name: &str) -> bool {
    let is_shard = |split: Split| {
        name.strip_prefix(split.name())
            .and_then(|rest| rest.strip_prefix('-')?.strip_suffix(".tar"))
            .is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    [MANIFEST_FILE, CLASSES_FILE, TEMPLATES_FILE].contains(&name)
        || Split::ALL.into_iter().any(is_shard)
}
