use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{Place, Task};

/// Images of the steps that are waited for at once.
const IMAGES: usize = 2_048;
/// How often it is looked whether they are done.
const TICK: Duration = Duration::from_millis(1);

/// `clip pretrain` in a process of its own, which goes on for as long as it is watched, and stands still otherwise.
pub(super) struct Run {
    child: Child,
    /// What it says, for when it fails.
    log: PathBuf,
    metrics: PathBuf,
    /// What has been read of them.
    read: u64,
    steps: usize,
    batch: usize,
}

impl Run {
    pub(super) fn start(place: &Place, preset: &str, batch: usize) -> Result<Self> {
        let shards: Vec<_> = place
            .setup
            .shards
            .iter()
            .map(|path| path.to_str().context("a shard's name is not UTF-8"))
            .collect::<Result<_>>()?;
        let out = place.file("run");
        let log = place.file("run.log");
        let program = std::env::current_exe().context("cannot find this program")?;
        let child = Command::new(program)
            .args(["pretrain", "--plain", "--quiet", "--steps", "1000000"])
            .args(["--preset", preset, "--train", &shards.join("::")])
            .args(["--batch", &batch.to_string()])
            .args(["--set", &format!("threads={}", place.threads())])
            .args(["--set", &format!("precision={}", place.setup.precision)])
            .args(["--device", &place.started.name.to_string()])
            .arg("--out")
            .arg(&out)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).with_context(|| format!("cannot write {}", log.display()))?)
            .spawn()
            .context("cannot start `clip pretrain`")?;
        Ok(Self {
            child,
            log,
            metrics: out.join("metrics.jsonl"),
            read: 0,
            steps: 0,
            batch,
        })
    }

    /// Steps that are done: a line each.
    fn steps(&mut self) -> Result<usize> {
        if let Some(status) = self.child.try_wait()? {
            let said = fs::read_to_string(&self.log).unwrap_or_default();
            bail!("the run ended ({status}): {}", said.trim());
        }
        // There is no such file before the first.
        if let Ok(mut file) = File::open(&self.metrics) {
            let mut lines = Vec::new();
            file.seek(SeekFrom::Start(self.read))?;
            file.read_to_end(&mut lines)?;
            self.read += lines.len() as u64;
            self.steps += lines.split(|byte| *byte == b'\n').count() - 1;
        }
        Ok(self.steps)
    }

    fn wait_for(&mut self, more: usize) -> Result<()> {
        let end = self.steps()? + more;
        while self.steps()? < end {
            thread::sleep(TICK);
        }
        Ok(())
    }
}

#[cfg(unix)]
impl Run {
    fn signal(&self, name: &str) -> Result<()> {
        let process = self.child.id().to_string();
        let sent = Command::new("kill").args([name, &process]).status();
        let sent =
            sent.context("cannot start `kill`, which stops a run while the other side works")?;
        anyhow::ensure!(sent.success(), "`kill {name} {process}` failed");
        Ok(())
    }
}

#[cfg(not(unix))]
impl Run {
    fn signal(&self, _name: &str) -> Result<()> {
        bail!("a run can't be stopped for its turn on this system, which has no signals")
    }
}

impl Task for Run {
    fn get_ready(&mut self) -> Result<()> {
        self.signal("-CONT")?;
        self.wait_for(1)
    }

    fn rest(&mut self) -> Result<()> {
        self.signal("-STOP")
    }

    fn peak_bytes(&self) -> Option<u64> {
        clip_train::peak_memory_of(&self.child.id().to_string())
    }

    fn run(&mut self) -> Result<u64> {
        let steps = IMAGES.div_ceil(self.batch);
        self.wait_for(steps)?;
        Ok((steps * self.batch) as u64)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // One that has ended can't be killed, and none is left behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
