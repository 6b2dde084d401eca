//! `clip bench`: how fast the program is, OpenCLIP on PyTorch and the machine's limits measured in the same run.
//!
//! Each side of a benchmark is a process of its own, so that its memory is its own and neither warms the other's
//! caches. They work by turns, round by round, and the one that waits sleeps.

mod captions;
mod machine;
mod protocol;
mod report;
mod stats;
mod work;
pub(crate) mod worker;

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clip_data::ShardSet;
use clip_model::Precision;
use tempfile::TempDir;

use self::{
    protocol::{Reply, Request, Setup, Side},
    report::{Measured, Outcome, Report, SideResult},
    work::{Benchmark, Work},
};
use crate::{
    device::{Backend, DeviceName},
    output,
    usage::WrongUsage,
};

/// OpenCLIP's side, which comes with the program.
const PEER: &str = include_str!("openclip.py");

/// A round is repeated for so long, in seconds: a hundred times what a clock and a wake-up cost.
const ROUND_SECONDS: f64 = 1.0;
/// Until a side starts, the other's threads have stopped to wait actively; OpenMP's do so for up to 0.2 s.
const PAUSE: Duration = Duration::from_millis(300);

/// Measure the program's speed and memory, by turns with OpenCLIP's on PyTorch, beside the limits of the machine.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Benchmarks; all, if none is named. The limits that they are compared with are measured too.
    names: Vec<String>,
    /// List the benchmarks.
    #[arg(long)]
    list: bool,
    /// Python with OpenCLIP, to compare with: `cargo xtask bench` makes one. Without it, only this program is
    /// measured.
    #[arg(long, value_name = "PYTHON")]
    peer: Option<PathBuf>,
    /// Where PyTorch computes [default: cuda where this program does, else cpu]
    #[arg(long, value_name = "DEVICE")]
    peer_device: Option<String>,
    /// Rounds of each benchmark, by turns [default: 5, or 1 with --quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Each work once a round, with neither warm-up nor pause: to see that all works, not how fast.
    #[arg(long)]
    quick: bool,
    /// Captions, one a line; or shards, whose captions are used and which the loader reads. Without, they are made:
    /// as long as Flickr8k's, 12 words on average.
    #[arg(long, value_name = "FILE|SHARDS")]
    captions: Option<String>,
    /// Images, texts or pairs at once, of those benchmarks that take some [default: each one's own]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch: Option<u32>,
    /// What models compute in: f32, bf16 or f16. The peer does as `open_clip_train --precision amp_bf16` or `amp`.
    #[arg(long, default_value_t)]
    precision: Precision,
    /// Processor threads of each side [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Write all that was measured to a JSON file, after each benchmark.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, device: Option<DeviceName>) -> Result<()> {
    if args.list {
        let rows: Vec<_> = work::all()
            .into_iter()
            .map(|benchmark| [benchmark.name.to_owned(), benchmark.work.to_string()])
            .collect();
        return output::table(&rows);
    }
    let mut chosen = choose(&args.names, args.precision)?;
    if let Some(batch) = args.batch {
        for benchmark in &mut chosen {
            benchmark.work = benchmark.work.clone().with_batch(batch as usize);
        }
    }
    let bench = Bench::new(args, device)?;
    let mut report = Report::new(args, bench.threads, &bench.peer_device);
    for benchmark in chosen {
        log::info!("{} ({})", benchmark.name, benchmark.work);
        let outcome = match benchmark.work.unknown() {
            Some(reason) => Outcome::Skipped(reason),
            None => match bench.measure(&benchmark) {
                Ok(measured) => Outcome::Measured(measured),
                Err(error) => Outcome::Failed(format!("{error:#}")),
            },
        };
        if let Outcome::Failed(reason) = &outcome {
            log::warn!("{} failed: {reason}", benchmark.name);
        }
        if let Some(line) = report.add(benchmark, outcome) {
            log::info!("  {line}");
        }
        if let Some(path) = &args.json {
            report.save(path)?;
        }
    }
    report.print()?;
    match report.failed() {
        0 => Ok(()),
        failed => bail!("{failed} of the benchmarks failed; the reasons stand above"),
    }
}

