//! Where does evidence go while two processes run? Each has a spool of its own below one directory; what a process leaves
//! behind is published by the next.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use caracal_bus::spool::{Fsync, OpenError, Recovery, Spool, SpoolLimits, run_publisher};
use caracal_bus::{Bus, HmacKey, StreamKeys};
use caracal_chassis::shutdown::Shutdown;

/// Processes that may run at the same time: one that serves, and those before it that are not done yet.
const PROCESSES_MAX: usize = 8;
/// Between two looks for spools that their processes have left.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Between two looks at whether a spool is empty.
const EMPTY_CHECK: Duration = Duration::from_millis(200);

fn directories(below: &Path) -> impl Iterator<Item = PathBuf> {
    let below = below.to_owned();
    (0..PROCESSES_MAX).map(move |number| below.join(format!("process-{number}")))
}

/// Opens the first spool below `directory` that no process uses. Blocks on the file system.
///
/// # Errors
/// [`OpenError`]; that of the last one when all are in use.
pub(crate) fn open_free(
    directory: &Path,
    limits: SpoolLimits,
    fsync: Fsync,
) -> Result<(Spool, Recovery), OpenError> {
    let mut outcome = Err(OpenError::Limits);
    for directory in directories(directory) {
        outcome = Spool::open(&directory, limits, fsync);
        if !matches!(outcome, Err(OpenError::Directory(_))) {
            break;
        }
    }
    outcome
}

/// Publishes, until the shutdown, what processes have left in the other spools below `directory`.
pub(crate) async fn adopt_left_behind(
    directory: PathBuf,
    limits: SpoolLimits,
    bus: Arc<dyn Bus>,
    audit_key: Option<HmacKey>,
    keys: StreamKeys,
    stop: Shutdown,
) {
    while !stop.is_requested() {
        // Also the one of a time when processes were not replaced, or are not any more.
        let all = directories(&directory).chain([directory.clone()]);
        for directory in all.filter(|directory| holds_segments(directory)) {
            let opened = tokio::task::spawn_blocking(move || Spool::open(&directory, limits, Fsync::Never));
            // In use: by this process, or by one that is not done yet.
            let Ok(Ok((spool, recovery))) = opened.await else {
                continue;
            };
            if recovery.pending_events > 0 {
                tracing::info!(
                    events = recovery.pending_events,
                    "publishing evidence that a process left behind"
                );
                let until_empty = until_empty(spool.clone(), stop.clone());
                run_publisher(
                    spool,
                    Arc::clone(&bus),
                    audit_key.clone(),
                    keys.clone(),
                    until_empty,
                )
                .await;
            }
        }
        tokio::select! {
            () = stop.requested() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Whether there is a spool with something in it. Blocks on the file system, for a moment.
fn holds_segments(directory: &Path) -> bool {
    let files = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names = files.map(|file| file.file_name());
    names.any(|name| {
        Path::new(&name)
            .extension()
            .is_some_and(|extension| extension == "segment")
    })
}

async fn until_empty(spool: Spool, stop: Shutdown) {
    while spool.stats().pending_events > 0 && !stop.is_requested() {
        tokio::time::sleep(EMPTY_CHECK).await;
    }
}
