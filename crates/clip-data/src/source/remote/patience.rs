use std::{
    io::{Error, ErrorKind, Result},
    time::Duration,
};

use tokio::time::sleep;

use super::reason::Reason;

/// How long a server is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Without a byte, after which a connection counts as broken.
    pub(super) silence: Duration,
    /// Before the second try; doubled for each that follows.
    first_delay: Duration,
    longest_delay: Duration,
    /// One after the other without a byte, after which the object counts as unreadable.
    tries: u32,
}

impl Default for Patience {
    /// A minute of refused connections, six of silent ones: a server's restart, and less than a loader waits before it
    /// calls its source stuck.
    #[cfg(not(test))]
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(30),
            first_delay: Duration::from_millis(100),
            longest_delay: Duration::from_secs(30),
            tries: 10,
        }
    }

    #[cfg(test)]
    fn default() -> Self {
        Self {
            silence: Duration::from_millis(500),
            first_delay: Duration::from_millis(5),
            longest_delay: Duration::from_millis(20),
            tries: 8,
        }
    }
}

impl Patience {
    /// Asks again and again, until there is an answer that another try would not change.
    pub(super) async fn ask<T>(
        &self,
        url: &str,
        mut ask: impl AsyncFnMut() -> object_store::Result<T>,
    ) -> Result<T> {
        let mut tries = 0;
        loop {
            let reason = match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error) => Reason::of(&error, url),
            };
            if let Some(kind) = reason.kind {
                return Err(Error::new(kind, reason.text));
            }
            tries += 1;
            self.wait(tries, url, &reason.text, "trying again").await?;
        }
    }

    /// Waits before the next try and says so, or gives up after the last of `tries`.
    pub(super) async fn wait(&self, tries: u32, url: &str, reason: &str, then: &str) -> Result<()> {
        if tries >= self.tries {
            let message = format!("{reason}; gave up after {tries} tries in a row");
            return Err(Error::new(ErrorKind::TimedOut, message));
        }
        let delay = self.delay(tries, url);
        log::warn!("{url}: {reason}; {then} in {:.1} s", delay.as_secs_f64());
        sleep(delay).await;
        Ok(())
    }

    /// Doubled with each try, and apart for each object, so that a crowd doesn't come back at once.
    fn delay(&self, tries: u32, url: &str) -> Duration {
        let doubled = self.first_delay * 2_u32.saturating_pow(tries - 1).min(1 << 16);
        let spread = url.bytes().map(u32::from).sum::<u32>() % 100;
        doubled.min(self.longest_delay) * (100 - spread / 2) / 100
    }
}