/// Those that are named, in the order of the list, and before them the limits that they are compared with.
fn choose(names: &[String], precision: Precision) -> Result<Vec<Benchmark>> {
    let mut all = work::all();
    if names.is_empty() {
        return Ok(all);
    }
    let known = |name: &str| all.iter().any(|benchmark| benchmark.name == name);
    if let Some(name) = names.iter().find(|name| !known(name)) {
        let reason = format!("there is no benchmark `{name}`: `clip bench --list` lists them");
        return Err(WrongUsage(reason).into());
    }
    let named = |benchmark: &Benchmark| names.iter().any(|name| name == benchmark.name);
    let limits: Vec<_> = all
        .iter()
        .filter(|benchmark| named(benchmark))
        .filter_map(|benchmark| Some(benchmark.work.limit(precision)?.benchmark()))
        .collect();
    all.retain(|benchmark| named(benchmark) || limits.contains(&benchmark.name));
    Ok(all)
}

/// What all benchmarks of a run share.
struct Bench {
    folder: TempDir,
    device: Option<DeviceName>,
    peer: Option<PathBuf>,
    peer_device: String,
    precision: Precision,
    threads: usize,
    rounds: u32,
    quick: bool,
    shards: Vec<PathBuf>,
}

/// The shards of a list, which both sides open by path.
fn tars(list: &str) -> Result<Vec<PathBuf>> {
    let shards = ShardSet::parse(list)?;
    let paths = shards.local_tars();
    let paths = paths.context("--captions")?;
    Ok(paths.into_iter().map(Into::into).collect())
}

impl Bench {
    fn new(args: &Args, device: Option<DeviceName>) -> Result<Self> {
        let source = args.captions.as_deref();
        let captions = captions::read(source)?;
        let shards = match source.filter(|source| !captions::is_text(source)) {
            Some(source) => tars(source)?,
            None => Vec::new(),
        };
        let folder = tempfile::Builder::new()
            .prefix("clip-bench-")
            .tempdir()
            .context("cannot make a temporary folder: set TMPDIR to one that can be written")?;
        let classes: Vec<String> = (0..work::CLASSES).map(|n| format!("thing {n}")).collect();
        for (name, text) in [
            ("captions.txt", captions.join("\n")),
            ("classes.txt", classes.join("\n")),
            ("templates.txt", work::TEMPLATES.join("\n")),
            ("openclip_bench.py", PEER.to_owned()),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, text)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        let on_cuda = device.is_some_and(|name| name.backend == Backend::Cuda);
        let peer_device = if on_cuda { "cuda" } else { "cpu" };
        Ok(Self {
            folder,
            device,
            peer: args.peer.clone(),
            peer_device: args
                .peer_device
                .clone()
                .unwrap_or_else(|| peer_device.to_owned()),
            precision: args.precision,
            threads: args.threads.map_or_else(
                || thread::available_parallelism().map_or(1, usize::from),
                usize::from,
            ),
            rounds: args.rounds.unwrap_or(if args.quick { 1 } else { 5 }),
            quick: args.quick,
            shards,
        })
    }

    fn measure(&self, benchmark: &Benchmark) -> Result<Measured> {
        let mut setup = Setup {
            work: benchmark.work.clone(),
            threads: self.threads,
            folder: self.folder.path().to_owned(),
            shards: self.shards.clone(),
            peer_device: self.peer_device.clone(),
            precision: self.precision,
        };
        self.prepare(&mut setup)?;
        let mut sides = vec![Turn::start(self.ours(&setup.work)?, &setup)?];
        if let Some(work) = setup.work.steps() {
            sides.push(Turn::start(self.ours(&work)?, &Setup { work, ..setup })?);
        } else if let Some(python) = &self.peer
            && setup.work.has_peer()
        {
            sides.push(Turn::start(self.peer(python)?, &setup)?);
        }
        for turn in &mut sides {
            self.pause();
            turn.warm_up(self.quick)?;
        }
        for round in 0..self.rounds {
            // Neither is always the one that comes after the other.
            let mut order: Vec<&mut Turn> = sides.iter_mut().collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for turn in order {
                self.pause();
                turn.go()?;
            }
        }
        let mut results = sides.into_iter().map(Turn::end);
        // invariant: ours is always there.
        let ours = results.next().expect("invariant: ours is there")?;
        let peer = results.next().transpose()?;
        Ok(Measured { ours, peer })
    }

