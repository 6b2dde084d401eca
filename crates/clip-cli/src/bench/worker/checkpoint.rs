use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clip_model::{Clip, weights::HostWeights};
use clip_train::{
    Captions, Images, Optimizer, OptimizerConfig, PairBatch,
    checkpoint::{Checkpoints, Contents, RunState},
};

use super::{Place, Task, noise, train};

/// A model and an optimizer that has taken a step, so that its moments exist.
fn trained(place: &Place, preset: &str) -> Result<(Clip, Optimizer)> {
    let (model, dir, mut optimizer) = train::load(place, preset)?;
    let side = dir.config.vision_cfg.image_size;
    let images = Images::new(noise(2 * side * side * 3), side, dir.preprocess.norm());
    let captions = Captions::new(vec![1, 3, 2, 1, 4, 2], 3);
    let found = train::step(place, 2)?.gradients(&model, &PairBatch::new(images, captions));
    let (model, _) = optimizer.step(1e-6, model, found.grads);
    Ok((model, optimizer))
}

/// Weights and optimizer through checksums to the disk.
pub(super) struct Save {
    model: Clip,
    optimizer: Optimizer,
    checkpoints: Checkpoints,
    step: u64,
}

impl Save {
    pub(super) fn new(place: &Place, preset: &str) -> Result<Self> {
        Self::to(place.file("saved"), place, preset)
    }

    /// To a folder of its own, for of several runs' checkpoints only the last is kept.
    fn to(folder: PathBuf, place: &Place, preset: &str) -> Result<Self> {
        let (model, optimizer) = trained(place, preset)?;
        Ok(Self {
            model,
            optimizer,
            checkpoints: Checkpoints::new(folder, 1),
            step: 0,
        })
    }

    fn save(&mut self) -> Result<PathBuf> {
        self.step += 1;
        let state = RunState {
            step: self.step,
            ..RunState::default()
        };
        let contents = Contents::new(HostWeights::of(&self.model), self.optimizer.state(), None);
        Ok(self.checkpoints.save(&state, contents)?)
    }
}

impl Task for Save {
    fn run(&mut self) -> Result<u64> {
        let path = self.save()?;
        size(&path)
    }
}

/// The same back, checksums verified.
pub(super) struct Load {
    model: Clip,
    checkpoints: Checkpoints,
    bytes: u64,
}

impl Load {
    pub(super) fn new(place: &Place, preset: &str) -> Result<Self> {
        let mut save = Save::to(place.file("loaded"), place, preset)?;
        let path = save.save()?;
        Ok(Self {
            model: save.model,
            checkpoints: save.checkpoints,
            bytes: size(&path)?,
        })
    }
}

impl Task for Load {
    fn run(&mut self) -> Result<u64> {
        let (found, _) = self.checkpoints.latest()?.context("no checkpoint")?;
        let optimizer = Optimizer::new(&OptimizerConfig::default(), &self.model);
        let (model, ..) = found.restore(self.model.clone(), optimizer, None)?;
        self.model = model;
        Ok(self.bytes)
    }
}

fn size(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}
