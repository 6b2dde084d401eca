use std::{fmt, str::FromStr};

/// What an address of a device elsewhere begins with.
const SCHEME: &str = "remote://";

/// Where a machine offers a device: `remote://HOST:PORT`, or `remote://HOST:PORT/N` for the N-th of several from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RemoteAddress {
    /// A name, an IPv4 address, or an IPv6 address in brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Which of the devices that are offered there.
    pub(crate) index: usize,
}

impl RemoteAddress {
    /// Whether a text means an address, right or wrong.
    pub(crate) fn is_meant(text: &str) -> bool {
        text.contains("://")
    }

    /// `HOST:PORT`.
    pub(crate) fn host_and_port(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl fmt::Display for RemoteAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.host_and_port())?;
        match self.index {
            0 => Ok(()),
            index => write!(f, "/{index}"),
        }
    }
}

impl FromStr for RemoteAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = || {
            let rest = text.strip_prefix(SCHEME)?;
            let (place, index) = match rest.split_once('/') {
                Some((place, "")) => (place, 0),
                Some((place, index)) => (place, index.parse().ok()?),
                None => (rest, 0),
            };
            let (host, port) = place.rsplit_once(':')?;
            let bracketed = host.starts_with('[') && host.ends_with(']');
            let is_host = !host.is_empty() && (bracketed || !host.contains([':', '@']));
            is_host.then_some(Self {
                host: host.to_owned(),
                port: port.parse().ok()?,
                index,
            })
        };
        // Not quoted: somebody may have put a token into it.
        parsed().ok_or_else(|| {
            format!(
                "an address of a device elsewhere reads {SCHEME}HOST:PORT, or {SCHEME}HOST:PORT/N for the N-th of \
                 several from 0; the token goes into a file or the environment"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_host_a_port_and_perhaps_a_number() {
        for (text, host, port, index) in [
            ("remote://gpu-7.lan:7861", "gpu-7.lan", 7861, 0),
            ("remote://10.0.0.2:80/3", "10.0.0.2", 80, 3),
            ("remote://[::1]:7861", "[::1]", 7861, 0),
        ] {
            let address: RemoteAddress = text.parse().unwrap();
            assert_eq!(
                (address.host.as_str(), address.port, address.index),
                (host, port, index)
            );
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_being_repeated() {
        for bad in [
            "remote://gpu",
            "remote://:7861",
            "remote://gpu:70000",
            "remote://gpu:7861/x",
            "remote://::1:7861",
            "remote://secret@gpu:7861",
            "http://gpu:7861",
        ] {
            let error = bad.parse::<RemoteAddress>().unwrap_err();
            assert!(error.contains("remote://HOST:PORT"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
