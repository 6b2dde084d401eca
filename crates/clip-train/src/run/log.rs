use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use crate::TrainError;

/// All that a run has said, since its beginning.
const LOG: &str = "log.txt";
/// What ended it, unless it goes on or came to its end.
const FAILURE: &str = "error.txt";

/// What a run says, kept in its directory: whoever looks later has no terminal to read.
///
/// A line that can't be written doesn't end a run of hours: nothing here fails once the log is open.
#[derive(Clone, Debug)]
pub struct RunLog {
    file: Arc<Mutex<File>>,
    failure: PathBuf,
}

impl RunLog {
    /// That of the run in `path`, which begins or goes on: what ended it before is no longer so.
    pub(super) fn open(path: &Path) -> Result<Self, TrainError> {
        let failure = path.join(FAILURE);
        match fs::remove_file(&failure) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(clip_files::io("remove", failure)(error).into());
            }
            _ => {}
        }
        let path = path.join(LOG);
        let file = File::options().create(true).append(true).open(&path);
        let file = file.map_err(clip_files::io("write", path))?;
        Ok(Self {
            file: Arc::new(Mutex::new(file)),
            failure,
        })
    }

    /// Appends a line, with the time in front.
    pub fn say(&self, line: &str) {
        let now = humantime::format_rfc3339_seconds(SystemTime::now());
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // One write a line: two processes' lines don't mix.
        let _ = file.write_all(format!("{now} {line}\n").as_bytes());
    }

    /// Appends what ended the run, and has [`Standing::of`](super::Standing::of) know it.
    pub fn fail(&self, lines: &[String]) {
        for line in lines {
            self.say(line);
        }
        // Where the directory was may be another run's by now.
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if clip_files::is_at(&file, &self.failure.with_file_name(LOG)).unwrap_or(true) {
            let _ = fs::write(&self.failure, lines.join("\n") + "\n");
        }
    }
}

/// What ended the run in `path`, if anything did and it hasn't gone on.
pub(super) fn failure(path: &Path) -> Option<String> {
    let told = fs::read_to_string(path.join(FAILURE)).ok()?;
    Some(told.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn what_ended_a_run_is_not_told_of_another_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let [path, elsewhere] = ["run", "elsewhere"].map(|name| dir.path().join(name));
        fs::create_dir(&path).unwrap();
        let log = RunLog::open(&path).unwrap();
        fs::rename(&path, &elsewhere).unwrap();
        fs::create_dir(&path).unwrap();
        RunLog::open(&path).unwrap();
        log.fail(&["error: it was moved".to_owned()]);
        assert_eq!(failure(&path), None);
        let told = fs::read_to_string(elsewhere.join(LOG)).unwrap();
        assert!(told.contains("it was moved"), "{told}");
    }

    #[test]
    fn what_was_said_stays_and_what_ended_a_run_until_it_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let log = RunLog::open(dir.path()).unwrap();
        log.say("checkpoint written");
        log.fail(&["error: no space".to_owned(), "  cause: the disk".to_owned()]);
        assert_eq!(
            failure(dir.path()).unwrap(),
            "error: no space\n  cause: the disk"
        );
        let again = RunLog::open(dir.path()).unwrap();
        assert_eq!(failure(dir.path()), None);
        again.say("goes on");
        let text = fs::read_to_string(dir.path().join(LOG)).unwrap();
        let said: Vec<_> = text
            .lines()
            .map(|line| {
                let (time, said) = line.split_once(' ').unwrap();
                assert!(humantime::parse_rfc3339(time).is_ok(), "{time}");
                said
            })
            .collect();
        let expected = [
            "checkpoint written",
            "error: no space",
            "  cause: the disk",
            "goes on",
        ];
        assert_eq!(said, expected);
    }
}
