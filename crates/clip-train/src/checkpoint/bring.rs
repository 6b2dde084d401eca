//! The way of a run from its mirror to its directory, and which of both is ahead.

use std::{fs, path::Path};

use clip_files::{UnfinishedFolder, sync_folder};

use super::{
    Checkpoints, Mirror, RunState, folder,
    mirror::{CHECKPOINTS, checkpoint_name, is_hidden, whole_steps},
    unit::{Progress, STATE, progress_of, read},
};
use crate::{RunDir, TrainError, run::CONFIG};

impl Mirror {
    /// Refuses to go on from `checkpoints`, those of the run's directory, where the run has come further in here: as on
    /// a machine that it left and comes back to. What it did meanwhile would be removed.
    ///
    /// # Errors
    /// [`TrainError::MirrorAhead`], and where something can't be read here or there.
    pub fn check_not_ahead(
        &self,
        run: &RunDir,
        checkpoints: &Checkpoints,
    ) -> Result<(), TrainError> {
        let Some(there) = self.newest()? else {
            return Ok(());
        };
        let here = match checkpoints.latest() {
            Ok(found) => found.map(|(checkpoint, _)| checkpoint.state.progress()),
            Err(TrainError::NoUsableCheckpoint { .. }) => None,
            Err(error) => return Err(error),
        };
        // A directory without any is behind, too.
        if here >= Some(there) {
            return Ok(());
        }
        Err(TrainError::MirrorAhead {
            place: self.to_string(),
            path: run.path().to_owned(),
            there: there.step,
            here: here.map(|here| here.step),
        })
    }

    /// How far the run has come by its newest checkpoint here that tells it.
    fn newest(&self) -> Result<Option<Progress>, TrainError> {
        for step in whole_steps(&self.names()?).into_iter().rev() {
            let mut state = Vec::new();
            self.get(&format!("{}/{STATE}", checkpoint_name(step)), &mut state)?;
            if let Some(progress) = progress_of(&state) {
                return Ok(Some(progress));
            }
        }
        Ok(None)
    }

    /// Brings the run to a directory that holds none, with its newest whole checkpoint and the best. Returns the step
    /// of the newest, and what is wrong with newer ones; `None` if it has no checkpoint.
    ///
    /// # Errors
    /// [`TrainError::NoUsableCheckpoint`] if all are damaged, and what [`RunDir::create`] refuses, but for checkpoints of an
    /// attempt that was cut off, none of which is newer than those here; [`TrainError::Io`] or [`TrainError::Data`] where
    /// something can't be read there or written here.
    pub fn restore(&self, run: &Path) -> Result<Option<(u64, Vec<TrainError>)>, TrainError> {
        let mut names = self.names()?;
        names.retain(|name| !is_hidden(name.rsplit('/').next().unwrap_or_default()));
        let steps = whole_steps(&names);
        if steps.is_empty() || !names.iter().any(|name| name == CONFIG) {
            return Ok(None);
        }
        let stray = Checkpoints::new(run.join(CHECKPOINTS), 1).newest()?;
        if stray > steps.last().copied() {
            return Err(TrainError::StrayCheckpoints {
                path: run.to_owned(),
                missing: CONFIG.to_owned(),
            });
        }
        let _held = RunDir::create_to_bring(run)?;
        let checkpoints = run.join(CHECKPOINTS);
        let mut damaged = Vec::new();
        for &step in steps.iter().rev() {
            match self.restore_checkpoint(&names, step, &checkpoints) {
                Ok(state) => {
                    let best = state.best.map(|best| best.step);
                    let best = best.filter(|best| *best != step && steps.contains(best));
                    if let Some(best) = best {
                        self.restore_best(&names, best, &checkpoints)?;
                    }
                    self.restore_records(&names, run)?;
                    return Ok(Some((step, damaged)));
                }
                Err(error @ TrainError::DamagedCheckpoint { .. }) => damaged.push(error),
                Err(error) => return Err(error),
            }
        }
        let damaged: Vec<String> = damaged.iter().map(ToString::to_string).collect();
        Err(TrainError::NoUsableCheckpoint {
            path: self.to_string().into(),
            damaged: damaged.join("; "),
        })
    }

