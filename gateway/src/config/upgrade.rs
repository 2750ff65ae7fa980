//! How does a new process take over from this one?

use std::path::PathBuf;
use std::time::Duration;

use caracal_chassis::config::Reader;

use super::{DAY, SECOND};

/// Where a new process asks, and how long this one stays for what it has begun.
#[derive(Clone, Debug)]
pub(crate) struct Upgrade {
    /// The Unix socket.
    pub(crate) socket: PathBuf,
    /// For connections that are open when the new process serves.
    pub(crate) drain: Duration,
}

impl Upgrade {
    pub(super) fn read(reader: &mut Reader<'_>, is_alone: bool) -> Option<Self> {
        let drain = reader.duration("UPGRADE_DRAIN_TIMEOUT", 3_600 * SECOND, SECOND..=DAY);
        let socket = reader.optional_path("UPGRADE_SOCKET")?;
        reader.check(
            !is_alone,
            "UPGRADE_SOCKET",
            "is set for a gateway whose replay table ends with its process",
            "set REDIS_URL to a Redis, or leave UPGRADE_SOCKET out",
        );
        Some(Self { socket, drain })
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::read;

    #[test]
    fn only_a_gateway_whose_replay_table_outlives_it_is_taken_over_from() {
        assert!(read(&[]).unwrap().upgrade.is_none());
        let socket = ("UPGRADE_SOCKET", "/run/up.sock");
        assert!(read(&[socket]).unwrap().upgrade.is_some());
        let errors = read(&[socket, ("REDIS_URL", "memory:")]).unwrap_err();
        assert!(errors.contains("UPGRADE_SOCKET"), "{errors}");
    }
}
