//! The `clip` program: pretrain, evaluate and use CLIP models.
//!
//! Results go to stdout, progress and logs to stderr. It exits with 0 when all is done, 1 when something failed,
//! 2 on wrong usage and 130 when interrupted.

#![forbid(unsafe_code)]

mod bench;
mod caption;
mod classes;
mod classify;
mod data;
mod device;
mod devices;
mod embed;
mod eval;
mod interrupt;
mod kernels;
mod logger;
mod model;
mod numbers;
mod output;
mod pages;
mod panics;
mod pictures;
mod pretrain;
mod remote;
mod runs;
mod search;
mod ui;
mod usage;
mod weights;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{ArgAction, Parser, Subcommand};

use crate::{device::DeviceName, usage::WrongUsage};

#[global_allocator]
static ALLOCATOR: clip_alloc::ThreadCached = clip_alloc::ThreadCached;

/// Pretrain, evaluate and use CLIP models.
#[derive(Parser)]
#[command(name = "clip", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

/// Flags of every command.
#[derive(clap::Args)]
#[command(next_help_heading = "Options of every command")]
struct Global {
    /// Where to compute: cpu, wgpu, vulkan, metal or cuda, and `:N` for the N-th of several from 0; by default
    /// the strongest backend of this build that works here, a GPU in software last. `clip devices` lists them.
    #[arg(long, global = true, value_name = "NAME[:N]")]
    device: Option<DeviceName>,
    /// Say more on stderr; twice, for searching defects.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Say nothing on stderr but errors.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

#[derive(Subcommand)]
enum Command {
    Pretrain(Box<pretrain::Args>),
    Runs(runs::Args),
    /// Make, pack, check and balance data.
    #[command(subcommand)]
    Data(data::Data),
    /// Start each device of this build, or the one that is named, and list it; fails where there is none.
    Devices(devices::Args),
    ServeDevice(remote::Args),
    /// Evaluate a model on shards.
    #[command(subcommand)]
    Eval(eval::Eval),
    /// Say how probable each of your labels is for images.
    ///
    /// An image shows one of the labels, whose probabilities add up to 1. A model that SigLIP's loss trained is asked of each
    /// label alone whether it matches: so may several, or none.
    Classify(classify::Args),
    /// Write a caption of each image, by a CoCa model.
    ///
    /// By default the best of a search, which is always the same; `--top-k` and `--top-p` draw words instead.
    Caption(caption::Args),
    /// Find images of a folder by text or by image.
    #[command(subcommand)]
    Search(search::Search),
    /// Open a local web page to try a model with.
    Ui(ui::Args),
    /// Write the features of images and texts to a safetensors file.
    Embed(embed::Args),
    /// Look into weights, and bring them in and out.
    #[command(subcommand)]
    Weights(weights::Weights),
    Bench(bench::Args),
    #[command(hide = true)]
    BenchWorker(bench::worker::Args),
}

fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| pretrain::with_tip(error).exit());
    logger::init(cli.global.verbose, cli.global.quiet);
    let trains = match &cli.command {
        Command::Pretrain(_) | Command::ServeDevice(_) => true,
        Command::BenchWorker(args) => args.training,
        _ => false,
    };
    if trains {
        clip_alloc::keep_freed_memory();
    }
    kernels::keep();
    let started = interrupt::install().and_then(|()| start_threads());
    match started.and_then(|()| run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the results has seen enough, as in `clip ... | head`.
        Err(error) if output::is_closed(&error) => ExitCode::SUCCESS,
        Err(error) if error.is::<interrupt::Interrupted>() => {
            ExitCode::from(interrupt::INTERRUPTED)
        }
        Err(error) => {
            output::print_error(&error);
            logger::fail(&output::told(&error));
            if error.is::<WrongUsage>() {
                ExitCode::from(usage::WRONG_USAGE)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// Starts the threads that commands share, one a core: where the system gives none, they would panic later.
fn start_threads() -> Result<()> {
    rayon::ThreadPoolBuilder::new().build_global().context(
        "cannot start a thread for each core: let this account or container have more processes (`ulimit -u`, \
         `pids.max`), or set RAYON_NUM_THREADS to fewer",
    )
}

fn run(cli: Cli) -> Result<()> {
    let device = cli.global.device;
    match cli.command {
        Command::Pretrain(args) => pretrain::run(&args, device, cli.global.quiet),
        Command::Runs(args) => runs::run(&args),
        Command::Data(data) => data::run(&data, device),
        Command::Devices(args) => devices::run(&args, device),
        Command::ServeDevice(args) => remote::run(&args, device),
        Command::Eval(eval) => eval::run(&eval, device),
        Command::Classify(args) => classify::run(&args, device),
        Command::Caption(args) => caption::run(&args, device),
        Command::Search(search) => search::run(&search, device),
        Command::Ui(args) => ui::run(&args, device),
        Command::Embed(args) => embed::run(&args, device),
        Command::Weights(weights) => weights::run(&weights, device),
        Command::Bench(args) => bench::run(&args, device),
        Command::BenchWorker(_) => bench::worker::run(device),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn flags_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
