//! Which files are in a gzipped tar? Read from memory, within limits, and never written anywhere.

use std::collections::BTreeMap;
use std::io::Read;

use flate2::read::GzDecoder;
use tar::{Archive, EntryType};

use super::{ENTRIES_MAX, OpaBundleError, UNPACKED_BYTES_MAX};

const PATH_BYTES_MAX: usize = 256;

/// The files by their paths, which are relative and have neither empty segments nor dots for segments.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// Unpacks an archive. Memory: at most twice [`UNPACKED_BYTES_MAX`].
pub(super) fn unpack(bytes: &[u8]) -> Result<Files, OpaBundleError> {
    let tar = inflate(bytes)?;
    let mut archive = Archive::new(tar.as_slice());
    let mut files = Files::new();
    let entries = archive.entries().map_err(OpaBundleError::Archive)?;
    for (number, entry) in entries.enumerate() {
        if number >= ENTRIES_MAX {
            return Err(OpaBundleError::TooManyEntries);
        }
        let mut entry = entry.map_err(OpaBundleError::Archive)?;
        match entry.header().entry_type() {
            EntryType::Regular => {}
            // A comment on the archive as git writes it, and folders, which the files name anyway.
            EntryType::XGlobalHeader | EntryType::Directory => continue,
            _ => return Err(OpaBundleError::NotAFile(shown(&entry.path_bytes()))),
        }
        let path = path(&entry.path_bytes())?;
        // What an entry says of its size is not believed.
        let mut content = Vec::new();
        let limit = u64::try_from(UNPACKED_BYTES_MAX).unwrap_or(u64::MAX);
        entry
            .by_ref()
            .take(limit)
            .read_to_end(&mut content)
            .map_err(OpaBundleError::Archive)?;
        if files.contains_key(&path) {
            return Err(OpaBundleError::Path(path));
        }
        files.insert(path, content);
    }
    Ok(files)
}

fn inflate(bytes: &[u8]) -> Result<Vec<u8>, OpaBundleError> {
    let mut tar = Vec::new();
    let limit = u64::try_from(UNPACKED_BYTES_MAX).unwrap_or(u64::MAX);
    GzDecoder::new(bytes)
        .take(limit.saturating_add(1))
        .read_to_end(&mut tar)
        .map_err(OpaBundleError::Archive)?;
    if tar.len() > UNPACKED_BYTES_MAX {
        return Err(OpaBundleError::TooLarge);
    }
    Ok(tar)
}

/// The path of an entry. OPA writes them with a slash in front, tar with a dot and a slash.
fn path(bytes: &[u8]) -> Result<String, OpaBundleError> {
    let refused = || OpaBundleError::Path(shown(bytes));
    let text = std::str::from_utf8(bytes).ok().ok_or_else(refused)?;
    let path = text.strip_prefix("./").or(text.strip_prefix('/')).unwrap_or(text);
    let is_plain = |segment: &str| {
        !matches!(segment, "" | "." | "..")
            && !segment.contains(|character: char| character.is_control() || character == '\\')
    };
    if path.len() > PATH_BYTES_MAX || !path.split('/').all(is_plain) {
        return Err(refused());
    }
    Ok(path.to_owned())
}

/// A path as it may be repeated to who sent it.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars()
        .filter(|character| !character.is_control())
        .take(64)
        .collect()
}
