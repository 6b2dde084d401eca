//! A run's directory a second time, where its machine can't take it along.

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, File},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use clip_data::RemoteFolder;
use clip_files::IoError;

use super::{
    folder::{self, step_of},
    unit::STATE,
};
use crate::{
    TrainError,
    config::ConfigLayers,
    run::{CHECKPOINTED, CONFIG},
};

/// The folder of checkpoints, in a run's directory and in its mirror.
pub(crate) const CHECKPOINTS: &str = "checkpoints";

/// A copy of a run's directory in another folder, or in an object store, laid out as the directory is.
///
/// Of a checkpoint `state.json` comes last and goes first: a folder without it is none, wherever the process or the
/// connection ended.
#[derive(Clone, Debug)]
pub struct Mirror {
    name: String,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Folder(PathBuf),
    Remote(RemoteFolder),
}

/// The files of a checkpoint, opened: they can be read after it was removed.
pub(super) struct Opened {
    pub(super) step: u64,
    /// The step of the best one, which stays.
    pub(super) best: Option<u64>,
    files: Vec<(String, File)>,
}

impl Opened {
    pub(super) fn of(checkpoint: &Path, step: u64, best: Option<u64>) -> Result<Self, TrainError> {
        let files = files_in(checkpoint)?.into_iter().map(|(name, path)| {
            let file = File::open(&path).map_err(clip_files::io("read", path))?;
            Ok((name, file))
        });
        Ok(Self {
            step,
            best,
            files: files.collect::<Result<_, TrainError>>()?,
        })
    }
}

impl Mirror {
    /// A folder of this machine, or one at `s3://`, `gs://` or `az://`; nothing is made or asked yet.
    ///
    /// # Errors
    /// [`TrainError::Data`] if it is an address of another kind.
    pub fn open(place: &str) -> Result<Self, TrainError> {
        Ok(Self {
            name: place.to_owned(),
            place: if Self::is_address(place) {
                Place::Remote(RemoteFolder::open(place)?)
            } else {
                Place::Folder(place.into())
            },
        })
    }

    /// Whether a place is an address, and no path of this machine.
    pub fn is_address(place: &str) -> bool {
        place.contains("://")
    }

    /// The settings of the run that is in it, if one is.
    ///
    /// # Errors
    /// Where the place can't be read, and what [`ConfigLayers::text`] refuses.
    pub fn config_layers(&self) -> Result<Option<ConfigLayers>, TrainError> {
        let mut text = Vec::new();
        if !self.names()?.iter().any(|name| name == CONFIG) {
            return Ok(None);
        }
        self.get(CONFIG, &mut text)?;
        let origin = format!("{self}/{CONFIG}");
        ConfigLayers::default()
            .text(&String::from_utf8_lossy(&text), &origin)
            .map(Some)
    }

    /// Tries whether files can be written and removed there.
    ///
    /// # Errors
    /// [`TrainError::Io`] or [`TrainError::Data`] if they can't.
    pub fn check_writable(&self) -> Result<(), TrainError> {
        match &self.place {
            Place::Remote(folder) => Ok(folder.check_writable()?),
            Place::Folder(folder) => {
                fs::create_dir_all(folder).map_err(clip_files::io("create", folder))?;
                let path = folder.join(".writable");
                fs::write(&path, "").map_err(clip_files::io("write", &path))?;
                Ok(fs::remove_file(&path).map_err(clip_files::io("remove", path))?)
            }
        }
    }

    /// Refuses the run's own directory, and what lies in it.
    pub(super) fn check_is_apart(&self, run: &Path) -> Result<(), TrainError> {
        let Place::Folder(folder) = &self.place else {
            return Ok(());
        };
        fs::create_dir_all(folder).map_err(clip_files::io("create", folder))?;
        let real = |path: &Path| fs::canonicalize(path).map_err(clip_files::io("read", path));
        if real(folder)?.starts_with(real(run)?) {
            return Err(TrainError::Config {
                origin: "checkpoint.mirror".to_owned(),
                reason: format!(
                    "{self} is in the run's own directory; name a folder of another disk, or an address"
                ),
            });
        }
        Ok(())
    }

