//! A run's copy elsewhere: brought here to go on with, and kept up to date.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use clip_train::{
    RunDir, TrainError,
    checkpoint::{Copier, Mirror},
    config::{Changes, ConfigLayers, RunConfig},
};

use super::Args;

/// Brings the run that the flags resume from its mirror, where its directory isn't here; whether it did.
pub(super) fn bring(args: &Args) -> Result<bool> {
    let Some(resume) = args.resume.as_deref() else {
        return Ok(false);
    };
    let Some(out) = args.out.as_ref().filter(|out| !RunDir::holds_run(out)) else {
        return Ok(false);
    };
    let place = if Mirror::is_address(resume) {
        Some(resume.to_owned())
    } else if resume == "auto" {
        args.lay(ConfigLayers::default())?
            .resolve()?
            .checkpoint
            .mirror
    } else {
        None
    };
    let Some(place) = place else {
        return Ok(false);
    };
    let mirror = Mirror::open(&place)?;
    let found = mirror
        .restore(out)
        .with_context(|| format!("cannot bring the run from {mirror}"))?;
    let Some((step, damaged)) = found else {
        if Mirror::is_address(resume) {
            bail!("{mirror} holds no run with a checkpoint; check the address");
        }
        return Ok(false);
    };
    for error in damaged {
        log::warn!("{error}; using the one before");
    }
    log::info!(
        "brought the run from {mirror} to {}, as it was after step {step}",
        out.display()
    );
    Ok(true)
}

/// The mirror that the settings name. One that holds another run is refused, so is one that holds this run where it is to
/// begin anew, one that is ahead of `begun`, and one where no files can be kept.
pub(super) fn open(
    config: &RunConfig,
    resumes: bool,
    begun: Option<&RunDir>,
) -> Result<Option<Mirror>> {
    let mirror = apart(config, resumes)?;
    if let Some(mirror) = &mirror {
        if let Some(run) = begun {
            mirror.check_not_ahead(run, &run.checkpoints(config.checkpoint.kept()))?;
        }
        let writable = mirror.check_writable();
        writable.context("cannot keep a copy of the run")?;
    }
    Ok(mirror)
}

/// The mirror, if it holds no other run.
fn apart(config: &RunConfig, resumes: bool) -> Result<Option<Mirror>> {
    let Some(place) = &config.checkpoint.mirror else {
        return Ok(None);
    };
    let mirror = Mirror::open(place)?;
    let Some(layers) = mirror.config_layers()? else {
        return Ok(Some(mirror));
    };
    if !resumes {
        let place = mirror.to_string();
        return Err(TrainError::MirrorTaken { place }.into());
    }
    let changes = Changes::between(&layers.resolve()?, config).corrupting;
    ensure!(
        changes.is_empty(),
        "{mirror}, the `checkpoint.mirror`, holds another run ({}): name another place",
        changes.join(", ")
    );
    Ok(Some(mirror))
}

/// Begins to copy the run into its mirror, if it has one.
pub(super) fn start(
    mirror: Option<Mirror>,
    run: &RunDir,
    config: &RunConfig,
) -> Result<Option<Arc<Copier>>> {
    let copier = mirror.map(|mirror| Copier::start(mirror, run.path(), config.checkpoint.kept()));
    Ok(copier
        .transpose()
        .context("cannot keep a copy of the run")?
        .map(Arc::new))
}

/// Waits for the copy of the last checkpoint, and of folders that the run has made.
pub(super) fn finish(copier: Option<Arc<Copier>>, folders: &[PathBuf]) -> Result<()> {
    let finished = copier.map(|copier| copier.finish(folders));
    finished
        .transpose()
        .context("the run is whole here, and its copy isn't")?;
    Ok(())
}
