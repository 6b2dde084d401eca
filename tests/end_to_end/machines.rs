//! Machines that offer devices: processes, each in a network namespace of its own where the system lets one be made.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::support::{Folder, Ran, ran};

/// What runs and machines share.
pub(crate) const TOKEN: &str = "4b1d-a-token-of-the-tests";

/// How processes reach each other: place 0 is the run's, the others are machines'.
pub(crate) struct Network {
    /// The namespaces by place; empty for one loopback device that all share.
    namespaces: Vec<String>,
}

impl Network {
    pub(crate) fn loopback() -> Self {
        Self {
            namespaces: Vec::new(),
        }
    }

    /// Three namespaces, a wire from the run's to each machine's; loopback where that takes rights that a user has not.
    pub(crate) fn of_machines() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let own = format!(
            "{}x{}",
            std::process::id(),
            MADE.fetch_add(1, Ordering::Relaxed)
        );
        let name = |place: usize| format!("clip-{own}-{place}");
        let network = Self {
            namespaces: (0..3).map(name).collect(),
        };
        let made = network
            .namespaces
            .iter()
            .all(|name| ip(&["netns", "add", name]))
            && (1..3).all(|place| network.wire(&own, place))
            && network
                .namespaces
                .iter()
                .all(|name| ip(&["-n", name, "link", "set", "lo", "up"]));
        if made {
            return network;
        }
        eprintln!(
            "no network namespaces here (they take root and `ip`): all processes share the loopback device"
        );
        Self::loopback()
    }

    /// A pair of network devices, 10.77.PLACE.1 at the run and 10.77.PLACE.2 at the machine.
    fn wire(&self, own: &str, place: usize) -> bool {
        let ends = ["r", "m"].map(|end| format!("c{own}{end}{place}"));
        let spaces = [&self.namespaces[0], &self.namespaces[place]];
        if !ip(&[
            "link", "add", &ends[0], "type", "veth", "peer", "name", &ends[1],
        ]) {
            return false;
        }
        ends.iter()
            .zip(spaces)
            .enumerate()
            .all(|(at, (end, space))| {
                let address = format!("10.77.{place}.{}/24", at + 1);
                ip(&["link", "set", end, "netns", space])
                    && ip(&["-n", space, "addr", "add", &address, "dev", end])
                    && ip(&["-n", space, "link", "set", end, "up"])
            })
    }

    /// `clip` at a place, with the token.
    pub(crate) fn command(&self, folder: &Folder, place: usize, args: &[&str]) -> Command {
        let clip = folder.command(args);
        let mut command = match self.namespaces.get(place) {
            Some(name) => {
                let mut within = Command::new("ip");
                within
                    .args(["netns", "exec", name.as_str()])
                    .arg(clip.get_program())
                    .args(args);
                within
            }
            None => clip,
        };
        command
            .current_dir(folder.path("."))
            .env("CLIP_DEVICE_TOKEN", TOKEN);
        command
    }

    /// Runs `clip` at the run's place.
    pub(crate) fn trains(&self, folder: &Folder, args: &[&str]) -> Ran {
        ran(&mut self.command(folder, 0, args))
    }

    fn address(&self, place: usize) -> String {
        if self.namespaces.is_empty() {
            "127.0.0.1:0".to_owned()
        } else {
            format!("10.77.{place}.2:7861")
        }
    }
}

impl Drop for Network {
    /// The devices go with their namespaces.
    fn drop(&mut self) {
        for name in &self.namespaces {
            ip(&["netns", "del", name]);
        }
    }
}

fn ip(args: &[&str]) -> bool {
    let ran = Command::new("ip").args(args).stderr(Stdio::null()).status();
    ran.is_ok_and(|status| status.success())
}

/// `clip serve-device`, killed when dropped.
pub(crate) struct Machine {
    child: Child,
    address: String,
    said: PathBuf,
}

impl Machine {
    /// On the only address that the run reaches.
    pub(crate) fn serve(folder: &Folder, network: &Network, place: usize) -> Self {
        Self::listen(folder, network, place, &network.address(place))
    }

    pub(crate) fn listen(folder: &Folder, network: &Network, place: usize, listen: &str) -> Self {
        let said = folder.path(&format!("machine-{place}"));
        let args = ["serve-device", "--device", "cpu", "--listen", listen];
        let mut child = network
            .command(folder, place, &args)
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&said).unwrap())
            .spawn()
            .unwrap();
        let mut address = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut address).unwrap();
        let machine = Self {
            child,
            address: address.trim().to_owned(),
            said,
        };
        assert!(
            machine.address.starts_with("remote://"),
            "{}",
            machine.said()
        );
        machine
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap()
    }

    /// Presses Ctrl-C; how it ended, and all that it said.
    pub(crate) fn interrupt(mut self) -> (Option<i32>, String) {
        signal(self.id(), "INT");
        let status = Self::end(&mut self.child, Duration::from_mins(1));
        (status.code(), self.said())
    }

    /// Waits for a process, which must end within a time.
    pub(crate) fn end(child: &mut Child, within: Duration) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if begun.elapsed() > within {
                let _ = child.kill();
                panic!("it still runs after {within:?}");
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // SIGKILL, to which a stopped process answers too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn signal(process: u32, name: &str) {
    let kill = Command::new("kill")
        .args([&format!("-{name}"), &process.to_string()])
        .status();
    assert!(kill.unwrap().success());
}
