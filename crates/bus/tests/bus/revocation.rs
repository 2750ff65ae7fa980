//! The revoked set, and who hears of it.

use std::time::{Duration, UNIX_EPOCH};

use caracal_bus::{Entry, EntryId, Revocations};
use caracal_model::id::{AuthorityRecordId, DelegationId, SessionId};
use caracal_model::revocation::{Anchor, Anchors};
use caracal_wire::stream::Fields;
use futures_util::FutureExt;

use crate::both::SOON;

fn record(id: &str) -> AuthorityRecordId {
    id.parse().unwrap()
}

fn session(id: &str) -> SessionId {
    id.parse().unwrap()
}

fn anchors(n: usize) -> Anchors {
    Anchors {
        sid: record(&format!("sid-{n}")),
        root_sid: record("root"),
        session: Some(session(&format!("session-{n}"))),
        delegation: Some(format!("edge-{n}").parse::<DelegationId>().unwrap()),
    }
}

#[test]
fn each_of_the_four_anchors_revokes_the_token_and_no_other() {
    let of_token = anchors(1);
    for anchor in of_token.iter() {
        let revocations = Revocations::new();
        assert_eq!(revocations.is_revoked(&of_token), None);
        revocations.insert(&anchor, 100);
        assert_eq!(revocations.is_revoked(&of_token), Some(anchor.clone()));
        let shared = anchor == Anchor::AuthorityRecord(record("root"));
        assert_eq!(revocations.is_revoked(&anchors(2)).is_some(), shared);
    }
    let same_text = Revocations::new();
    same_text.insert(&Anchor::Session(session("sid-1")), 100);
    assert_eq!(
        same_text.is_revoked(&of_token),
        None,
        "a session is not the record of the same name"
    );
}

#[test]
fn who_holds_anchors_hears_of_the_first_revocation_whatever_else_was_revoked_before() {
    let of_token = anchors(1);
    for anchor in of_token.iter() {
        let revocations = Revocations::new();
        let held = revocations.hold(&of_token);
        assert_eq!(held.revoked(), None);
        revocations.insert(&Anchor::Session(session("another")), 100);
        assert_eq!(held.revoked(), None);
        assert_eq!(held.revoked(), None, "nothing has changed since");
        revocations.insert(&anchor, 100);
        assert_eq!(held.revoked(), Some(&anchor));
        assert_eq!(held.revoked(), Some(&anchor), "it stays revoked");
        let later = revocations.hold(&of_token);
        assert_eq!(later.revoked(), Some(&anchor), "and is so for who comes later");
    }
}

#[test]
fn what_was_revoked_before_the_question_is_always_heard_of() {
    for _ in 0..200 {
        let revocations = Revocations::new();
        let held = revocations.hold(&anchors(1));
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| while held.revoked().is_none() {});
            scope.spawn(|| {
                for n in 2..50 {
                    revocations.insert(&Anchor::Session(session(&format!("session-{n}"))), 100);
                }
                revocations.insert(&Anchor::Session(session("session-1")), 100);
            });
            asking.join().unwrap();
        });
        assert!(held.revoked().is_some());
    }
}

#[test]
fn a_revocation_is_forgotten_only_after_its_latest_expiry() {
    let revocations = Revocations::new();
    for n in 0..1000 {
        revocations.insert(
            &Anchor::Session(session(&format!("session-{n}"))),
            100 + i64::from(n % 2),
        );
    }
    revocations.insert(&Anchor::Session(session("session-0")), 200);
    revocations.insert(&Anchor::Session(session("session-0")), 50);
    assert_eq!(revocations.len(), 1000, "repeating changes nothing");
    assert_eq!(revocations.prune(100), 0, "not before it has expired");
    assert_eq!(revocations.prune(101), 499);
    assert_eq!(revocations.len(), 501);
    assert_eq!(revocations.prune(201), 501);
    assert!(revocations.is_empty());
}

