//! How does everything learn that the process must end?

use std::io;

use tokio_util::sync::CancellationToken;

/// One request to stop, shared by everything that runs. Cheap to clone; triggering any clone triggers all.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// A request nobody has made yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A request that SIGTERM or SIGINT makes. Call it inside the runtime.
    ///
    /// # Errors
    /// When the operating system refuses the signal handlers.
    pub fn on_signals() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let shutdown = Self::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let requested = shutdown.clone();
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
                () = requested.requested() => return,
            };
            tracing::info!(signal = name, "stopping");
            requested.trigger();
        });
        Ok(shutdown)
    }

    /// Asks everything to stop. Asking again changes nothing.
    pub fn trigger(&self) {
        self.0.cancel();
    }

    /// Whether it was asked.
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Resolves when it is asked; at once if it already was.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }

    /// A request for one part: triggered with this one, but triggering it stops only that part.
    #[must_use]
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_stops_with_the_whole_but_not_the_other_way_round() {
        let whole = Shutdown::new();
        let part = whole.child();
        part.trigger();
        part.requested().await;
        assert!(!whole.is_requested());
        let other = whole.child();
        whole.trigger();
        other.requested().await;
        assert!(other.is_requested());
    }
}
