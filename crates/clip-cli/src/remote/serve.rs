//! `clip serve-device`: offer this machine's devices to a training run elsewhere.

use std::net::SocketAddr;

use anyhow::Result;

use super::TokenArgs;
use crate::device::DeviceName;

/// Offer this machine's devices to training runs elsewhere: `clip pretrain --devices remote://HOST:PORT`.
///
/// Runs must know the token. What they send and get isn't encrypted: between machines, listen on 127.0.0.1 and let the
/// runs come through a tunnel.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The address to listen on; the default is reached from this machine only, port 0 takes any that is free
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:7861")]
    listen: SocketAddr,
    /// Several devices of one backend, such as `cuda:0,cuda:1`: runs name the second `remote://HOST:PORT/1`
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        conflicts_with = "device"
    )]
    devices: Vec<DeviceName>,
    #[command(flatten)]
    token: TokenArgs,
}

/// Serves until the program is interrupted.
#[cfg(not(feature = "remote"))]
pub(crate) fn run(_: &Args, _: Option<DeviceName>) -> Result<()> {
    super::left_out()
}

/// Serves until the program is interrupted.
#[cfg(feature = "remote")]
pub(crate) fn run(args: &Args, device: Option<DeviceName>) -> Result<()> {
    use std::net::TcpListener;

    use anyhow::Context;
    use burn::server::{RemoteServer, WebSocketTransport};

    use crate::{device, output};

    let token = args.token.read()?;
    let devices = device::open_listed(&args.devices, device)?;
    let listener = TcpListener::bind(args.listen).with_context(|| {
        format!(
            "cannot listen on {}: choose another with --listen",
            args.listen
        )
    })?;
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() {
        log::warn!("{}", exposed(address));
    }
    let described = device::described(devices.iter().map(|one| (one.name, one.what.clone())));
    let server = RemoteServer::new(devices.into_iter().map(|started| started.device))
        .with_authorizer(authorizer::Told::new(&token)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the server's threads")?;
    output::line(&format!("remote://{address}"))?;
    log::info!("offering {described}; Ctrl-C ends it, and the runs that compute here");
    let serving = server.serve_async(WebSocketTransport::from_listener(listener));
    runtime
        .block_on(serving)
        .with_context(|| format!("cannot serve on {address}"))
}

/// What an address that others reach means.
#[cfg(feature = "remote")]
fn exposed(address: SocketAddr) -> String {
    let port = address.port();
    format!(
        "listening on {address}, beyond this machine: whoever has the token may compute here, and it is NOT encrypted: \
         whoever sees the traffic can read the token, the images and the model. On a network you don't trust, listen on \
         127.0.0.1:{port} and tunnel from the run's machine: ssh -N -L {port}:127.0.0.1:{port} USER@THIS-MACHINE, \
         then --devices remote://127.0.0.1:{port}"
    )
}

#[cfg(feature = "remote")]
mod authorizer {
    use burn::server::{AuthorizationRequest, EmptyToken, PeerAuthorizer, TokenAuthorizer};

    /// Lets in who knows the token, and says who came.
    pub(super) struct Told(TokenAuthorizer);

    impl Told {
        pub(super) fn new(token: &str) -> Result<Self, EmptyToken> {
            TokenAuthorizer::new(token).map(Self)
        }
    }

    impl PeerAuthorizer for Told {
        fn authorize(&self, request: AuthorizationRequest<'_>) -> Result<(), String> {
            let client = request.client.to_string();
            let outcome = self.0.authorize(request);
            match &outcome {
                Ok(()) => log::info!("{client} computes here"),
                Err(reason) => log::warn!("refused: {reason}"),
            }
            outcome
        }
    }
}

#[cfg(all(test, feature = "remote"))]
mod tests {
    use super::*;

    #[test]
    fn an_exposed_address_is_said_to_be_unencrypted_with_a_way_out() {
        let said = exposed("0.0.0.0:7861".parse().unwrap());
        for words in [
            "NOT encrypted",
            "beyond this machine",
            "ssh -N -L 7861:127.0.0.1:7861",
        ] {
            assert!(said.contains(words), "{said}");
        }
    }
}
