//! Up to where has the bus taken the events, should this process end now?

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use super::books::Position;
use crate::directory::{FILE_MODE, OwnedDirectory};

const FILE: &str = "position";

/// The file that says so. It is written in place, one short write for each batch: replacing a file makes the file system
/// put it on the disk.
#[derive(Debug)]
pub(super) struct PositionFile(File);

impl PositionFile {
    /// Opens the file and reads what it says, also as earlier versions wrote it. A file that cannot be read, because a power
    /// cut tore it for example, counts as the beginning: events may be published twice, never lost.
    pub(super) fn open(directory: &OwnedDirectory) -> io::Result<(Self, Position)> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(directory.path().join(FILE))?;
        let mut text = [0; 128];
        let length = file.read_at(&mut text, 0)?;
        let position = text.get(..length).and_then(parse).unwrap_or_default();
        Ok((Self(file), position))
    }

    /// Remembers what the bus has taken. Survives the process as soon as this returns.
    pub(super) fn save(&self, position: Position) -> io::Result<()> {
        self.0.write_all_at(line(position).as_bytes(), 0)
    }
}

/// Always of the same length, so that nothing of an older line remains.
fn line(position: Position) -> String {
    let numbers = format!("{:020} {:020}", position.segment, position.offset);
    let checksum = crc32fast::hash(numbers.as_bytes());
    format!("{numbers} {checksum:08x}\n")
}

fn parse(text: &[u8]) -> Option<Position> {
    let text = std::str::from_utf8(text).ok()?;
    let mut numbers = text.split_whitespace().map(str::parse::<u64>);
    let position = Position {
        segment: numbers.next()?.ok()?,
        offset: numbers.next()?.ok()?,
    };
    (line(position) == text || line_without_checksum(position) == text).then_some(position)
}

/// As versions wrote it that replaced the file. What a power cut leaves of a [`line`] over such a one either begins with two
/// zeros, which this never does, or names segment 0, which is before every event.
fn line_without_checksum(position: Position) -> String {
    format!("{} {}\n", position.segment, position.offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_of_an_earlier_version_is_read_and_nothing_that_a_power_cut_made_of_it_is_beyond_it() {
        let older = Position {
            segment: 7,
            offset: 1_048_576,
        };
        let text = line_without_checksum(older);
        assert_eq!(text, "7 1048576\n");
        assert_eq!(parse(text.as_bytes()), Some(older));
        for other in [
            "7 1048576",
            "07 1048576\n",
            "7  1048576\n",
            "7 1048576 \n",
            "7 1048576\n1",
        ] {
            assert_eq!(parse(other.as_bytes()), None, "{other:?}");
        }
        let newer = line(Position {
            segment: 70_000_000_000_000_000,
            offset: 5,
        });
        for cut in 1..newer.len() {
            let torn = format!("{}{}", &newer[..cut], text.get(cut..).unwrap_or_default());
            let read = parse(torn.as_bytes()).unwrap_or_default();
            assert!(read <= older, "{torn:?}");
        }
    }

    #[test]
    fn what_was_torn_is_no_position() {
        let (older, newer) = (
            Position {
                segment: 1,
                offset: 999,
            },
            Position {
                segment: 2,
                offset: 5,
            },
        );
        let (older, newer) = (line(older), line(newer));
        assert_eq!(
            parse(newer.as_bytes()),
            Some(Position {
                segment: 2,
                offset: 5
            })
        );
        for cut in 1..newer.len() - 1 {
            let torn = format!("{}{}", &newer[..cut], &older[cut..]);
            let is_whole = torn == older || torn == newer;
            assert_eq!(parse(torn.as_bytes()).is_some(), is_whole, "{torn}");
            assert_eq!(parse(&newer.as_bytes()[..cut]), None);
        }
    }
}