#[test]
fn a_message_revokes_every_anchor_it_names() {
    let entry = |fields: &[(&str, &str)]| Entry {
        id: EntryId::ZERO,
        fields: fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect::<Fields>(),
    };
    let revocations = Revocations::new();
    let both = entry(&[
        ("zone_id", "z"),
        ("session_id", "sid-1"),
        ("delegation_edge_id", "edge-2"),
        ("reason", "r"),
    ]);
    assert_eq!(revocations.insert_entry(&both, 100), 2);
    assert!(revocations.is_revoked(&anchors(1)).is_some());
    assert!(revocations.is_revoked(&anchors(2)).is_some());
    assert_eq!(revocations.is_revoked(&anchors(3)), None);
    assert_eq!(revocations.insert_entry(&entry(&[("zone_id", "z")]), 100), 0);
    assert_eq!(revocations.insert_entry(&entry(&[("n", "1")]), 100), 0);
}

#[tokio::test]
async fn of_a_thousand_watchers_exactly_the_revoked_ones_fire() {
    let revocations = Revocations::new();
    let mut signals: Vec<_> = (0..1000)
        .map(|n| {
            let of_token = anchors(n);
            revocations.watch(&Anchors {
                root_sid: of_token.sid.clone(),
                ..of_token
            })
        })
        .collect();
    assert_eq!(revocations.watching(), 3000);
    let waiting: Vec<_> = signals.drain(500..).map(tokio::spawn).collect();
    tokio::task::yield_now().await;
    let revoked = |n: usize| Anchor::Delegation(format!("edge-{n}").parse().unwrap());
    for n in (0..1000).step_by(10) {
        revocations.insert(&revoked(n), 100);
    }
    // Nothing stands between a revocation and its signals: they have fired when the insertion returns.
    for (n, signal) in signals.iter().enumerate() {
        assert_eq!(signal.fired(), (n % 10 == 0).then(|| revoked(n)).as_ref());
    }
    for (n, task) in (500..1000).zip(waiting) {
        if n % 10 == 0 {
            assert_eq!(
                tokio::time::timeout(SOON, task).await.unwrap().unwrap(),
                revoked(n)
            );
        } else {
            assert!(!task.is_finished(), "{n} was not revoked");
            task.abort();
        }
    }
}

#[tokio::test]
async fn watching_what_is_revoked_already_fires_at_once() {
    let revocations = Revocations::new();
    let anchor = Anchor::Session(session("session-1"));
    revocations.insert(&anchor, 100);
    let signal = revocations.watch(&anchors(1));
    assert_eq!(signal.fired(), Some(&anchor));
    assert_eq!(signal.now_or_never(), Some(anchor));
}

#[tokio::test]
async fn a_shared_root_cuts_everything_below_it_and_a_second_poll_gives_the_same_answer() {
    let revocations = Revocations::new();
    let mut signals: Vec<_> = (0..5).map(|n| revocations.watch(&anchors(n))).collect();
    assert!(signals.iter_mut().all(|signal| signal.now_or_never().is_none()));
    let root = Anchor::AuthorityRecord(record("root"));
    revocations.insert(&root, 100);
    revocations.insert(&Anchor::Session(session("session-0")), 100);
    for signal in &mut signals {
        assert_eq!(signal.now_or_never(), Some(root.clone()));
        assert_eq!(signal.now_or_never(), Some(root.clone()));
    }
}

#[test]
fn dropping_a_signal_takes_its_registration_back() {
    let revocations = Revocations::new();
    let kept = revocations.watch(&anchors(1));
    let dropped: Vec<_> = (1..100).map(|n| revocations.watch(&anchors(n))).collect();
    drop(dropped);
    assert_eq!(revocations.watching(), 4);
    drop(kept);
    assert_eq!(revocations.watching(), 0);
}

#[test]
fn a_revocation_racing_with_a_registration_is_never_missed() {
    for _ in 0..200 {
        let revocations = Revocations::new();
        let signal = std::thread::scope(|scope| {
            let watching = scope.spawn(|| revocations.watch(&anchors(1)));
            let _revoking = scope.spawn(|| revocations.insert(&Anchor::Session(session("session-1")), 100));
            watching.join().unwrap()
        });
        assert!(signal.fired().is_some());
    }
}

#[test]
fn the_set_knows_how_complete_it_is() {
    let revocations = Revocations::new();
    revocations.freshness().clone().advance(1_000_000);
    assert_eq!(
        revocations.freshness().as_of(),
        Some(UNIX_EPOCH + Duration::from_secs(1))
    );
}