    /// Copies what lies at the top of a run's directory: settings, tokenizer, metrics, the report. That the run has a
    /// checkpoint isn't so here before one is copied.
    ///
    /// # Errors
    /// Where something can't be read here or written there.
    pub fn save_records(&self, run: &Path) -> Result<(), TrainError> {
        let mut files = files_in(run)?;
        files.retain(|(name, _)| name != CHECKPOINTED);
        self.save_files(files, "")
    }

    /// Copies the record that the run in `run` has a checkpoint, as is so here now.
    pub(super) fn record_checkpoint(&self, run: &Path) -> Result<(), TrainError> {
        self.save_files(vec![(CHECKPOINTED.to_owned(), run.join(CHECKPOINTED))], "")
    }

    /// Copies a folder of the run's directory, such as `model`.
    ///
    /// # Errors
    /// As [`save_records`](Self::save_records).
    pub fn save_folder(&self, folder: &Path) -> Result<(), TrainError> {
        let name = folder.file_name().unwrap_or_default();
        self.save_files(files_in(folder)?, &format!("{}/", name.to_string_lossy()))
    }

    fn save_files(&self, files: Vec<(String, PathBuf)>, prefix: &str) -> Result<(), TrainError> {
        for (name, path) in files {
            let mut file = match File::open(&path) {
                // Written anew at this moment under another name, which isn't wanted.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                file => file.map_err(clip_files::io("read", &path))?,
            };
            self.put(&format!("{prefix}{name}"), &mut file)?;
        }
        Ok(())
    }

    /// Refuses to go on where the settings in it are no longer those of the run in `run`: two began at the same moment.
    pub(super) fn check_is_of(&self, run: &Path) -> Result<(), TrainError> {
        let own = run.join(CONFIG);
        let own = fs::read(&own).map_err(clip_files::io("read", own))?;
        let mut there = Vec::new();
        if self.names()?.iter().any(|name| name == CONFIG) {
            self.get(CONFIG, &mut there)?;
        }
        if there.is_empty() || there == own {
            return Ok(());
        }
        Err(TrainError::SharedMirror {
            place: self.to_string(),
        })
    }

    /// Whether it has the checkpoint after `step`, to its end.
    pub(super) fn has(&self, step: u64) -> Result<bool, TrainError> {
        Ok(whole_steps(&self.names()?).contains(&step))
    }

    /// Copies a checkpoint, then removes all but the newest `keep` and the best, as the directory does.
    pub(super) fn save(&self, checkpoint: &mut Opened, keep: usize) -> Result<(), TrainError> {
        let step = checkpoint.step;
        let folder = checkpoint_name(step);
        let state = format!("{folder}/{STATE}");
        // Of the same step may be another, from before a roll-back.
        self.remove(&state)?;
        // `state.json` last.
        checkpoint.files.sort_by_key(|(name, _)| name == STATE);
        for (name, file) in &mut checkpoint.files {
            self.put(&format!("{folder}/{name}"), file)?;
        }
        let names = self.names()?;
        let kept: BTreeSet<u64> = whole_steps(&names)
            .into_iter()
            .filter(|other| *other <= step)
            .rev()
            .take(keep)
            .collect();
        let mut gone: Vec<&String> = names
            .iter()
            .filter(|name| {
                let of = checkpoint_step(name);
                of.is_some_and(|of| !kept.contains(&of) && checkpoint.best != Some(of))
            })
            .collect();
        gone.sort_by_key(|name| !name.ends_with(STATE));
        gone.into_iter().try_for_each(|name| self.remove(name))
    }

    pub(super) fn get_file(&self, name: &str, to: &Path) -> Result<(), TrainError> {
        let mut file = File::create(to).map_err(clip_files::io("write", to))?;
        self.get(name, &mut file)?;
        Ok(file.sync_all().map_err(clip_files::io("write", to))?)
    }