    /// The run goes on without it, if need be.
    fn restore_best(
        &self,
        names: &[String],
        step: u64,
        checkpoints: &Path,
    ) -> Result<(), TrainError> {
        match self.restore_checkpoint(names, step, checkpoints) {
            Err(error @ TrainError::DamagedCheckpoint { .. }) => {
                log::warn!("{error}; the run goes on without its best checkpoint");
                Ok(())
            }
            restored => restored.map(drop),
        }
    }

    fn restore_checkpoint(
        &self,
        names: &[String],
        step: u64,
        checkpoints: &Path,
    ) -> Result<RunState, TrainError> {
        let path = checkpoints.join(folder::name(step));
        let partial = path.with_extension(folder::PARTIAL);
        fs::create_dir_all(checkpoints).map_err(clip_files::io("create", checkpoints))?;
        // Removed if anything fails.
        let unfinished =
            UnfinishedFolder::create(&partial).map_err(clip_files::io("create", &partial))?;
        let prefix = format!("{}/", checkpoint_name(step));
        for name in names {
            if let Some(file) = name.strip_prefix(&prefix) {
                self.get_file(name, &partial.join(file))?;
            }
        }
        let found = read(&partial).map_err(|error| match error {
            TrainError::DamagedCheckpoint { reason, .. } => TrainError::DamagedCheckpoint {
                path: format!("{self}/{}", checkpoint_name(step)).into(),
                reason,
            },
            error => error,
        })?;
        unfinished.finish(|| -> Result<(), TrainError> {
            folder::remove(&path)?;
            Ok(fs::rename(&partial, &path).map_err(clip_files::io("write", &path))?)
        })?;
        sync_folder(checkpoints);
        Ok(found.state)
    }

