//! The way to a machine elsewhere, which is cut when that machine goes silent.
//!
//! Burn's operations on a device elsewhere fail as soon as their connection closes, but they wait for ever for one that
//! stays open: TCP takes a quarter of an hour to give up on a machine that is gone while it was being sent to, and never
//! gives up on a process that is stopped. So Burn is given a port of this process, from which bytes are passed on; and
//! beside them a heartbeat asks the other side for a sign of life.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

use super::RemoteAddress;

/// When a machine counts as silent.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// Between two heartbeats.
    interval: Duration,
    /// For the answer to one.
    answer: Duration,
    /// Heartbeats in a row without an answer.
    misses: u32,
}

/// Half a minute: a loaded machine answers within a second, and one that restarts a network card within ten.
const PATIENCE: Patience = Patience {
    interval: Duration::from_secs(2),
    answer: Duration::from_secs(10),
    misses: 3,
};

/// Bytes passed on at once: one write for most of what Burn sends.
const BUFFER: usize = 256 << 10;

/// A port of this process that leads to another machine.
pub(super) struct Link {
    local: SocketAddr,
}

/// The open connections through a link; `None` once it is cut.
type Connections = Arc<Mutex<Option<Vec<TcpStream>>>>;

impl Link {
    /// Finds the machine and makes sure that something answers there.
    ///
    /// # Errors
    /// When its name is unknown or nothing listens there.
    pub(super) fn open(address: &RemoteAddress) -> Result<Self> {
        Self::with_patience(address, PATIENCE)
    }

    fn with_patience(address: &RemoteAddress, patience: Patience) -> Result<Self> {
        let remote = reachable(address, patience.answer)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .with_context(|| format!("cannot open a local port for {address}"))?;
        let local = listener.local_addr()?;
        let connections: Connections = Arc::new(Mutex::new(Some(Vec::new())));
        let name = address.to_string();
        let cut = Arc::clone(&connections);
        thread::spawn(move || {
            until_silent(remote, patience);
            let mut open = cut.lock().unwrap_or_else(PoisonError::into_inner);
            let streams = open.take().unwrap_or_default();
            log::warn!("{name} gives no sign of life: the connection is cut");
            for stream in streams {
                // Closed already is as good.
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
        thread::spawn(move || {
            for stream in listener.incoming() {
                // Dropping a stream that can't be passed on closes it, which Burn reports.
                let passed =
                    stream.and_then(|stream| pass_on(stream, remote, patience, &connections));
                if let Err(error) = passed {
                    log::debug!("a connection to {remote} failed: {error}");
                }
            }
        });
        Ok(Self { local })
    }

    /// Where Burn finds it.
    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }
}

/// The first of the machine's addresses where something listens.
fn reachable(address: &RemoteAddress, wait: Duration) -> Result<SocketAddr> {
    let found = address.host_and_port().to_socket_addrs();
    let found = found.with_context(|| format!("{address}: there is no machine of that name"))?;
    let mut last = None;
    for socket in found {
        match TcpStream::connect_timeout(&socket, wait) {
            Ok(_) => return Ok(socket),
            Err(error) => last = Some(error),
        }
    }
    let error = last.unwrap_or_else(|| io::Error::other("the name has no address"));
    Err(error).with_context(|| {
        format!(
            "nothing answers at {address}: start `clip serve-device --listen IP:{}` there, and let the port through \
             the firewall",
            address.port
        )
    })
}

/// Comes back when so many heartbeats in a row had no answer. Counting them, instead of time, leaves a machine alone that
/// was asleep together with this one.
fn until_silent(remote: SocketAddr, patience: Patience) {
    let mut missed = 0;
    while missed < patience.misses {
        thread::sleep(patience.interval);
        match beat(remote, patience.answer) {
            Ok(()) => missed = 0,
            Err(error) => {
                missed += 1;
                log::debug!("no answer from {remote}: {error}");
            }
        }
    }
}

/// Asks for a page that isn't there, on the port of the devices. Any answer is a sign of life.
fn beat(remote: SocketAddr, wait: Duration) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&remote, wait)?;
    stream.set_read_timeout(Some(wait))?;
    stream.set_write_timeout(Some(wait))?;
    stream.write_all(b"GET /alive HTTP/1.1\r\nHost: clip\r\nConnection: close\r\n\r\n")?;
    let read = stream.read(&mut [0; 64])?;
    if read == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// Passes bytes on in both directions, until either side closes or the link is cut.
fn pass_on(
    local: TcpStream,
    remote: SocketAddr,
    patience: Patience,
    connections: &Connections,
) -> io::Result<()> {
    let remote = TcpStream::connect_timeout(&remote, patience.answer)?;
    let mut open = connections.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(open) = &mut *open else {
        return Ok(());
    };
    for stream in [&local, &remote] {
        stream.set_nodelay(true)?;
        open.push(stream.try_clone()?);
    }
    for (mut from, mut to) in [(local.try_clone()?, remote.try_clone()?), (remote, local)] {
        thread::spawn(move || {
            let mut buffer = vec![0; BUFFER];
            while let Ok(read @ 1..) = from.read(&mut buffer) {
                if to.write_all(&buffer[..read]).is_err() {
                    break;
                }
            }
            // What one side has closed or lost, the other must not wait for.
            for stream in [&from, &to] {
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        time::Instant,
    };

    const HASTE: Patience = Patience {
        interval: Duration::from_millis(10),
        answer: Duration::from_millis(300),
        misses: 2,
    };

    fn address(port: u16) -> RemoteAddress {
        format!("remote://127.0.0.1:{port}").parse().unwrap()
    }

    /// Answers each line with itself for as long as `answers`, and is silent after that, with its connections open.
    fn echo(answers: Arc<AtomicBool>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for mut stream in listener.incoming().map(Result::unwrap) {
                let answers = Arc::clone(&answers);
                thread::spawn(move || {
                    let mut buffer = [0; 1024];
                    while let Ok(read @ 1..) = stream.read(&mut buffer) {
                        if answers.load(Ordering::Relaxed) {
                            stream.write_all(&buffer[..read]).unwrap();
                        }
                    }
                });
            }
        });
        port
    }

    #[test]
    fn bytes_come_through_until_the_machine_goes_silent() {
        let answers = Arc::new(AtomicBool::new(true));
        let link = Link::with_patience(&address(echo(Arc::clone(&answers))), HASTE).unwrap();
        let mut stream = TcpStream::connect(link.local()).unwrap();
        let mut back = [0; 5];
        stream.write_all(b"hello").unwrap();
        stream.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"hello");

        // Many heartbeats later it is open still.
        thread::sleep(20 * HASTE.interval);
        stream.write_all(b"again").unwrap();
        stream.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"again");

        answers.store(false, Ordering::Relaxed);
        stream
            .set_read_timeout(Some(Duration::from_mins(1)))
            .unwrap();
        stream.write_all(b"lost?").unwrap();
        let begun = Instant::now();
        let read = stream.read(&mut back);
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
        assert!(begun.elapsed() < Duration::from_secs(30), "it was not cut");
    }

    #[test]
    fn nobody_there_is_said_at_once_with_what_to_start() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let error = Link::open(&address(port)).err().unwrap().to_string();
        assert!(error.contains("clip serve-device"), "{error}");
        let nowhere = "remote://no-such-host.invalid:1".parse().unwrap();
        let error = Link::open(&nowhere).err().unwrap().to_string();
        assert!(error.contains("no machine of that name"), "{error}");
    }
}
