use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use clip_files::PathLock;
use serde::{Deserialize, Serialize};

use super::file::{self, About};
use crate::ZeroShotError;

const INDEX: &str = "scores.json";
const LOCK: &str = ".lock";

/// What a folder's scores are of.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Index {
    /// Hash of the model.
    pub(super) model: String,
    /// Whether features are kept beside the scores.
    pub(super) features: bool,
    /// Names of the shards. A table or folder has a shard for every ten thousand samples or so, of one name.
    pub(super) shards: Vec<String>,
}

/// A folder of scores.
#[derive(Debug)]
pub(super) struct ScoreFolder {
    path: PathBuf,
    pub(super) index: Index,
    /// Held while scores are made.
    _lock: Option<PathLock>,
}

impl ScoreFolder {
    /// Opens a folder to read its scores.
    ///
    /// # Errors
    /// [`ZeroShotError::Unscored`], [`ZeroShotError::Io`] and [`ZeroShotError::CorruptScores`].
    pub(super) fn open(path: &Path) -> Result<Self, ZeroShotError> {
        let index = read(path)?.ok_or_else(|| ZeroShotError::Unscored {
            folder: path.to_owned(),
        })?;
        Ok(Self {
            path: path.to_owned(),
            index,
            _lock: None,
        })
    }

    /// Makes a folder of such scores, or takes one that has some of them; nobody else does until it is dropped.
    ///
    /// # Errors
    /// [`ZeroShotError::OtherScores`] if it has others, or anything else; [`ZeroShotError::ScoresBusy`],
    /// [`ZeroShotError::Io`] and [`ZeroShotError::CorruptScores`].
    pub(super) fn take(path: &Path, index: Index) -> Result<Self, ZeroShotError> {
        let other = |how| ZeroShotError::OtherScores {
            folder: path.to_owned(),
            how,
        };
        std::fs::create_dir_all(path).map_err(clip_files::io("create", path))?;
        // Before anything is made in somebody's data.
        if read(path)?.is_none() && holds_files(path)? {
            return Err(ZeroShotError::NoScoreFolder {
                folder: path.to_owned(),
            });
        }
        let lock = lock(path)?;
        // Again, as another process may have begun since.
        let there = read(path)?;
        let known = there.as_ref();
        let differs =
            |differs: fn(&Index, &Index) -> bool| known.is_some_and(|there| differs(there, &index));
        // A set that has got more shards since goes on.
        if differs(|there, new| !new.shards.starts_with(&there.shards)) {
            return Err(other("of other shards"));
        }
        for (is_other, how) in [
            (
                differs(|there, new| there.model != new.model),
                "by another model",
            ),
            (
                differs(|there, new| there.features && !new.features),
                "kept with features",
            ),
            (
                differs(|there, new| new.features && !there.features),
                "kept without features",
            ),
        ] {
            if is_other {
                return Err(other(how));
            }
        }
        if known != Some(&index) {
            // invariant: strings always have a JSON form.
            let text = serde_json::to_vec_pretty(&index).expect("invariant: it has a JSON form");
            clip_files::replace(&path.join(INDEX), &text)?;
        }
        Ok(Self {
            path: path.to_owned(),
            index,
            _lock: Some(lock),
        })
    }

    /// Where the scores of a shard are.
    pub(super) fn file(&self, shard: usize) -> PathBuf {
        self.path.join(format!("{shard:06}.safetensors"))
    }

    /// Where the features of a shard are, if they are kept.
    pub(super) fn features_file(&self, shard: usize) -> PathBuf {
        self.path.join(format!("{shard:06}.features.safetensors"))
    }

    /// Where a shard of a server is while it is scored.
    pub(super) fn copy(&self) -> PathBuf {
        self.path.join(".copy")
    }

    /// The scores of a shard.
    ///
    /// # Errors
    /// [`ZeroShotError::UnfinishedScores`], [`ZeroShotError::Io`] and [`ZeroShotError::CorruptScores`].
    pub(super) fn finished(&self, shard: usize) -> Result<(Vec<f32>, About), ZeroShotError> {
        let path = self.file(shard);
        if !path.exists() {
            return Err(ZeroShotError::UnfinishedScores { path });
        }
        let (scores, about) = file::load(&path)?;
        if about.model != self.index.model || about.shard != self.index.shards[shard] {
            return Err(ZeroShotError::CorruptScores {
                path,
                reason: format!("it is not what {INDEX} says"),
            });
        }
        Ok((scores, about))
    }
}

/// What a folder says that it has; `None` if it says nothing.
fn read(folder: &Path) -> Result<Option<Index>, ZeroShotError> {
    let path = folder.join(INDEX);
    match std::fs::read(&path) {
        Ok(text) => match serde_json::from_slice(&text) {
            Ok(index) => Ok(Some(index)),
            Err(error) => Err(ZeroShotError::CorruptScores {
                path,
                reason: error.to_string(),
            }),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(clip_files::io("read", &path)(error).into()),
    }
}

/// Whether there is anything but what a pass begins with.
fn holds_files(folder: &Path) -> Result<bool, ZeroShotError> {
    let entries = std::fs::read_dir(folder).map_err(clip_files::io("read", folder))?;
    let mut names = entries
        .filter_map(Result::ok)
        .map(|entry| entry.file_name());
    Ok(names.any(|name| name != LOCK && !name.to_string_lossy().starts_with(INDEX)))
}

fn lock(folder: &Path) -> Result<PathLock, ZeroShotError> {
    let path = folder.join(LOCK);
    let lock = PathLock::try_take(&path).map_err(clip_files::io("lock", path))?;
    lock.ok_or_else(|| ZeroShotError::ScoresBusy {
        folder: folder.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_at_a_time_scores_into_a_folder_and_leaves_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scores");
        let take = || {
            let index = Index {
                model: "a hash".to_owned(),
                features: false,
                shards: vec!["a.tar".to_owned()],
            };
            ScoreFolder::take(&path, index)
        };
        let held = take().unwrap();
        let busy = take().unwrap_err();
        assert!(matches!(busy, ZeroShotError::ScoresBusy { .. }), "{busy}");
        drop(held);
        if cfg!(unix) {
            assert!(!path.join(LOCK).exists());
        }
        assert!(take().is_ok());
    }
}
