//! Messages of the event streams.

use caracal_wire::event::{
    AgentsLifecycle, DelegationsInvalidate, InvocationsLifecycle, KeysInvalidate, MintsCounted,
    PolicyInvalidate, SessionsRevoke, Watermark, ZonesInvalidate,
};
use caracal_wire::stream::{Fields, SESSIONS_REVOKE, SIG, sign, verify};

/// The bytes as fields: lines of `name=value`.
fn fields(bytes: &[u8]) -> Fields {
    String::from_utf8_lossy(bytes)
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// A revocation that was read revokes something; every message that was read is written and read the same again.
pub(crate) fn message(bytes: &[u8]) {
    let fields = fields(bytes);
    if let Ok(read) = SessionsRevoke::from_fields(&fields) {
        // Control characters of a reason become spaces when it is written.
        let again = SessionsRevoke::from_fields(&read.to_fields()).expect("what was written can be read");
        assert_eq!(again.anchors(), read.anchors());
        assert_eq!(SessionsRevoke::from_fields(&again.to_fields()), Ok(again));
        assert!(!read.anchors().is_empty(), "a revocation of nothing");
    }
    if let Ok(read) = Watermark::from_fields(&fields) {
        assert_eq!(Watermark::from_fields(&read.to_fields()), Ok(read));
    }
    if let Ok(read) = MintsCounted::from_fields(&fields) {
        assert_eq!(MintsCounted::from_fields(&read.to_fields()), Ok(read));
    }
    if let Ok(read) = ZonesInvalidate::from_fields(&fields) {
        assert_eq!(ZonesInvalidate::from_fields(&read.to_fields()), Ok(read));
    }
    let _agents = AgentsLifecycle::from_fields(&fields);
    let _delegations = DelegationsInvalidate::from_fields(&fields);
    let _invocations = InvocationsLifecycle::from_fields(&fields);
    let _keys = KeysInvalidate::from_fields(&fields);
    let _policy = PolicyInvalidate::from_fields(&fields);
}

/// Nothing that was not signed is believed, and a changed message is not the one that was signed.
pub(crate) fn signature(bytes: &[u8]) {
    const KEY: &[u8] = b"thirty-two bytes of stream key ..";
    let mut fields = fields(bytes);
    assert!(
        !verify(&[KEY], SESSIONS_REVOKE, &fields),
        "a forged message is believed"
    );
    fields.remove(SIG);
    let Ok(signed) = sign(KEY, SESSIONS_REVOKE, &fields) else {
        return;
    };
    fields.insert(SIG.to_owned(), signed);
    assert!(verify(&[KEY], SESSIONS_REVOKE, &fields));
    fields.insert("added".to_owned(), "1".to_owned());
    fields.insert(
        "zone_id".to_owned(),
        format!("{}x", fields.get("zone_id").cloned().unwrap_or_default()),
    );
    assert!(
        !verify(&[KEY], SESSIONS_REVOKE, &fields),
        "a changed message is believed"
    );
}
