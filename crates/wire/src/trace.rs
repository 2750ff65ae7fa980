//! Which trace does this request belong to, and what travels along?
//!
//! W3C Trace Context (section 3.2) and W3C Baggage (section 3.3), as `docs/contract/wire-formats.md`, "Trace context", uses
//! them.

use std::fmt;

use crate::digest;

/// Members of the baggage header with this prefix are ours and end at the gateway.
pub const BAGGAGE_PREFIX: &str = "caracal.";

/// Longest `traceparent` accepted, in bytes; version 00 has 55.
const MAX_TRACEPARENT_BYTES: usize = 512;

/// A valid `traceparent`: a trace id and a parent id that are not zero, and flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Traceparent {
    trace_id: [u8; 16],
    parent_id: [u8; 8],
    flags: u8,
}

/// The header is not a valid `traceparent`; a new trace starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid traceparent")]
pub struct InvalidTraceparent;

impl Traceparent {
    /// Reads a header value. Version 00 has exactly four parts, a later version may have more; `ff`, upper-case digits and
    /// zero ids are refused.
    ///
    /// # Errors
    /// [`InvalidTraceparent`].
    pub fn parse(value: &str) -> Result<Self, InvalidTraceparent> {
        if value.len() > MAX_TRACEPARENT_BYTES {
            return Err(InvalidTraceparent);
        }
        let mut parts = value.split('-');
        let mut next = || parts.next().ok_or(InvalidTraceparent);
        let [version]: [u8; 1] = lower_hex(next()?)?;
        let trace_id: [u8; 16] = lower_hex(next()?)?;
        let parent_id: [u8; 8] = lower_hex(next()?)?;
        let [flags]: [u8; 1] = lower_hex(next()?)?;
        let has_more = parts.next().is_some();
        if version == 0xff || (version == 0 && has_more) || trace_id == [0; 16] || parent_id == [0; 8] {
            return Err(InvalidTraceparent);
        }
        Ok(Self {
            trace_id,
            parent_id,
            flags,
        })
    }

    /// A new, sampled trace from 24 random bytes. Zero ids, which are not valid, become ones.
    pub fn generate(random: [u8; 24]) -> Self {
        let mut trace_id = [0; 16];
        let mut parent_id = [0; 8];
        trace_id
            .iter_mut()
            .chain(parent_id.iter_mut())
            .zip(random)
            .for_each(|(to, from)| *to = from);
        if trace_id == [0; 16] {
            trace_id = [1; 16];
        }
        if parent_id == [0; 8] {
            parent_id = [1; 8];
        }
        Self {
            trace_id,
            parent_id,
            flags: 1,
        }
    }

    /// The trace id as 32 lower-case hex digits.
    pub fn trace_id(&self) -> String {
        digest::lower_hex(&self.trace_id)
    }

    /// The id of the calling span as 16 lower-case hex digits.
    pub fn parent_id(&self) -> String {
        digest::lower_hex(&self.parent_id)
    }

    /// Whether the caller records this trace.
    pub fn is_sampled(&self) -> bool {
        self.flags & 1 == 1
    }

    /// The same trace, called from another span. A zero span id, which is not valid, leaves the parent as it is.
    #[must_use]
    pub fn with_parent(self, span_id: [u8; 8]) -> Self {
        if span_id == [0; 8] {
            self
        } else {
            Self {
                parent_id: span_id,
                ..self
            }
        }
    }
}

impl fmt::Display for Traceparent {
    /// The header value, in version 00.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        let parts: [(usize, &[u8]); 3] = [(3, &self.trace_id), (36, &self.parent_id), (53, &[self.flags])];
        for (begin, bytes) in parts {
            let digits = text.get_mut(begin..begin + 2 * bytes.len()).unwrap_or_default();
            hex::encode_to_slice(bytes, digits).or(Err(fmt::Error))?;
        }
        f.write_str(std::str::from_utf8(&text).or(Err(fmt::Error))?)
    }
}

fn lower_hex<const N: usize>(text: &str) -> Result<[u8; N], InvalidTraceparent> {
    let mut bytes = [0; N];
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(InvalidTraceparent);
    }
    hex::decode_to_slice(text, &mut bytes).map_err(|_malformed| InvalidTraceparent)?;
    Ok(bytes)
}

/// The baggage header without our own members; `None` when nothing is left and the header goes.
///
/// Other members stay byte for byte, without surrounding white space.
pub fn strip_caracal_members(baggage: &str) -> Option<String> {
    let kept: Vec<&str> = baggage
        .split(',')
        .map(str::trim)
        .filter(|member| !member.is_empty() && !is_ours(member))
        .collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

fn is_ours(member: &str) -> bool {
    let key = member.split(['=', ';']).next().unwrap_or_default().trim();
    key.get(..BAGGAGE_PREFIX.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(BAGGAGE_PREFIX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_valid_parent_is_kept() {
        let parent = Traceparent::parse(SAMPLE).unwrap();
        assert_eq!(parent.to_string(), SAMPLE);
        assert_eq!(parent.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(parent.is_sampled());
    }

    #[test]
    fn a_later_version_may_have_more_parts() {
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-later";
        assert!(!Traceparent::parse(later).unwrap().is_sampled());
        assert_eq!(
            Traceparent::parse(&later.replacen("01", "00", 1)),
            Err(InvalidTraceparent)
        );
    }

    #[test]
    fn an_invalid_parent_is_refused() {
        for value in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(Traceparent::parse(value), Err(InvalidTraceparent), "{value:?}");
        }
    }

    #[test]
    fn our_members_end_at_the_gateway() {
        assert_eq!(
            strip_caracal_members(
                "caracal.agent_session=s2, tenant=acme;p=1 ,caracal.hop=0;x,Caracal.session=a"
            ),
            Some("tenant=acme;p=1".to_owned())
        );
        assert_eq!(strip_caracal_members("caracal.session=a1"), None);
        assert_eq!(strip_caracal_members(" , "), None);
        assert_eq!(
            strip_caracal_members("caracal=1,caracalx.y=2"),
            Some("caracal=1,caracalx.y=2".to_owned())
        );
        assert_eq!(
            strip_caracal_members(" caracal.hop = 1"),
            None,
            "white space around the key hides nothing"
        );
    }

    proptest! {
        #[test]
        fn a_generated_parent_is_valid(random in any::<[u8; 24]>()) {
            let generated = Traceparent::generate(random);
            prop_assert_eq!(Traceparent::parse(&generated.to_string()), Ok(generated));
            prop_assert!(generated.is_sampled());
        }

        #[test]
        fn none_of_our_members_survives(members in proptest::collection::vec("[ ]?(caracal\\.|t\\.)[a-z]{1,3}[ ]?=[a-z]", 0..6)) {
            let left = strip_caracal_members(&members.join(",")).unwrap_or_default();
            prop_assert!(!left.contains("caracal."));
            let theirs = members.iter().filter(|member| !member.contains("caracal.")).count();
            prop_assert_eq!(left.split(',').filter(|member| !member.is_empty()).count(), theirs);
        }
    }

    #[test]
    fn zero_random_bytes_still_make_a_valid_parent() {
        assert!(Traceparent::parse(&Traceparent::generate([0; 24]).to_string()).is_ok());
    }
}
