//! How the two sides of a benchmark are asked: one JSON value a line, requests on stdin and replies on stdout.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clip_model::Precision;
use serde::{Deserialize, Serialize};

use super::work::Work;

/// How often it is looked whether a side has ended, and how many times before it is killed: 3 seconds.
const TICK: Duration = Duration::from_millis(20);
const ENDS_WITHIN_TICKS: usize = 150;

/// All that a side needs to know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Setup {
    pub(super) work: Work,
    /// Processor threads that compute.
    pub(super) threads: usize,
    /// Holds `captions.txt`, `classes.txt`, `templates.txt`, `models/PRESET/` and `shards/`; files are written there.
    pub(super) folder: PathBuf,
    /// The shards that a loader reads.
    pub(super) shards: Vec<PathBuf>,
    /// Where the peer computes, in PyTorch's words.
    pub(super) peer_device: String,
    /// What models compute in; their weights are f32.
    pub(super) precision: Precision,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    /// Write the model and the shards that both sides read. Ours alone is asked.
    Prepare(Setup),
    /// Load all that the work needs.
    Setup(Setup),
    /// Do the work so many times.
    Run(u64),
    /// Say how much memory it took, and end.
    End,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    Prepared,
    Ready {
        /// Of what computes, by name.
        #[serde(default)]
        versions: BTreeMap<String, String>,
        /// Floating-point operations that one of what is counted needs, a multiply-add being two.
        #[serde(default)]
        flop: Option<f64>,
    },
    Ran(Ran),
    Ended {
        /// The most memory that the process had at once.
        peak_bytes: Option<u64>,
    },
    Failed(String),
}

/// What a request to run took and did.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Ran {
    pub(super) seconds: f64,
    /// Images, texts, bytes: what the work's unit says.
    pub(super) count: u64,
}

impl Ran {
    /// How many a second.
    pub(super) fn rate(self) -> f64 {
        self.count as f64 / self.seconds.max(1e-9)
    }
}

/// A process that answers.
pub(super) struct Side {
    name: &'static str,
    child: Child,
    /// `None` once there will be no more.
    requests: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
}

impl Side {
    /// Starts a program; `name` is for messages.
    pub(super) fn start(name: &'static str, command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {name} (`{program}`)"))?;
        let requests = child.stdin.take().context("no pipe to write to")?;
        let replies = child.stdout.take().context("no pipe to read from")?;
        Ok(Self {
            name,
            child,
            requests: Some(requests),
            replies: BufReader::new(replies),
        })
    }

    /// The number of its process.
    pub(super) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the answer; a failure on the other side is one here.
    pub(super) fn ask(&mut self, request: &Request) -> Result<Reply> {
        let name = self.name;
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        // Whoever has closed its stdin has said why on stdout or stderr.
        if let Some(requests) = &mut self.requests {
            let _ = requests.write_all(line.as_bytes());
        }
        line.clear();
        self.replies.read_line(&mut line)?;
        if line.is_empty() {
            let status = self.child.wait()?;
            bail!("{name} ended without an answer ({status}); its messages stand above");
        }
        let reply = serde_json::from_str(&line)
            .with_context(|| format!("{name} answered `{}`", line.trim_end()))?;
        match reply {
            Reply::Failed(reason) => bail!("{name} failed: {reason}"),
            reply => Ok(reply),
        }
    }

    pub(super) fn run(&mut self, times: u64) -> Result<Ran> {
        match self.ask(&Request::Run(times))? {
            Reply::Ran(ran) => Ok(ran),
            other => bail!("{} answered {other:?} when it was to run", self.name),
        }
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // It ends when nobody asks any more, and ends what it has started then.
        self.requests = None;
        for _ in 0..ENDS_WITHIN_TICKS {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(TICK);
        }
        // One that has ended can't be killed, and none is left behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The peer's script reads and writes these very lines.
    #[test]
    fn lines_are_what_the_peer_expects() {
        let setup = Setup {
            work: Work::TrainStep {
                preset: "P".to_owned(),
                batch: 2,
            },
            threads: 3,
            folder: "f".into(),
            shards: vec!["s.tar".into()],
            peer_device: "cpu".to_owned(),
            precision: Precision::Bf16,
        };
        let line = serde_json::to_string(&Request::Setup(setup)).unwrap();
        assert_eq!(
            line,
            r#"{"setup":{"work":{"kind":"train_step","preset":"P","batch":2},"threads":3,"folder":"f","shards":["s.tar"],"peer_device":"cpu","precision":"bf16"}}"#
        );
        assert_eq!(
            serde_json::to_string(&Request::Run(4)).unwrap(),
            r#"{"run":4}"#
        );
        assert_eq!(serde_json::to_string(&Request::End).unwrap(), r#""end""#);
        for (line, reply) in [
            (
                r#"{"ran": {"seconds": 0.5, "count": 8}}"#,
                Reply::Ran(Ran {
                    seconds: 0.5,
                    count: 8,
                }),
            ),
            (
                r#"{"ready": {"versions": {"torch": "2"}}}"#,
                Reply::Ready {
                    versions: BTreeMap::from([("torch".to_owned(), "2".to_owned())]),
                    flop: None,
                },
            ),
            (
                r#"{"ended": {"peak_bytes": 7}}"#,
                Reply::Ended {
                    peak_bytes: Some(7),
                },
            ),
        ] {
            assert_eq!(serde_json::from_str::<Reply>(line).unwrap(), reply);
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_side_that_fails_or_ends_says_so() {
        let ask = |script: &str| {
            let mut command = Command::new("sh");
            let side = Side::start("the peer", command.args(["-c", script]));
            side.unwrap().run(1).unwrap_err().to_string()
        };
        let failed = ask(r#"read line; echo '{"failed": "no memory"}'"#);
        assert_eq!(failed, "the peer failed: no memory");
        assert!(ask("exit 3").contains("exit status: 3"));
        assert!(ask("read line; echo hello").contains("answered `hello`"));
    }
}
