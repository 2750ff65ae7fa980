//! How is one record kept in a file so that a half-written or damaged one is recognised?
//!
//! `length: u32 LE | crc32: u32 LE over time and payload | time: i64 LE, Unix milliseconds | payload`
//! (docs/operating/spool.md, "Files").

use std::ops::Range;

/// Bytes of a record that are not payload.
pub(crate) const HEADER_BYTES: usize = 16;
/// Longest payload that is believed. A damaged length must not make the reader ask for gigabytes.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What stands at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A whole record.
    Whole {
        /// When it was written, Unix milliseconds.
        written_unix_ms: i64,
        /// Where its payload stands in the bytes given.
        payload: Range<usize>,
    },
    /// The bytes end before the record does: it was never finished, or there is more to read.
    Short,
    /// Not a record.
    Damaged,
}

/// Adds a record to `file_bytes`. `payload` must not be longer than [`PAYLOAD_BYTES_MAX`].
pub(crate) fn write(file_bytes: &mut Vec<u8>, written_unix_ms: i64, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let time = written_unix_ms.to_le_bytes();
    file_bytes.extend_from_slice(&length.to_le_bytes());
    file_bytes.extend_from_slice(&checksum(&time, payload).to_le_bytes());
    file_bytes.extend_from_slice(&time);
    file_bytes.extend_from_slice(payload);
}

/// Reads the record at the beginning of `bytes`.
pub(crate) fn read(bytes: &[u8]) -> Frame {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
        return Frame::Short;
    };
    let Some((crc, rest)) = rest.split_first_chunk::<4>() else {
        return Frame::Short;
    };
    let Some((time, rest)) = rest.split_first_chunk::<8>() else {
        return Frame::Short;
    };
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    // No record is empty: a hole of zeros, as a power cut leaves it, must not look like records.
    if length == 0 || length > PAYLOAD_BYTES_MAX {
        return Frame::Damaged;
    }
    let Some(payload) = rest.get(..length) else {
        return Frame::Short;
    };
    if checksum(time, payload) != u32::from_le_bytes(*crc) {
        return Frame::Damaged;
    }
    Frame::Whole {
        written_unix_ms: i64::from_le_bytes(*time),
        payload: HEADER_BYTES..HEADER_BYTES + length,
    }
}

/// How many of `bytes` are whole records, from the beginning; calls `each` with the time and payload of every one.
pub(crate) fn read_all<'b>(bytes: &'b [u8], mut each: impl FnMut(i64, &'b [u8])) -> usize {
    let mut offset = 0;
    while let Some(rest) = bytes.get(offset..) {
        let Frame::Whole {
            written_unix_ms,
            payload,
        } = read(rest)
        else {
            break;
        };
        let end = payload.end;
        each(written_unix_ms, rest.get(payload).unwrap_or_default());
        offset += end;
    }
    offset
}

fn checksum(time: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(time);
    hasher.update(payload);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_records() -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, 7, b"first");
        write(&mut bytes, 8, b"second one");
        bytes
    }

    #[test]
    fn records_read_back_in_order() {
        let bytes = two_records();
        let mut seen = Vec::new();
        assert_eq!(
            read_all(&bytes, |time, payload| seen.push((time, payload.to_vec()))),
            bytes.len()
        );
        assert_eq!(seen, [(7, b"first".to_vec()), (8, b"second one".to_vec())]);
    }

    #[test]
    fn a_record_cut_anywhere_is_short_and_the_one_before_it_stays() {
        let bytes = two_records();
        let first = HEADER_BYTES + 5;
        for cut in first..bytes.len() {
            assert_eq!(
                read_all(&bytes[..cut], |_time, _payload| {}),
                first,
                "cut at {cut}"
            );
            assert_eq!(read(&bytes[first..cut]), Frame::Short);
        }
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let mut original = Vec::new();
        write(&mut original, 7, b"first");
        for position in 0..original.len() * 8 {
            let mut bytes = original.clone();
            bytes[position / 8] ^= 1 << (position % 8);
            assert!(!matches!(read(&bytes), Frame::Whole { .. }), "bit {position}");
        }
        assert_eq!(read(&[0; 64]), Frame::Damaged, "zeros are no record");
    }
}
