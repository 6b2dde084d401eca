use std::{
    collections::VecDeque,
    io::{self, IsTerminal, Write},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use burn::train::{
    Interrupter,
    renderer::{MetricsRenderer, tui::TuiMetricsRendererWrapper},
};

#[cfg(unix)]
use super::terminal::keep_interrupts;
use super::{
    PlainRenderer,
    terminal::{Held, TERMINAL},
};
use crate::RunLog;

/// How a run shows itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Display {
    /// The dashboard where both stdout and stderr are a terminal, plain lines elsewhere.
    #[default]
    Auto,
    /// Plain lines on stderr.
    Plain,
    /// Burn's dashboard, which takes over the terminal.
    Dashboard,
    /// Nothing: only the run's log tells.
    Quiet,
}

impl Display {
    /// Whether the dashboard is meant, on the terminal at hand.
    fn is_dashboard(self) -> bool {
        match self {
            Self::Plain | Self::Quiet => false,
            Self::Dashboard => true,
            Self::Auto => {
                let can_move_its_cursor =
                    std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
                can_move_its_cursor && io::stdout().is_terminal() && io::stderr().is_terminal()
            }
        }
    }
}

/// How long a run is, for the share done and the time left.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunPlan {
    /// Steps of the whole run.
    pub(crate) total_steps: u64,
    /// Steps done before this program started: above 0 when resumed.
    pub(crate) steps_done: u64,
    /// Steps of an epoch; may be less than one batch's worth, hence a float.
    pub(crate) steps_per_epoch: f64,
    /// Plain lines come no closer together than this.
    pub(crate) line_interval: Duration,
    /// Plain lines come at most every so many steps.
    pub(crate) line_steps: u64,
}

impl RunPlan {
    /// A run of `total_steps`, of which an epoch has `steps_per_epoch`; a line at most every ten
    /// seconds, which stays readable in a log of hours and still shows life.
    pub(crate) fn new(total_steps: u64, steps_per_epoch: f64) -> Self {
        Self {
            total_steps,
            steps_done: 0,
            steps_per_epoch,
            line_interval: Duration::from_secs(10),
            line_steps: 1,
        }
    }
}

pub(crate) type Output = Arc<Mutex<Box<dyn Write + Send>>>;

/// A voice for what isn't a metric (checkpoints, warnings, where things are): said at once in
/// plain display, kept until the dashboard has given the terminal back otherwise.
#[derive(Clone)]
pub(crate) struct Notes {
    output: Output,
    /// Where all is kept.
    log: Option<RunLog>,
    /// Where lines wait for the end of the dashboard, in a run that has one.
    held: Option<&'static Held>,
    /// Steps recorded whose event the plain lines have not seen yet.
    steps: Arc<Mutex<VecDeque<u64>>>,
}

impl Notes {
    pub(crate) fn new(output: Output, log: Option<RunLog>, held: Option<&'static Held>) -> Self {
        Self {
            output,
            log,
            held,
            steps: Arc::default(),
        }
    }

    /// Gives the next of Burn's events of a step its number, which those have none of: a run that
    /// is rolled back records a step again. The dashboard counts images.
    pub(crate) fn recorded(&self, step: u64) {
        if self.held.is_none() {
            locked(&self.steps).push_back(step);
        }
    }

    /// The number of the step whose event has come.
    pub(crate) fn next_step(&self) -> Option<u64> {
        locked(&self.steps).pop_front()
    }

    /// Says one line.
    pub(crate) fn say(&self, line: impl Into<String>) {
        let line = line.into();
        if let Some(log) = &self.log {
            log.say(&line);
        }
        let now = match self.held {
            Some(held) => held.keep(line),
            None => Some(line),
        };
        if let Some(line) = now {
            print(&self.output, &line);
        }
    }

    /// Prints the lines held back, those of logs too. Call it when the run's renderer is closed.
    pub(crate) fn release(&self) {
        for line in self.held.and_then(Held::end).into_iter().flatten() {
            print(&self.output, &line);
        }
    }
}

/// The renderer of a run for Burn's `SupervisedTraining`, and the voice beside it.
///
/// `interrupter` must be the training's own, so that the dashboard's "stop" key reaches it.
pub(crate) fn renderer_for_run(
    display: Display,
    plan: RunPlan,
    log: Option<RunLog>,
    interrupter: Interrupter,
) -> (Box<dyn MetricsRenderer>, Notes) {
    let output: Output = match display {
        Display::Quiet => Arc::new(Mutex::new(Box::new(io::sink()))),
        _ => Arc::new(Mutex::new(Box::new(io::stderr()))),
    };
    if display.is_dashboard() {
        let notes = Notes::new(output, log, Some(&TERMINAL));
        TERMINAL.begin();
        #[cfg(unix)]
        if let Err(error) = keep_interrupts() {
            notes.say(format!(
                "the dashboard has no Ctrl-C, only its own keys: {error}"
            ));
        }
        return (
            Box::new(TuiMetricsRendererWrapper::new(interrupter, None)),
            notes,
        );
    }
    let notes = Notes::new(output, log, None);
    (Box::new(PlainRenderer::new(plan, notes.clone())), notes)
}

/// A progress line that can't be written (a closed pipe) must not end a run of hours.
fn print(output: &Output, line: &str) {
    let mut output = locked(output);
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}

/// What a panicking thread left behind a lock of lines is still lines.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An output that a test can read.
    #[derive(Clone, Default)]
    pub(crate) struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        pub(crate) fn output(&self) -> Output {
            Arc::new(Mutex::new(Box::new(self.clone())))
        }

        pub(crate) fn lines(&self) -> Vec<String> {
            let bytes = locked(&self.0).clone();
            let text = String::from_utf8(bytes).unwrap();
            text.lines().map(str::to_string).collect()
        }
    }

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            locked(&self.0).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn notes_are_held_while_the_dashboard_owns_the_terminal() {
        static HELD: Held = Held::new();
        let captured = Captured::default();
        let notes = Notes::new(captured.output(), None, Some(&HELD));
        HELD.begin();
        notes.say("checkpoint written");
        assert!(captured.lines().is_empty());
        notes.release();
        notes.release();
        assert_eq!(captured.lines(), ["checkpoint written"]);
        notes.say("stopped");
        assert_eq!(captured.lines(), ["checkpoint written", "stopped"]);
    }
}
