use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use clip_data::ShardSet;

use super::{Index, load};
use crate::ZeroShotError;

/// The scores of one or several folders.
#[derive(Debug)]
pub struct PairScores {
    /// Each shard's name, and the file of its scores.
    files: Vec<(String, PathBuf)>,
}

impl PairScores {
    /// Opens folders that [`score_shards`](super::score_shards) filled.
    ///
    /// # Errors
    /// [`ZeroShotError::Unscored`], [`ZeroShotError::Io`] and [`ZeroShotError::CorruptScores`];
    /// [`ZeroShotError::OtherScores`] if they are by different models.
    pub fn open(folders: &[PathBuf]) -> Result<Self, ZeroShotError> {
        let mut model = None;
        let mut files = Vec::new();
        for folder in folders {
            if !Index::path(folder).exists() {
                return Err(ZeroShotError::Unscored {
                    what: format!("in {}", folder.display()),
                });
            }
            let index = Index::read(folder)?;
            if *model.get_or_insert_with(|| index.model.clone()) != index.model {
                return Err(ZeroShotError::OtherScores {
                    folder: folder.clone(),
                    how: "by another model than the first folder's",
                });
            }
            let named = index.shards.into_iter().enumerate();
            files.extend(named.map(|(shard, name)| (name, Index::file(folder, shard))));
        }
        Ok(Self { files })
    }

    /// The scores of a set's shards, which may have moved since: what has no scores under its whole name is known by its
    /// file's.
    ///
    /// # Errors
    /// [`ZeroShotError::Unscored`].
    pub fn of(&self, shards: &ShardSet) -> Result<ShardScores, ZeroShotError> {
        let by_name = by_name(&self.files, |name| name);
        let by_file_name = by_name_of_file(&self.files);
        let mut seen = HashMap::new();
        let mut files = Vec::new();
        for shard in 0..shards.len() {
            let name = shards.name(shard);
            // Parts of a table come in its order.
            let part = seen.entry(name.clone()).or_insert(0);
            let own = by_name.get(name.as_str());
            let own = own.or_else(|| by_file_name.get(file_name(&name)));
            match own.and_then(|parts| parts.get(*part)) {
                Some(path) => files.push((*path).clone()),
                None => {
                    return Err(ZeroShotError::Unscored {
                        what: format!("of {name}"),
                    });
                }
            }
            *part += 1;
        }
        Ok(ShardScores {
            files,
            at: None,
            scores: HashMap::new(),
        })
    }
}

type Parts<'a> = HashMap<&'a str, Vec<&'a PathBuf>>;

fn by_name<'a>(files: &'a [(String, PathBuf)], key: impl Fn(&'a str) -> &'a str) -> Parts<'a> {
    let mut parts = Parts::new();
    for (name, path) in files {
        parts.entry(key(name)).or_default().push(path);
    }
    parts
}

/// Without files of one name in several folders: nobody could tell which is meant.
fn by_name_of_file(files: &[(String, PathBuf)]) -> Parts<'_> {
    let mut parts = by_name(files, file_name);
    let whole = by_name(files, |name| name);
    parts.retain(|short, found| {
        let longer = whole.iter().find(|(name, _)| file_name(name) == *short);
        longer.is_some_and(|(_, parts)| parts.len() == found.len())
    });
    parts
}

/// The last part of a path or address.
fn file_name(name: &str) -> &str {
    name.rsplit(['/', '\\']).next().unwrap_or(name)
}

/// The scores of a set's shards; those of one are in memory at a time.
#[derive(Debug)]
pub struct ShardScores {
    files: Vec<PathBuf>,
    at: Option<usize>,
    scores: HashMap<String, f32>,
}

impl ShardScores {
    /// The score of a sample; `None` if it could not be used when its shard was scored.
    ///
    /// # Errors
    /// [`ZeroShotError::UnfinishedScores`], [`ZeroShotError::Io`], [`ZeroShotError::CorruptScores`].
    pub fn get(&mut self, shard: usize, key: &str) -> Result<Option<f32>, ZeroShotError> {
        if self.at != Some(shard) {
            let (scores, about) = finished(&self.files[shard])?;
            self.scores = about.keys.into_iter().zip(scores).collect();
            self.at = Some(shard);
        }
        Ok(self.scores.get(key).copied())
    }

    /// The least score of the best `share` of all samples, `0 < share <= 1`; `None` without any.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn least_of_best(&self, share: f64) -> Result<Option<f32>, ZeroShotError> {
        let mut all = Vec::new();
        for path in &self.files {
            all.extend(finished(path)?.0);
        }
        if all.is_empty() {
            return Ok(None);
        }
        let best = ((all.len() as f64 * share).round() as usize).clamp(1, all.len());
        let (_, least, _) = all.select_nth_unstable_by(best - 1, |a, b| b.total_cmp(a));
        Ok(Some(*least))
    }
}

fn finished(path: &Path) -> Result<(Vec<f32>, super::About), ZeroShotError> {
    load(path)?.ok_or_else(|| ZeroShotError::UnfinishedScores {
        path: path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_moved_is_known_by_its_name_where_no_other_has_it() {
        let scores = PairScores {
            files: ["x/a.tar", "y/a.tar", "x/b.tar", "t.csv", "t.csv"]
                .iter()
                .enumerate()
                .map(|(at, name)| ((*name).to_owned(), PathBuf::from(at.to_string())))
                .collect(),
        };
        let of = |names: &[&str]| {
            let paths = names.iter().map(PathBuf::from).collect();
            scores.of(&ShardSet::from_paths(paths))
        };
        let files = of(&["y/a.tar", "z/b.tar", "t.csv", "z/t.csv"])
            .unwrap()
            .files;
        assert_eq!(files, ["1", "2", "3", "3"].map(PathBuf::from));
        let parts = of(&["t.csv", "t.csv"]).unwrap().files;
        assert_eq!(parts, ["3", "4"].map(PathBuf::from));
        for unknown in [&["z/a.tar"][..], &["c.tar"], &["t.csv", "t.csv", "t.csv"]] {
            let error = of(unknown).unwrap_err();
            assert!(matches!(error, ZeroShotError::Unscored { .. }), "{error}");
        }
    }
}
