//! Our side of a benchmark: a process that does one work whenever it is asked to.

mod checkpoint;
mod data;
mod encode;
mod limits;
mod loss;
mod prepare;
mod run;
mod train;

use std::{
    io::BufRead,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clip_data::Tokenizer;
use clip_model::weights::TOKENIZER_FILE;

use super::{
    protocol::{Ran, Reply, Request, Setup},
    work::Work,
};
use crate::{
    device::{self, DeviceName, Started},
    output,
};

/// Do a benchmark's work as `clip bench` asks for it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Manage memory as `clip pretrain` does.
    #[arg(long)]
    pub(crate) training: bool,
}

/// Work that is ready to be done.
trait Task {
    /// Comes to a place where it can begin; that isn't measured.
    fn get_ready(&mut self) -> Result<()> {
        Ok(())
    }

    /// Does it once; returns how many of its unit that were.
    fn run(&mut self) -> Result<u64>;

    /// Waits for what [`run`](Self::run) has left to the device.
    fn wait(&mut self) -> Result<()> {
        Ok(())
    }

    /// Leaves the machine to others until it gets ready again.
    fn rest(&mut self) -> Result<()> {
        Ok(())
    }

    /// The most memory that it took.
    fn peak_bytes(&self) -> Option<u64> {
        clip_train::peak_memory()
    }

    /// Floating-point operations of one of the unit.
    fn flop(&self) -> Option<f64> {
        None
    }
}

/// What tasks are made of.
struct Place {
    setup: Setup,
    started: Started,
}

impl Place {
    fn file(&self, name: &str) -> PathBuf {
        self.setup.folder.join(name)
    }

    fn lines(&self, name: &str) -> Result<Vec<String>> {
        let path = self.file(name);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// So many captions, again from the first where there are fewer.
    fn captions(&self, count: usize) -> Result<Vec<String>> {
        let captions = self.lines("captions.txt")?;
        Ok(captions.iter().cycle().take(count).cloned().collect())
    }

    fn model(&self, preset: &str) -> PathBuf {
        self.file("models").join(preset)
    }

    /// Threads for a step, as `clip pretrain` would choose them.
    fn threads(&self) -> usize {
        self.started.threads().min(self.setup.threads)
    }

    fn sync(&self) -> Result<()> {
        Ok(self.started.device.sync()?)
    }
}

/// Answers requests until the last one, or until nobody asks any more.
pub(crate) fn run(name: Option<DeviceName>) -> Result<()> {
    let mut task: Option<Box<dyn Task>> = None;
    for line in std::io::stdin().lock().lines() {
        let request = serde_json::from_str(&line?).context("a request that is none")?;
        let end = request == Request::End;
        let reply = answer(request, name, &mut task).unwrap_or_else(failed);
        output::line(&serde_json::to_string(&reply)?)?;
        if end {
            break;
        }
    }
    Ok(())
}

fn failed(error: anyhow::Error) -> Reply {
    Reply::Failed(format!("{error:#}"))
}

fn answer(
    request: Request,
    name: Option<DeviceName>,
    task: &mut Option<Box<dyn Task>>,
) -> Result<Reply> {
    match request {
        Request::Prepare(setup) => {
            prepare::write(&setup, &device::open(name)?.device)?;
            Ok(Reply::Prepared)
        }
        Request::Setup(setup) => {
            let started = device::open(name)?;
            let ready = make(Place { setup, started })?;
            let flop = ready.flop();
            *task = Some(ready);
            let version = env!("CARGO_PKG_VERSION").to_owned();
            Ok(Reply::Ready {
                versions: [("clip".to_owned(), version)].into(),
                flop,
            })
        }
        Request::Run(times) => {
            let Some(task) = task else {
                bail!("asked to run before the work was set up");
            };
            task.get_ready()?;
            let start = Instant::now();
            let mut count = 0;
            for _ in 0..times {
                count += task.run()?;
            }
            task.wait()?;
            let seconds = start.elapsed().as_secs_f64();
            task.rest()?;
            Ok(Reply::Ran(Ran { seconds, count }))
        }
        Request::End => {
            // Before the answer, after which this process may be killed: a run's own process goes with its task.
            let ended = task.take();
            let peak_bytes = ended.and_then(|task| task.peak_bytes());
            Ok(Reply::Ended { peak_bytes })
        }
    }
}

fn make(place: Place) -> Result<Box<dyn Task>> {
    Ok(match place.setup.work.clone() {
        Work::TrainStep { preset, batch } => Box::new(train::Step::new(place, &preset, batch)?),
        Work::Run { preset, batch } => Box::new(run::Run::start(&place, &preset, batch)?),
        Work::EncodeImages { preset, batch } => {
            Box::new(encode::Images::new(place, &preset, batch)?)
        }
        Work::EncodeTexts { preset, batch } => Box::new(encode::Texts::new(place, &preset, batch)?),
        Work::Head { preset } => Box::new(encode::Head::new(place, &preset)?),
        Work::Loss { batch, embed_dim } => Box::new(loss::Loss::new(place, batch, embed_dim)),
        Work::Loader { image_size, batch } => {
            Box::new(data::Loader::new(&place, image_size, batch)?)
        }
        Work::Tokenize => Box::new(data::Tokenize::new(&place)?),
        Work::SaveCheckpoint { preset } => Box::new(checkpoint::Save::new(&place, &preset)?),
        Work::LoadCheckpoint { preset } => Box::new(checkpoint::Load::new(&place, &preset)?),
        Work::MatMul => Box::new(limits::MatMul::new(place)?),
        Work::Copy => Box::new(limits::Copy::new(place)),
        Work::WriteFile => Box::new(limits::WriteFile::new(&place)),
    })
}

/// Bytes that no compressor and no shortcut likes, the same on both sides.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..count).map(next).collect()
}

fn tokenizer(model: &Path) -> Result<Tokenizer> {
    Ok(Tokenizer::load(&model.join(TOKENIZER_FILE))?)
}
