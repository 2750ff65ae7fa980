//! How long to wait for the next turn, and what ends the wait early?

use std::time::Duration;

use caracal_storage::Database;
use caracal_storage::outbox::CHANNEL;
use caracal_storage::pool::Notifications;
use tokio::sync::watch;

/// First pause after a failure.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause between two attempts during an outage.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Longest wait of a relay that could not begin to listen.
const UNHEARD: Duration = Duration::from_secs(1);

/// Waits `time`, or until the relay stops.
pub(crate) async fn pause(stopped: &mut watch::Receiver<bool>, time: Duration) {
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        () = requested(stopped) => {}
    }
}

/// Resolves when the relay shall stop, or when nobody is left to say so.
pub(crate) async fn requested(stopped: &mut watch::Receiver<bool>) {
    let _gone_means_stop = stopped.wait_for(|stopped| *stopped).await;
}

/// Doubles from attempt to attempt and logs only the first failure and the recovery.
#[derive(Debug)]
pub(crate) struct Outage {
    what: &'static str,
    failures: u32,
}

impl Outage {
    /// Nothing has failed yet.
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, failures: 0 }
    }

    /// Counts a failure and answers how long to pause.
    pub(crate) fn failed(&mut self, error: &dyn std::error::Error) -> Duration {
        if self.failures == 0 {
            let cause = error.source().map(ToString::to_string).unwrap_or_default();
            tracing::warn!(error = %error, cause, "{} does not work; trying again until it does", self.what);
        }
        let pause = PAUSE_MIN.saturating_mul(2_u32.saturating_pow(self.failures.min(16)));
        self.failures = self.failures.saturating_add(1);
        pause.min(PAUSE_MAX)
    }

    /// Ends an outage.
    pub(crate) fn succeeded(&mut self) {
        if self.failures > 0 {
            tracing::info!(attempts = self.failures, "{} works again", self.what);
        }
        self.failures = 0;
    }
}

/// Waits for a new outbox row: until one is announced, and never longer than the poll.
#[derive(Debug)]
pub(crate) struct Wakeups<'d> {
    database: &'d Database,
    listening: Option<Notifications>,
}

impl<'d> Wakeups<'d> {
    /// Not listening yet.
    pub(crate) fn new(database: &'d Database) -> Self {
        Self {
            database,
            listening: None,
        }
    }

    /// Begins to listen if that is not so already. Call it before looking for rows: what is promised after the look is
    /// then announced.
    pub(crate) async fn listen(&mut self) {
        if self.listening.is_none() {
            self.listening = self.database.listen(&[CHANNEL]).await.ok();
        }
        if let Some(notifications) = &mut self.listening {
            notifications.skip_arrived();
        }
    }

    /// Waits until a row is announced, the connection was lost, or `poll` is over.
    pub(crate) async fn wait(&mut self, poll: Duration) {
        let Some(notifications) = &mut self.listening else {
            // Nobody announces anything: until it can listen again, it looks.
            return tokio::time::sleep(poll.min(UNHEARD)).await;
        };
        if let Ok(Err(_lost)) = tokio::time::timeout(poll, notifications.next()).await {
            self.listening = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_start_over_after_success() {
        let mut outage = Outage::new("a test");
        let error = std::io::Error::other("down");
        let pauses: Vec<u128> = (0..8).map(|_| outage.failed(&error).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        outage.succeeded();
        assert_eq!(outage.failed(&error), PAUSE_MIN);
    }
}
