//! What did an earlier process leave in the spool?

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use super::Recovery;
use super::books::{Found, Position, Segment};
use crate::directory::OwnedDirectory;
use crate::frame::{self, Frame};

const SEGMENT_SUFFIX: &str = ".segment";

/// The name of a segment file; names sort as the segments were written.
pub(super) fn segment_file(number: u64) -> String {
    format!("{number:020}{SEGMENT_SUFFIX}")
}

/// Finds the segments, cuts off what is not whole, and removes what was published. New segments begin after the
/// highest number found. `position` is what was remembered.
pub(super) fn recover(directory: &OwnedDirectory, position: Position) -> io::Result<(Found, Recovery)> {
    let mut recovery = Recovery::default();
    let mut found = Found {
        position,
        ..Found::default()
    };
    found.next_segment = found.position.segment + 1;
    for number in segment_numbers(directory.path())? {
        found.next_segment = found.next_segment.max(number + 1);
        if number < found.position.segment {
            fs::remove_file(directory.path().join(segment_file(number)))?;
            continue;
        }
        let published = if number == found.position.segment {
            found.position.offset
        } else {
            0
        };
        let scan = scan(directory, number, published, &mut recovery)?;
        found.pending_events += scan.pending_events;
        found.oldest_unix_ms = found.oldest_unix_ms.or(scan.oldest_unix_ms);
        found.segments.push_back(Segment {
            number,
            bytes: scan.bytes,
            closed: true,
        });
    }
    recovery.pending_events = found.pending_events;
    Ok((found, recovery))
}

struct Scan {
    bytes: u64,
    pending_events: u64,
    oldest_unix_ms: Option<i64>,
}

fn scan(
    directory: &OwnedDirectory,
    number: u64,
    published: u64,
    recovery: &mut Recovery,
) -> io::Result<Scan> {
    let name = segment_file(number);
    let path = directory.path().join(&name);
    let content = fs::read(&path)?;
    let mut pending_events = 0;
    let mut oldest_unix_ms = None;
    let mut offset = 0_u64;
    let whole = frame::read_all(&content, |unix_ms, event| {
        if offset >= published {
            pending_events += 1;
            oldest_unix_ms = oldest_unix_ms.or(Some(unix_ms));
        }
        offset += u64::try_from(frame::HEADER_BYTES + event.len()).unwrap_or(u64::MAX);
    });
    let rest = content.get(whole..).unwrap_or_default();
    if !rest.is_empty() {
        if frame::read(rest) == Frame::Damaged {
            recovery.damaged_segments += 1;
            set_aside(directory, number, rest)?;
        }
        recovery.torn_bytes += u64::try_from(rest.len()).unwrap_or(u64::MAX);
        tracing::warn!(
            segment = name,
            bytes = rest.len(),
            "the end of a spool segment was not whole and is cut off"
        );
        OpenOptions::new().write(true).open(&path)?.set_len(offset)?;
    }
    Ok(Scan {
        bytes: offset,
        pending_events,
        oldest_unix_ms,
    })
}

/// Keeps what cannot be read for whoever wants to look at it.
pub(super) fn set_aside(directory: &OwnedDirectory, number: u64, rest: &[u8]) -> io::Result<()> {
    let name = format!("{number:020}.damaged");
    tracing::error!(
        file = name,
        bytes = rest.len(),
        "a spool segment is damaged; the unreadable part is kept"
    );
    directory.replace(&name, rest).map(drop)
}

fn segment_numbers(directory: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for file in fs::read_dir(directory)? {
        let name = file?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(SEGMENT_SUFFIX));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}
