//! `clip ui`: a local web page to try a model with.

mod server;
mod state;

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    path::PathBuf,
};

use anyhow::{Context, Result};

use self::{
    server::Server,
    state::{Folder, State},
};
use crate::{
    device::{self, DeviceName},
    model::ModelArgs,
    output, search, weights,
};

/// Threads that read and write; the model has its own.
const WORKERS: usize = 2;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// A folder that `clip search index` has indexed with this model, to search in.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The index file, in place of the one in the folder.
    #[arg(long, value_name = "FILE", requires = "dir")]
    index: Option<PathBuf>,
    /// The address to listen on. Whoever reaches another address than the default, which only this machine can, may
    /// use the model and see the indexed images.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    listen: IpAddr,
    /// The port to listen on; 0 takes any that is free.
    #[arg(long, value_name = "N", default_value_t = 7860)]
    port: u16,
    /// Largest image that may be uploaded, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1024))]
    max_upload: u32,
}

pub(crate) fn run(args: &Args, device: Option<DeviceName>) -> Result<()> {
    let (folder, encoders) = if let Some(dir) = &args.dir {
        let file = search::index_file(dir, args.index.as_deref());
        let (index, encoders) = search::open(&file, false, Some(args.model.name()), device)?;
        let dir = dir
            .canonicalize()
            .with_context(|| format!("cannot read {}", dir.display()))?;
        (Some(Folder { dir, index }), encoders)
    } else {
        let started = device::open(device)?;
        let encoders = weights::encoders(args.model.name(), &started.device)?;
        (None, encoders)
    };
    let address = SocketAddr::new(args.listen, args.port);
    if !args.listen.is_loopback() {
        log::warn!("listening on {address}: whoever reaches it may use the model");
    }
    let listener = TcpListener::bind(address).with_context(|| {
        format!("cannot listen on {address}: choose another with --port or --listen")
    })?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let state = State::new(encoders, args.model.name(), folder);
    let limit = args.max_upload as usize * (1 << 20);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("cannot start the server's threads")?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        output::line(&format!("http://{address}/"))?;
        log::info!("open it in a browser; Ctrl-C ends it");
        Server::new(state, address, limit).serve(listener).await;
        Ok(())
    })
}
