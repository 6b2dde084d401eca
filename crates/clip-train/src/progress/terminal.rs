//! The terminal while Burn's dashboard owns it: nothing else is written there, Ctrl-C still means what it does elsewhere,
//! and a program that ends at once leaves it as it was.

use std::{
    io::{self, StdoutLock, Write},
    sync::{Mutex, PoisonError},
};

use crossterm::{
    cursor::Show,
    event::DisableMouseCapture,
    execute,
    terminal::{LeaveAlternateScreen, disable_raw_mode},
};

/// The lines that wait for this program's terminal.
pub(super) static TERMINAL: Held = Held::new();

/// Lines that wait until the dashboard is gone; none do while there is no dashboard.
pub(crate) struct Held(Mutex<Option<Vec<String>>>);

impl Held {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// From now on lines wait.
    pub(super) fn begin(&self) {
        self.waiting().get_or_insert_default();
    }

    /// Keeps a line, or gives it back where it needn't wait.
    pub(super) fn keep(&self, line: String) -> Option<String> {
        match &mut *self.waiting() {
            Some(lines) => {
                lines.push(line);
                None
            }
            None => Some(line),
        }
    }

    /// The lines that waited; from now on none do. `None` where none had to.
    pub(super) fn end(&self) -> Option<Vec<String>> {
        self.waiting().take()
    }

    /// What a panicking thread left behind a lock of lines is still lines.
    fn waiting(&self) -> std::sync::MutexGuard<'_, Option<Vec<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says a line on stderr, or keeps it until the dashboard has given the terminal back.
pub fn say_on_stderr(line: String) {
    if let Some(line) = TERMINAL.keep(line) {
        print(&line);
    }
}

/// Takes the terminal from the dashboard, if there is one, and says what waited for that. Nothing draws on stdout as long
/// as what is returned is kept, which is for a program that ends now.
pub fn end_dashboard() -> Option<StdoutLock<'static>> {
    let lines = TERMINAL.end()?;
    let mut stdout = io::stdout().lock();
    // Nobody is left to tell what fails here.
    let _ = disable_raw_mode();
    let _ = execute!(stdout, DisableMouseCapture, LeaveAlternateScreen, Show);
    for line in lines {
        print(&line);
    }
    Some(stdout)
}

/// Nobody is left to tell that stderr is closed.
fn print(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Puts the terminal into raw mode, as the dashboard is about to, but for Ctrl-C, which it knows no key for.
///
/// crossterm's raw mode, once on, isn't set again, so this stays until the dashboard ends it.
#[cfg(unix)]
pub(super) fn keep_interrupts() -> io::Result<()> {
    use std::{
        fs::File,
        io::IsTerminal,
        os::fd::{AsFd, BorrowedFd},
    };

    use crossterm::terminal::enable_raw_mode;
    use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};

    /// Of a key that is off (`_POSIX_VDISABLE`).
    const OFF: u8 = if cfg!(any(target_os = "linux", target_os = "android")) {
        0
    } else {
        0xff
    };

    enable_raw_mode()?;
    let set = |terminal: BorrowedFd<'_>| {
        let mut modes = tcgetattr(terminal)?;
        modes.local_modes |= LocalModes::ISIG;
        // These would leave the shell with the dashboard's screen.
        modes.special_codes[SpecialCodeIndex::VSUSP] = OFF;
        modes.special_codes[SpecialCodeIndex::VQUIT] = OFF;
        tcsetattr(terminal, OptionalActions::Now, &modes)
    };
    // The one that crossterm takes.
    let stdin = io::stdin();
    if stdin.is_terminal() {
        set(stdin.as_fd())?;
    } else {
        set(File::options()
            .read(true)
            .write(true)
            .open("/dev/tty")?
            .as_fd())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_wait_as_long_as_there_is_a_dashboard() {
        let held = Held::new();
        assert_eq!(held.keep("before".to_owned()), Some("before".to_owned()));
        assert_eq!(held.end(), None);
        held.begin();
        for line in ["a checkpoint", "a warning"] {
            assert_eq!(held.keep(line.to_owned()), None);
        }
        let waited = held.end().unwrap();
        assert_eq!(waited, ["a checkpoint", "a warning"]);
        assert_eq!(held.keep("after".to_owned()), Some("after".to_owned()));
    }
}
