//! What is revoked is refused at once, and nothing is granted on knowledge that may be incomplete.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use caracal_model::revocation::Anchor;
use caracal_model::{AuthorityRecordId, DelegationId, SessionId};
use caracal_testing::wait_until;
use caracal_wire::event::SessionsRevoke;
use caracal_wire::stream::SESSIONS_REVOKE;

use crate::stack::{SOON, Stack, with};

const FIELDS: [(&str, &str); 4] = [
    ("resource", "resource://crm"),
    ("scope", "crm:read"),
    ("agent_session_id", "s-target"),
    ("delegation_edge_id", "e-1"),
];

async fn revoke(stack: &Stack, anchor: Anchor) {
    let message = SessionsRevoke::of("z1".try_into().unwrap(), anchor, "test");
    stack.announce(SESSIONS_REVOKE, message.to_fields()).await;
}

#[tokio::test]
async fn each_anchor_stops_new_mints_and_mandates_already_minted() {
    let anchors = [
        (
            Anchor::AuthorityRecord(AuthorityRecordId::try_from("ar-1").unwrap()),
            "authority record inactive or expired",
        ),
        (
            Anchor::Session(SessionId::try_from("s-target").unwrap()),
            "delegation target inactive or unauthorized",
        ),
        (
            Anchor::Delegation(DelegationId::try_from("e-1").unwrap()),
            "delegation edge inactive or expired",
        ),
    ];
    for (anchor, description) in anchors {
        let stack = Stack::start().await;
        let one_shot = stack.one_shot("resource://crm", "crm:read").await;
        assert_eq!(
            stack.at_gateway(&one_shot, "resource://crm", &[]).await.status,
            200
        );
        revoke(&stack, anchor).await;
        wait_until(SOON, async || stack.mint(&FIELDS).await.status == 403).await;
        let answer = stack.at_gateway(&one_shot, "resource://crm", &[]).await;
        assert_eq!(answer.refusal(), (403, "access_denied", description));
    }
}

#[tokio::test]
async fn revoking_a_reusable_mandate_stops_it_and_nothing_else() {
    let stack = Stack::start().await;
    let mint = async || {
        stack
            .mint(&[("resource", "resource://crm"), ("scope", "crm:read")])
            .await
            .token()
    };
    let (revoked, kept) = (mint().await, mint().await);
    let claims = stack
        .verify(&revoked, crate::stack::ISSUER, caracal_token::Use::Session)
        .await;
    revoke(&stack, Anchor::AuthorityRecord(claims.sid)).await;
    wait_until(SOON, async || {
        stack.at_gateway(&revoked, "resource://crm", &[]).await.status == 403
    })
    .await;
    assert_eq!(stack.at_gateway(&kept, "resource://crm", &[]).await.status, 200);
}

#[tokio::test]
async fn what_was_revoked_before_the_start_is_known() {
    let database = caracal_testing::TestDatabase::new().await;
    let pool = database.pool().await;
    crate::seed::run(
        &pool,
        "INSERT INTO revocation_log (zone_id, kind, anchor_id, reason, expires_at)
        VALUES ('z1', 'session', 's-target', 'test', now() + interval '1 hour')"
            .to_owned(),
    )
    .await;
    let url = database.url_as(caracal_testing::Role::Sts);
    let stack = Stack::start_on(database, &url, &[]).await;
    let answer = stack.mint(&FIELDS).await;
    assert_eq!(
        answer.refusal(),
        (403, "access_denied", "delegation target inactive or unauthorized")
    );
}

#[tokio::test]
async fn a_message_that_cannot_be_read_makes_the_whole_log_be_read_again() {
    let stack = Stack::start().await;
    stack
        .sql(
            "INSERT INTO revocation_log (zone_id, kind, anchor_id, reason, expires_at)
            VALUES ('z1', 'session', 's-target', 'test', now() + interval '1 hour')",
        )
        .await;
    assert_eq!(
        stack.mint(&FIELDS).await.status,
        200,
        "nobody has announced the revocation"
    );
    let nothing_named = [("zone_id", "z1"), ("reason", "test")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    stack.announce(SESSIONS_REVOKE, nothing_named.into()).await;
    wait_until(SOON, async || stack.mint(&FIELDS).await.status == 403).await;
}

/// Mints as fast as it can while the session is revoked. Whatever was minted, before or after, is of no use once the
/// revocation is known.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_revocation_that_races_a_mint_leaves_no_usable_token() {
    let stack = Arc::new(Stack::start().await);
    stack.one_shot("resource://crm", "crm:read").await;
    let stop = Arc::new(AtomicBool::new(false));
    let minters: Vec<_> = (0..4)
        .map(|_| {
            let (stack, stop) = (Arc::clone(&stack), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut tokens = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let answer = stack.mint(&FIELDS).await;
                    if answer.status == 200 {
                        tokens.push(answer.token());
                    }
                }
                tokens
            })
        })
        .collect();
    revoke(&stack, Anchor::Session(SessionId::try_from("s-target").unwrap())).await;
    wait_until(SOON, async || stack.mint(&FIELDS).await.status == 403).await;
    stop.store(true, Ordering::Relaxed);
    let mut minted = 0;
    for minter in minters {
        for token in minter.await.unwrap() {
            minted += 1;
            let answer = stack.at_gateway(&token, "resource://crm", &[]).await;
            assert_eq!(answer.status, 403, "a token minted in the race was honoured");
        }
    }
    assert!(minted > 0, "the race was run");
}

#[tokio::test]
async fn a_forged_announcement_revokes_nothing() {
    let stack = Stack::start().await;
    let message = SessionsRevoke::of(
        "z1".try_into().unwrap(),
        Anchor::Session(SessionId::try_from("s-target").unwrap()),
        "forged",
    );
    let mut fields = message.to_fields();
    fields.insert("_sig".to_owned(), "00".repeat(32));
    stack.bus.publish(SESSIONS_REVOKE, &[fields]).await.unwrap();
    // Another one, genuine, shows that the forged one has been passed.
    revoke(&stack, Anchor::Session(SessionId::try_from("s-source").unwrap())).await;
    let other = with(&FIELDS, &[]);
    wait_until(SOON, async || {
        stack.mint(&other).await.refusal().2 == "delegation source inactive or expired"
    })
    .await;
}