    /// What lies beside the checkpoints. A directory is a run's by its settings, which come last.
    fn restore_records(&self, names: &[String], run: &Path) -> Result<(), TrainError> {
        for name in names
            .iter()
            .filter(|name| !name.contains('/') && *name != CONFIG)
        {
            self.get_file(name, &run.join(name))?;
        }
        let mut config = Vec::new();
        self.get(CONFIG, &mut config)?;
        Ok(clip_files::replace(&run.join(CONFIG), &config)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkpoint::{Best, mirror::Opened, unit::test_contents as contents},
        config::RunConfig,
        run::CHECKPOINTED,
    };

    fn state((rollbacks, step): (u32, u64)) -> RunState {
        RunState {
            step,
            rollbacks,
            ..RunState::default()
        }
    }

    /// The checkpoints of a folder that is a mirror, with those of these states.
    fn mirrored(folder: &Path, states: impl IntoIterator<Item = RunState>) -> Checkpoints {
        fs::create_dir_all(folder).unwrap();
        let checkpoints = Checkpoints::new(folder.join(CHECKPOINTS), 9);
        for state in states {
            checkpoints.save(&state, contents()).unwrap();
        }
        checkpoints
    }

    #[test]
    fn a_run_is_refused_where_its_mirror_is_ahead() {
        type Done = (u32, u64);
        let cases: [(&[Done], &[Done], Option<&str>); 8] = [
            (&[(0, 90)], &[(0, 80), (0, 90)], None),
            (&[(0, 90)], &[(0, 80)], None),
            (&[(0, 90)], &[], None),
            (&[], &[], None),
            (
                &[(0, 90)],
                &[(0, 140), (0, 150)],
                Some("of step 150, and here of step 90."),
            ),
            (&[], &[(0, 10)], Some("of step 10, and here is none.")),
            // It went back from step 100, whose copy was there still when it was killed.
            (&[(1, 95)], &[(0, 90), (0, 100)], None),
            // It went back elsewhere.
            (
                &[(0, 100)],
                &[(1, 95)],
                Some("of step 95, and here of step 100."),
            ),
        ];
        for (here, there, words) in cases {
            let dir = tempfile::tempdir().unwrap();
            let run = RunDir::create(&dir.path().join("run")).unwrap();
            let checkpoints = mirrored(run.path(), here.iter().copied().map(state));
            let place = dir.path().join("elsewhere");
            mirrored(&place, there.iter().copied().map(state));
            let mirror = Mirror::open(&place.display().to_string()).unwrap();
            let checked = mirror.check_not_ahead(&run, &checkpoints);
            let told = checked.err().map(|error| error.to_string());
            match words {
                None => assert_eq!(told, None, "{here:?} {there:?}"),
                Some(words) => assert!(told.as_ref().unwrap().contains(words), "{told:?}"),
            }
        }
    }

    #[test]
    fn of_a_directory_the_newest_whole_checkpoint_counts() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(&dir.path().join("run")).unwrap();
        let checkpoints = mirrored(run.path(), [state((0, 90)), state((0, 100))]);
        let place = dir.path().join("elsewhere");
        mirrored(&place, [state((0, 90))]);
        let mirror = Mirror::open(&place.display().to_string()).unwrap();
        for step in [100, 90] {
            mirror.check_not_ahead(&run, &checkpoints).unwrap();
            fs::write(checkpoints.path(step).join("optimizer.bpk"), b"mom").unwrap();
        }
        let error = mirror.check_not_ahead(&run, &checkpoints).unwrap_err();
        assert!(
            matches!(
                error,
                TrainError::MirrorAhead {
                    there: 90,
                    here: None,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn that_a_run_has_a_checkpoint_is_copied_after_it_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(&dir.path().join("run")).unwrap();
        run.save_config(&RunConfig::default()).unwrap();
        let checkpoints = mirrored(run.path(), [state((0, 2))]);
        run.record_checkpoint(2).unwrap();
        let place = dir.path().join("elsewhere");
        let mirror = Mirror::open(&place.display().to_string()).unwrap();
        mirror.save_records(run.path()).unwrap();
        assert!(place.join(CONFIG).exists());
        assert!(!place.join(CHECKPOINTED).exists());
        let mut opened = Opened::of(&checkpoints.path(2), 2, None).unwrap();
        mirror.save(&mut opened, 9).unwrap();
        mirror.record_checkpoint(run.path()).unwrap();

        // What a restoration that was cut off has brought by then is brought again.
        let brought = dir.path().join("brought");
        mirrored(&brought, [state((0, 2))]);
        assert!(mirror.restore(&brought).unwrap().is_some());
        assert!(brought.join(CHECKPOINTED).exists());

        // What is newer than all of a mirror's is another run's.
        let stray = dir.path().join("stray");
        mirrored(&stray, [state((0, 3))]);
        let refused = mirror.restore(&stray);
        assert!(
            matches!(refused, Err(TrainError::StrayCheckpoints { .. })),
            "{refused:?}"
        );
    }

    #[test]
    fn the_best_comes_back_with_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("elsewhere");
        let states = [2, 4, 6, 8].map(|step| RunState {
            best: (step >= 4).then(|| Best {
                key: "i2t_r1".to_owned(),
                step: 4,
                value: 0.5,
            }),
            ..state((0, step))
        });
        let there = mirrored(&place, states);
        let config = RunConfig::default().to_toml().unwrap();
        fs::write(place.join(CONFIG), config).unwrap();
        let mirror = Mirror::open(&place.display().to_string()).unwrap();
        let brought = |out: &str| {
            let run = dir.path().join(out);
            let (step, damaged) = mirror.restore(&run).unwrap().unwrap();
            assert_eq!((step, damaged.len()), (8, 0));
            let checkpoints = Checkpoints::new(run.join(CHECKPOINTS), 2);
            let is_there = |step: &u64| checkpoints.path(*step).exists();
            [2, 4, 6, 8]
                .into_iter()
                .filter(is_there)
                .collect::<Vec<u64>>()
        };
        assert_eq!(brought("run"), [4, 8]);
        // Without a whole one the run comes all the same.
        fs::write(there.path(4).join("optimizer.bpk"), b"mom").unwrap();
        assert_eq!(brought("again"), [8]);
    }
}
