//! What stands for an anchor in the set, so that a million of them are small?

use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};

use caracal_model::AnchorKind;
use caracal_model::revocation::Anchor;

/// 128 bits of keyed hashes. Two anchors with the same ones would be revoked together; nobody can look for such a pair without the
/// keys, which are new in every process, and among a million by chance there is one in 10^26 processes. No revocation is ever missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark([u32; 4]);

impl Mark {
    /// One of `count` places, by other bits than the map looks at.
    pub(super) fn place(self, count: usize) -> usize {
        let [.., last] = self.0;
        usize::try_from(last).unwrap_or_default() % count
    }
}

impl Hash for Mark {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [high, low, ..] = self.0;
        state.write_u64(u64::from(high) << 32 | u64::from(low));
    }
}

/// Makes marks.
#[derive(Clone, Debug, Default)]
pub(super) struct Marker {
    first: RandomState,
    second: RandomState,
}

impl Marker {
    /// The mark of an anchor. Cost: two `SipHash` of its id.
    pub(super) fn mark(&self, anchor: &Anchor) -> Mark {
        let halves = [half(&self.first, anchor), half(&self.second, anchor)];
        let [(a, b), (c, d)] = halves.map(split);
        Mark([a, b, c, d])
    }
}

/// The id and then one byte for its kind, so that no two anchors are the same bytes.
fn half(keys: &RandomState, anchor: &Anchor) -> u64 {
    let mut hasher = keys.build_hasher();
    hasher.write(anchor.id().as_bytes());
    hasher.write_u8(match anchor.kind() {
        AnchorKind::AuthorityRecord => 0,
        AnchorKind::Session => 1,
        AnchorKind::Delegation => 2,
    });
    hasher.finish()
}

#[expect(clippy::cast_possible_truncation, reason = "its two halves")]
fn split(hash: u64) -> (u32, u32) {
    ((hash >> 32) as u32, hash as u32)
}

/// Marks are hashes already.
pub(super) type MarkHasher = BuildHasherDefault<AsItIs>;

/// Gives what was written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_has_one_mark_and_another_kind_or_process_another() {
        let (marker, other) = (Marker::default(), Marker::default());
        let anchor = |kind| Anchor::from_parts(kind, "a").unwrap();
        let session = marker.mark(&anchor(AnchorKind::Session));
        assert_eq!(session, marker.mark(&anchor(AnchorKind::Session)));
        assert_ne!(session, marker.mark(&anchor(AnchorKind::Delegation)));
        assert_ne!(session, other.mark(&anchor(AnchorKind::Session)));
    }

    #[test]
    fn an_entry_stays_small() {
        assert_eq!(size_of::<(Mark, u32)>(), 20);
    }
}