    /// Has a process of its own write what both sides read, so that its memory is nobody's.
    fn prepare(&self, setup: &mut Setup) -> Result<()> {
        let loads = setup.work.loads() && setup.shards.is_empty();
        if loads || setup.work.preset().is_some() {
            let mut side = self.ours(&setup.work)?;
            side.ask(&Request::Prepare(setup.clone()))?;
        }
        if loads {
            let made = self.folder.path().join("shards/train-*.tar");
            let made = made.to_str().context("the folder's name is not UTF-8")?;
            setup.shards = tars(made)?;
        }
        Ok(())
    }

    fn ours(&self, work: &Work) -> Result<Side> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        command.args(["bench-worker", "--quiet"]);
        if work.trains() {
            command.arg("--training");
        }
        if let Some(device) = self.device {
            command.args(["--device", &device.to_string()]);
        }
        command.env("RAYON_NUM_THREADS", self.threads.to_string());
        Side::start("clip", &mut command)
    }

    fn peer(&self, python: &Path) -> Result<Side> {
        let mut command = Command::new(python);
        command
            .args(["-W", "ignore"])
            .arg(self.folder.path().join("openclip_bench.py"))
            .env("OMP_NUM_THREADS", self.threads.to_string())
            .env("HF_HUB_OFFLINE", "1");
        Side::start("the peer", &mut command)
    }

    fn pause(&self) {
        if !self.quick {
            thread::sleep(PAUSE);
        }
    }
}

/// A side, and what it has done.
struct Turn {
    side: Side,
    /// How often the work is done in a round.
    times: u64,
    result: SideResult,
}

impl Turn {
    fn start(mut side: Side, setup: &Setup) -> Result<Self> {
        match side.ask(&Request::Setup(setup.clone()))? {
            Reply::Ready { versions, flop } => Ok(Self {
                side,
                times: 1,
                result: SideResult {
                    versions,
                    flop,
                    ..SideResult::default()
                },
            }),
            other => bail!("a side answered {other:?} when it was set up"),
        }
    }

    /// The first time takes what caches and allocators need, and tells how often a round has room for.
    fn warm_up(&mut self, quick: bool) -> Result<()> {
        if !quick {
            self.side.run(1)?;
            let ran = self.side.run(1)?;
            self.times = (ROUND_SECONDS / ran.seconds.max(1e-4)).ceil() as u64;
        }
        Ok(())
    }

    fn go(&mut self) -> Result<()> {
        let ran = self.side.run(self.times)?;
        self.result.rates.push(ran.rate());
        Ok(())
    }

    fn end(mut self) -> Result<SideResult> {
        self.result.gpu_bytes = machine::gpu_bytes_of(self.side.process());
        if let Reply::Ended { peak_bytes } = self.side.ask(&Request::End)? {
            self.result.peak_bytes = peak_bytes;
        }
        Ok(self.result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_benchmark_brings_its_limit() {
        let names_in = |precision, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            let chosen = choose(&names, precision)?;
            anyhow::Ok(chosen.iter().map(|one| one.name).collect::<Vec<_>>())
        };
        let names = |names: &[&str]| names_in(Precision::F32, names);
        assert_eq!(names(&["tokenizer"]).unwrap(), ["tokenizer"]);
        assert_eq!(
            names(&["save", "train-mini"]).unwrap(),
            ["matmul", "disk", "train-mini", "save"]
        );
        assert_eq!(names(&["loss-1024"]).unwrap(), ["matmul", "loss-1024"]);
        let bf16 = names_in(Precision::Bf16, &["loss-1024"]);
        assert_eq!(bf16.unwrap(), ["loss-1024"]);
        assert_eq!(names(&[]).unwrap().len(), work::all().len());
        let error = names(&["train"]).unwrap_err().to_string();
        assert!(error.contains("--list"), "{error}");
    }
}
