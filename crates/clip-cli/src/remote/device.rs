use anyhow::{Result, anyhow};
use burn::{
    remote::{ConnectError, RemoteHost},
    tensor::Device,
};

use super::{RemoteAddress, TokenArgs, link::Link};

/// Connects a device elsewhere, without autodiff. Each call opens a session of its own there, and sessions compute side
/// by side.
///
/// # Errors
/// When nothing answers, when what answers is no `clip serve-device` of this version, or refuses the token, with the
/// remedy.
pub(crate) fn open(address: &RemoteAddress, token: &TokenArgs) -> Result<Device> {
    let token = token.read()?;
    let link = Link::open(address)?;
    let host = RemoteHost::websocket(&format!("ws://{}", link.local())).with_credential(token);
    let opened = Device::remote_options(&host)
        .device_index(address.index)
        .init();
    opened.map_err(|error| explained(address, &error))
}

fn explained(address: &RemoteAddress, error: &ConnectError) -> anyhow::Error {
    match error {
        ConnectError::Unauthorized => anyhow!(
            "{address} refuses the token: both sides need the same one, in --token-file or CLIP_DEVICE_TOKEN"
        ),
        ConnectError::NoSuchDevice { device_count } => {
            anyhow!("{address} offers {device_count} devices, numbered from 0")
        }
        ConnectError::IncompatibleProtocol {
            client_version,
            server_version,
        } => anyhow!(
            "{address} speaks version {server_version} of the protocol and this clip version {client_version}: run the \
             same version of clip on both machines"
        ),
        other => anyhow!(
            "{address} answers, but not as `clip serve-device` of this version does ({other}): check the port, and run \
             the same version of clip on both machines"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_protocol_is_explained_by_both_versions() {
        let address = "remote://gpu:7861".parse().unwrap();
        let error = ConnectError::IncompatibleProtocol {
            client_version: 2,
            server_version: 9,
        };
        let error = explained(&address, &error).to_string();
        for words in [
            "remote://gpu:7861",
            "version 9",
            "version 2",
            "same version of clip",
        ] {
            assert!(error.contains(words), "{error}");
        }
    }
}