    pub(super) fn get(&self, name: &str, to: &mut impl io::Write) -> Result<(), TrainError> {
        match &self.place {
            Place::Remote(folder) => Ok(folder.get(name, to)?),
            Place::Folder(folder) => {
                let path = folder.join(name);
                let copied = File::open(&path).and_then(|mut file| io::copy(&mut file, to));
                Ok(copied.map(drop).map_err(clip_files::io("read", path))?)
            }
        }
    }

    fn put(&self, name: &str, file: &mut File) -> Result<(), TrainError> {
        match &self.place {
            Place::Remote(folder) => Ok(folder.put(name, file)?),
            Place::Folder(folder) => Ok(copy_synced(file, &folder.join(name))?),
        }
    }

    fn remove(&self, name: &str) -> Result<(), TrainError> {
        match &self.place {
            Place::Remote(folder) => Ok(folder.remove(name)?),
            Place::Folder(folder) => {
                let path = folder.join(name);
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => {
                        return Err(clip_files::io("remove", path)(error).into());
                    }
                    _ => {}
                }
                if let Some(folder) = path.parent() {
                    // The last file's folder goes with it; another's stays.
                    let _ = fs::remove_dir(folder);
                }
                Ok(())
            }
        }
    }

    /// All files, by their paths from here; also hidden ones, which a process that was killed has left.
    pub(super) fn names(&self) -> Result<Vec<String>, TrainError> {
        match &self.place {
            Place::Remote(folder) => Ok(folder.names()?),
            Place::Folder(folder) => {
                let mut names = Vec::new();
                names_in(folder, "", &mut names)?;
                names.sort_unstable();
                Ok(names)
            }
        }
    }
}

impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name.trim_end_matches('/'))
    }
}

pub(super) fn checkpoint_name(step: u64) -> String {
    format!("{CHECKPOINTS}/{}", folder::name(step))
}

/// The checkpoint that a file belongs to.
fn checkpoint_step(name: &str) -> Option<u64> {
    let (folder, _) = name
        .strip_prefix(CHECKPOINTS)?
        .strip_prefix('/')?
        .split_once('/')?;
    step_of(folder)
}

/// Steps whose checkpoints arrived to their end, rising.
pub(super) fn whole_steps(names: &[String]) -> Vec<u64> {
    let states = names
        .iter()
        .filter(|name| name.rsplit('/').next() == Some(STATE));
    let mut steps: Vec<u64> = states.filter_map(|name| checkpoint_step(name)).collect();
    steps.sort_unstable();
    steps
}

/// Whether a file is one that is being written, or was when its process ended.
pub(super) fn is_hidden(file: &str) -> bool {
    file.starts_with('.')
}

/// The files of a folder by name, but for hidden ones, as those are that are being written.
fn files_in(folder: &Path) -> Result<Vec<(String, PathBuf)>, TrainError> {
    let mut files = Vec::new();
    let entries = fs::read_dir(folder).map_err(clip_files::io("read", folder))?;
    for entry in entries {
        let path = entry.map_err(clip_files::io("read", folder))?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_file() && !is_hidden(&name) {
            files.push((name, path));
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn names_in(folder: &Path, prefix: &str, names: &mut Vec<String>) -> Result<(), TrainError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(clip_files::io("read", folder))?,
    };
    for entry in entries {
        let path = entry.map_err(clip_files::io("read", folder))?.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{prefix}{file}");
        if path.is_dir() {
            names_in(&path, &format!("{name}/"), names)?;
        } else {
            names.push(name);
        }
    }
    Ok(())
}

/// Writes a file that is there as a whole or as it was.
fn copy_synced(from: &mut File, to: &Path) -> Result<(), IoError> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(clip_files::io("create", folder))?;
    }
    clip_files::replace_with(to, |partial| {
        io::copy(from, &mut File::create(partial)?).map(drop)
    })
}
