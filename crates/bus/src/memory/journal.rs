//! What does the in-process bus remember over a restart?
//!
//! One append-only file of checksummed changes. Opening it replays them, drops a half-written last one, and writes
//! the result back as the shortest list of changes; the same happens when the file has outgrown what it describes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::record::Record;
use super::state::State;
use crate::directory::{DirectoryError, OwnedDirectory};
use crate::error::BusError;
use crate::frame;

const FILE: &str = "journal";
/// Below this size a journal is never rewritten while the bus runs.
const OVERGROWN_BYTES: u64 = 64 * 1024 * 1024;
/// How many times its compacted size a journal may reach.
const OVERGROWN_FACTOR: u64 = 4;

#[derive(Debug)]
pub(super) struct Journal {
    directory: OwnedDirectory,
    file: File,
    bytes: u64,
    compacted_bytes: u64,
}

impl Journal {
    /// Takes `directory`, and brings `state` to where its journal ends.
    pub(super) fn open(directory: &Path, state: &mut State) -> Result<Self, DirectoryError> {
        let failed = |source| DirectoryError::Io {
            directory: directory.to_owned(),
            source,
        };
        let owned = OwnedDirectory::take(directory)?;
        replay(&directory.join(FILE), state).map_err(failed)?;
        let (file, bytes) = rewrite(&owned, state).map_err(failed)?;
        Ok(Self {
            directory: owned,
            file,
            bytes,
            compacted_bytes: bytes,
        })
    }

    /// Writes one change; when it cannot be written as a whole, it is not written at all.
    pub(super) fn append(&mut self, record: &Record) -> Result<(), BusError> {
        let mut bytes = Vec::new();
        encode(&mut bytes, record)?;
        if let Err(error) = self.file.write_all(&bytes) {
            self.file.set_len(self.bytes)?;
            return Err(error.into());
        }
        self.bytes += length(&bytes);
        Ok(())
    }

    /// Whether most of the file describes what is gone.
    pub(super) fn is_overgrown(&self) -> bool {
        self.bytes > OVERGROWN_BYTES && self.bytes / OVERGROWN_FACTOR > self.compacted_bytes
    }

    /// Replaces the file by the shortest list of changes that leads to `state`.
    pub(super) fn compact(&mut self, state: &State) -> Result<(), BusError> {
        let (file, bytes) = rewrite(&self.directory, state)?;
        self.file = file;
        self.bytes = bytes;
        self.compacted_bytes = bytes;
        Ok(())
    }
}

fn replay(path: &Path, state: &mut State) -> io::Result<()> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut unknown = 0_u64;
    let whole = frame::read_all(&bytes, |_time, payload| match Record::from_bytes(payload) {
        Some(record) => state.apply(record),
        None => unknown += 1,
    });
    if whole < bytes.len() || unknown > 0 {
        let dropped_bytes = bytes.len() - whole;
        tracing::warn!(path = %path.display(), dropped_bytes, unknown, "the end of the event journal was not whole");
    }
    Ok(())
}

fn rewrite(directory: &OwnedDirectory, state: &State) -> io::Result<(File, u64)> {
    let mut bytes = Vec::new();
    for record in state.to_records() {
        encode(&mut bytes, &record)?;
    }
    let file = directory.replace(FILE, &bytes)?;
    Ok((file, length(&bytes)))
}

fn encode(bytes: &mut Vec<u8>, record: &Record) -> io::Result<()> {
    frame::write(bytes, 0, &record.to_bytes()?);
    Ok(())
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
