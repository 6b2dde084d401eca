//! `clip ui`: a local web page to try a model with.

mod http;
mod places;
mod server;
mod state;

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    path::PathBuf,
};

use anyhow::{Context, Result};

use self::{
    places::Places,
    server::{MOST_CONNECTIONS, MOST_UPLOADS, Server},
    state::{Folder, State},
};
use crate::{
    device::{self, DeviceName},
    model::ModelArgs,
    output, search,
};

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
        let encoders = clip_zeroshot::ClipEncoders::load(args.model.name(), &started.device)?;
        (None, encoders)
    };
    let address = SocketAddr::new(args.listen, args.port);
    if !args.listen.is_loopback() {
        log::warn!("listening on {address}: whoever reaches it may use the model");
    }
    let listener = TcpListener::bind(address).with_context(|| {
        format!("cannot listen on {address}: choose another with --port or --listen")
    })?;
    let server = Server {
        state: State::new(encoders, args.model.name(), folder),
        address: listener.local_addr()?,
        limit: args.max_upload as usize * (1 << 20),
        connections: Places::new(MOST_CONNECTIONS),
        uploads: Places::new(MOST_UPLOADS),
    };
    output::line(&format!("http://{}/", server.address))?;
    log::info!("open it in a browser; Ctrl-C ends it");
    server.serve(&listener);
    Ok(())
}
