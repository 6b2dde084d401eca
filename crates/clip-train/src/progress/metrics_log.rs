use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use clip_files::IoError;
use serde_json::{Map, Value};

use super::{EvalOutput, StepOutput};

/// `metrics.jsonl`: one JSON object a line, each on disk's side of a crash of the program as soon
/// as it is appended.
#[derive(Debug)]
pub(crate) struct MetricsLog {
    path: PathBuf,
    file: File,
}

/// What [`MetricsLog::open`] found in the file of an earlier run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Resumed {
    /// Lines kept.
    pub(crate) kept: usize,
    /// Lines of steps after the resumed one, which will be trained again.
    pub(crate) rewound: usize,
    /// Lines that were no JSON object: the one being written when the earlier run was killed.
    pub(crate) torn: usize,
    /// The last step of the lines kept that has an evaluation.
    pub(crate) evaluated: Option<u64>,
}

impl MetricsLog {
    /// Opens the file at `path` for appending.
    ///
    /// With `resume_step`, lines of later steps and torn lines are cut off, so that the file reads
    /// as if the run had never been interrupted. Without it, a new run starts an empty file.
    ///
    /// # Errors
    ///
    /// The file can't be read, rewritten or opened; the message names it.
    pub(crate) fn open(path: &Path, resume_step: Option<u64>) -> Result<(Self, Resumed), IoError> {
        let mut resumed = Resumed::default();
        let old = match (resume_step, fs::read(path)) {
            (Some(_), Ok(old)) => old,
            (Some(_), Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                return Err(clip_files::io("read", path)(error));
            }
            _ => Vec::new(),
        };
        let mut kept = Vec::with_capacity(old.len());
        for line in old.split_inclusive(|byte| *byte == b'\n') {
            match read(line) {
                None => resumed.torn += 1,
                Some(line) if line.step > resume_step.unwrap_or(u64::MAX) => resumed.rewound += 1,
                Some(Line { step, trained }) => {
                    resumed.kept += 1;
                    if !trained {
                        resumed.evaluated = Some(step);
                    }
                    kept.extend_from_slice(line);
                }
            }
        }
        if kept != old || resume_step.is_none() {
            clip_files::replace(path, &kept)?;
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(clip_files::io("open", path))?;
        let log = Self {
            path: path.to_path_buf(),
            file,
        };
        Ok((log, resumed))
    }

    /// Appends one object. A number that isn't finite becomes `null`, which JSON has no word for.
    ///
    /// # Errors
    ///
    /// The file can't be written; the message names it.
    pub(crate) fn append(&mut self, object: &Map<String, Value>) -> Result<(), IoError> {
        // One write for line and line feed: whatever tears it, a reader sees an unfinished line.
        // invariant: values under string keys always have a JSON form.
        let mut line = serde_json::to_vec(object).expect("invariant: it has a JSON form");
        line.push(b'\n');
        self.file
            .write_all(&line)
            .and_then(|()| self.file.flush())
            .map_err(clip_files::io("append to", &self.path))
    }

    /// Appends a training step: `step` and `samples` so far, `epoch` with its fraction, then the
    /// fields of [`StepOutput`].
    ///
    /// # Errors
    ///
    /// The file can't be written; the message names it.
    pub(crate) fn append_step(
        &mut self,
        step: u64,
        samples: u64,
        epoch: f64,
        output: &StepOutput,
    ) -> Result<(), IoError> {
        let mut line = position(step, samples, epoch);
        // invariant: numbers always have a JSON form.
        let output = serde_json::to_value(output).expect("invariant: it has a JSON form");
        if let Value::Object(fields) = output {
            line.extend(fields);
        }
        self.append(&line)
    }

    /// Appends an evaluation after `step`, under the keys of [`EvalOutput::named`].
    ///
    /// # Errors
    ///
    /// The file can't be written; the message names it.
    pub(crate) fn append_eval(
        &mut self,
        step: u64,
        samples: u64,
        epoch: f64,
        output: &EvalOutput,
    ) -> Result<(), IoError> {
        let mut line = position(step, samples, epoch);
        line.extend(
            output
                .named()
                .map(|found| (found.key, Value::from(found.value))),
        );
        self.append(&line)
    }

    /// What waits until everything appended is on the disk, on whatever thread: a checkpoint wants it there before it.
    ///
    /// # Errors
    ///
    /// The system refuses another handle, or later to write; the message names the file.
    pub(crate) fn sync(
        &self,
    ) -> Result<impl FnOnce() -> Result<(), IoError> + Send + use<>, IoError> {
        let path = self.path.clone();
        let file = self
            .file
            .try_clone()
            .map_err(clip_files::io("open", &path))?;
        Ok(move || file.sync_data().map_err(clip_files::io("write", path)))
    }
}

fn position(step: u64, samples: u64, epoch: f64) -> Map<String, Value> {
    Map::from_iter([
        ("step".to_string(), Value::from(step)),
        ("samples".to_string(), Value::from(samples)),
        ("epoch".to_string(), Value::from(epoch)),
    ])
}

/// What a line tells of.
struct Line {
    /// A line without a step belongs to the start.
    step: u64,
    /// A training step, and no evaluation after one.
    trained: bool,
}

/// A whole line; `None` of a torn one.
fn read(line: &[u8]) -> Option<Line> {
    let line = line.strip_suffix(b"\n")?;
    let object: Map<String, Value> = serde_json::from_slice(line).ok()?;
    Some(Line {
        step: object.get("step").and_then(Value::as_u64).unwrap_or(0),
        trained: object.contains_key("loss"),
    })
}

/// The last step that the metrics at `path` tell of; 0 if there are none.
///
/// # Errors
/// The file is there and can't be read; the message names it.
pub(crate) fn last_step(path: &Path) -> Result<u64, IoError> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        text => text.map_err(clip_files::io("read", path))?,
    };
    let steps = text.split_inclusive(|byte| *byte == b'\n').filter_map(read);
    Ok(steps.map(|line| line.step).max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use clip_metrics::{Kind, Measured};

    use super::*;

    const STEP: StepOutput = StepOutput {
        loss: 3.5,
        distill_loss: None,
        caption_loss: None,
        logit_scale: 14.3,
        lr: 1e-3,
        images_per_s: 84.0,
        data_wait: 0.01,
        grad_norm: 0.7,
        batch: 256,
    };

    fn file() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        (folder, path)
    }

    fn steps(path: &Path) -> Vec<u64> {
        let text = fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| read(format!("{line}\n").as_bytes()).unwrap().step)
            .collect()
    }

    #[test]
    fn a_resumed_file_reads_as_if_never_interrupted() {
        let (_folder, path) = file();
        let (mut log, _) = MetricsLog::open(&path, None).unwrap();
        for step in 1..=6 {
            log.append_step(step, 256 * step, 0.1, &STEP).unwrap();
            if step % 3 == 0 {
                let found = EvalOutput::default();
                log.append_eval(step, 256 * step, 0.1, &found).unwrap();
            }
        }
        // Killed in the middle of a line, after the checkpoint of step 4.
        log.file.write_all(br#"{"step": 7, "lo"#).unwrap();
        drop(log);

        let (mut log, resumed) = MetricsLog::open(&path, Some(4)).unwrap();
        let expected = Resumed {
            kept: 5,
            rewound: 3,
            torn: 1,
            evaluated: Some(3),
        };
        assert_eq!(resumed, expected);
        log.append_step(5, 1280, 0.1, &STEP).unwrap();
        assert_eq!(steps(&path), [1, 2, 3, 3, 4, 5]);
        assert_eq!(last_step(&path).unwrap(), 5);
    }

    #[test]
    fn a_new_run_starts_an_empty_file() {
        let (_folder, path) = file();
        fs::write(&path, "{\"step\": 9}\n").unwrap();
        let (_log, resumed) = MetricsLog::open(&path, None).unwrap();
        assert_eq!(resumed, Resumed::default());
        assert_eq!(fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn resuming_without_a_file_starts_one() {
        let (_folder, path) = file();
        let (mut log, _) = MetricsLog::open(&path, Some(10)).unwrap();
        log.append_step(11, 0, 0.0, &STEP).unwrap();
        assert_eq!(steps(&path), [11]);
    }

    #[test]
    fn lines_carry_the_documented_keys() {
        let (_folder, path) = file();
        let (mut log, _) = MetricsLog::open(&path, None).unwrap();
        let diverged = StepOutput {
            loss: f64::NAN,
            ..STEP
        };
        log.append_step(1, 256, 0.5, &diverged).unwrap();
        let eval = EvalOutput {
            loss: Some(3.0),
            retrieval: vec![Measured::new("i2t_r1", Kind::Share, 0.25)],
            zeroshot: vec![Measured::new("top1", Kind::Share, 0.5)],
            ..EvalOutput::default()
        };
        log.append_eval(1, 256, 0.5, &eval).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"step":1,"samples":256,"epoch":0.5,"loss":null,"logit_scale":14.3,"lr":0.001,"#,
                r#""images_per_s":84.0,"data_wait":0.01,"grad_norm":0.7,"batch":256}"#,
                "\n",
                r#"{"step":1,"samples":256,"epoch":0.5,"val_loss":3.0,"i2t_r1":0.25,"zeroshot_top1":0.5}"#,
                "\n"
            )
        );
    }
}
