//! Whatever the order in which a revocation and mints on two replicas take their turns, no token of the race is of use
//! once the revocation is known. The orders are drawn at random; a failure names its seed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use caracal_model::{AuthorityRecordId, DelegationId, SessionId, ZoneId};
use caracal_storage::ZoneScope;
use caracal_storage::outbox::Producer;
use caracal_storage::revocation_cascade::{self, Root};
use caracal_testing::{Role, wait_until};
use tokio::task::yield_now;

use crate::stack::{SOON, Stack};

const ROUNDS: u64 = 18;
const MINTERS: usize = 4;

/// What is taken away in a round.
#[derive(Debug, Clone, Copy)]
enum Taken {
    Record,
    Session,
    Delegation,
}

/// The order of one round.
#[derive(Debug)]
#[expect(dead_code, reason = "the seed is what a failure prints")]
struct Schedule {
    seed: u64,
    taken: Taken,
    /// So many tokens are minted before the revocation begins.
    minted_before: usize,
    /// Each minter lets the others go first so often before a mint.
    yields: [usize; MINTERS],
}

impl Schedule {
    /// Drawn from `seed` alone.
    fn draw(seed: u64) -> Self {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut below = |limit: usize| {
            // Xorshift: any spread will do.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % u64::try_from(limit).unwrap()).unwrap()
        };
        Self {
            seed,
            taken: [Taken::Record, Taken::Session, Taken::Delegation][below(3)],
            minted_before: below(6),
            yields: [below(40), below(40), below(40), below(40)],
        }
    }
}

/// A session under a record of its own that another session delegates to: `race-N`, `from-N`, `to-N`, `edge-N`.
async fn start_sessions(stack: &Stack, round: u64) {
    stack
        .sql(format!(
            "INSERT INTO authority_records (id, zone_id, session_type, subject_id, status, expires_at, authenticated_at)
                VALUES ('race-{round}', 'z1', 'application', 'app-1', 'active', now() + interval '1 hour', now());
             INSERT INTO sessions (id, zone_id, application_id, subject_authority_record_id, labels, ttl_seconds, depth)
                VALUES ('from-{round}', 'z1', 'app-1', 'race-{round}', '{{}}', 3600, 0),
                       ('to-{round}', 'z1', 'app-1', 'race-{round}', '{{editor}}', 3600, 1);
             INSERT INTO delegation_edges (id, zone_id, source_session_id, target_session_id, issuer_application_id,
                    receiver_application_id, scopes, constraints_json, expires_at)
                VALUES ('edge-{round}', 'z1', 'from-{round}', 'to-{round}', 'app-1', 'app-1', '{{crm:read}}', '{{}}',
                        now() + interval '1 hour')"
        ))
        .await;
}

async fn take_away(stack: &Stack, round: u64, taken: Taken) {
    let database = stack.database_as(Role::Api).await;
    let zone = ZoneId::try_from("z1").unwrap();
    let mut tx = database.write(ZoneScope::Zone(&zone)).await.unwrap();
    let record = AuthorityRecordId::try_from(format!("race-{round}")).unwrap();
    let session = SessionId::try_from(format!("to-{round}")).unwrap();
    let delegation = DelegationId::try_from(format!("edge-{round}")).unwrap();
    let root = match taken {
        Taken::Record => Root::AuthorityRecord(&record),
        Taken::Session => Root::Session(&session),
        Taken::Delegation => Root::Delegation(&delegation),
    };
    revocation_cascade::revoke(&mut tx, Producer::Api, &zone, root, "race")
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

async fn mint(stack: &Stack, round: u64) -> crate::stack::Answer {
    let (session, edge) = (format!("to-{round}"), format!("edge-{round}"));
    let fields = [
        ("resource", "resource://crm"),
        ("scope", "crm:read"),
        ("agent_session_id", session.as_str()),
        ("delegation_edge_id", edge.as_str()),
    ];
    stack.mint(&fields).await
}

/// What was minted while the authority was taken away.
async fn race(replicas: &[Arc<Stack>; 2], round: u64, schedule: &Schedule) -> Vec<String> {
    let (stop, minted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let minters: Vec<_> = std::iter::zip(schedule.yields, replicas.iter().cycle())
        .map(|(yields, replica)| {
            let (replica, stop, minted) = (Arc::clone(replica), Arc::clone(&stop), Arc::clone(&minted));
            tokio::spawn(async move {
                let mut tokens = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..yields {
                        yield_now().await;
                    }
                    let answer = mint(&replica, round).await;
                    if answer.status == 200 {
                        tokens.push(answer.token());
                        minted.fetch_add(1, Ordering::Relaxed);
                    }
                }
                tokens
            })
        })
        .collect();
    wait_until(SOON, async || {
        minted.load(Ordering::Relaxed) >= schedule.minted_before
    })
    .await;
    take_away(&replicas[0], round, schedule.taken).await;
    for replica in replicas {
        wait_until(SOON, async || mint(replica, round).await.status == 403).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut tokens = Vec::new();
    for minter in minters {
        tokens.extend(minter.await.unwrap());
    }
    tokens
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_order_of_a_revocation_and_mints_on_two_replicas_leaves_a_usable_token() {
    let first = Stack::start_with(&[("STS_MINT_RATE_LIMIT_PER_MIN", "1000000")]).await;
    let second = first.replica(&[("STS_MINT_RATE_LIMIT_PER_MIN", "1000000")]).await;
    let replicas = [Arc::new(first), Arc::new(second)];
    let drawn_at = u64::try_from(caracal_chassis::Clock::system().unix_millis()).unwrap();
    let mut raced = 0;
    for round in 0..ROUNDS {
        let schedule = Schedule::draw(drawn_at + round);
        start_sessions(&replicas[0], round).await;
        for token in race(&replicas, round, &schedule).await {
            raced += 1;
            for replica in &replicas {
                let answer = replica.at_gateway(&token, "resource://crm", &[]).await;
                assert_eq!(
                    answer.status, 403,
                    "a token of the race was honoured: {schedule:?}"
                );
            }
        }
    }
    assert!(raced > 0, "something was minted in the races");
}
