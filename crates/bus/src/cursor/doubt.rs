//! Which entries were passed over without knowing what they said, and when may the owner be asked about them?

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// Least time between two snapshots asked for because of doubts: a flood of forged entries must not become a flood of
/// snapshots.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// How an owner says that it cannot read an entry that was signed rightly.
#[derive(Debug, Default)]
pub struct Unreadable(Cell<bool>);

impl Unreadable {
    /// What the entry says is not known here: the cursor treats it as missed, and asks for a new snapshot
    /// (docs/contract/event-bus.md, "Loss").
    pub fn report(&self) {
        self.0.set(true);
    }

    pub(super) fn is_reported(&self) -> bool {
        self.0.get()
    }
}

/// Entries that no snapshot asked for so far is known to cover.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    open: bool,
    /// When the owner may be asked because of doubts again; `None` before the first time.
    not_before: Option<Instant>,
}

impl Doubts {
    pub(super) fn raise(&mut self) {
        self.open = true;
    }

    /// Whether something was passed over since the last snapshot was asked for.
    pub(super) fn are_open(&self) -> bool {
        self.open
    }

    pub(super) fn are_due(&self, now: Instant) -> bool {
        self.open && self.not_before.is_none_or(|moment| now >= moment)
    }

    /// A snapshot was asked for: it covers everything passed over until now.
    pub(super) fn asked(&mut self, now: Instant) {
        if std::mem::take(&mut self.open) {
            self.not_before = Some(now + ASK_EVERY);
        }
    }

    /// Resolves when the owner may be asked; never while there is nothing to ask.
    pub(super) async fn wait(&self) {
        match (self.open, self.not_before) {
            (true, Some(moment)) => tokio::time::sleep_until(moment).await,
            (true, None) => {}
            (false, _) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_doubt_is_due_at_once_and_the_next_only_after_a_second() {
        let mut doubts = Doubts::default();
        let start = Instant::now();
        assert!(!doubts.are_due(start));
        doubts.raise();
        assert!(doubts.are_due(start));
        doubts.asked(start);
        assert!(!doubts.are_open());
        for _forged in 0..1000 {
            doubts.raise();
        }
        assert!(doubts.are_open(), "nothing is fresh while it waits");
        assert!(!doubts.are_due(start + Duration::from_millis(999)));
        assert!(doubts.are_due(start + ASK_EVERY));
    }
}
