//! Does a zone's ledger still say what it said? Everything is recomputed from what the database holds.
//!
//! Found are: an altered event, a reordered or missing link, a gap, a link sealed with a foreign key, an event outside of the chain,
//! and, against the head row, a removed end of the chain. Whoever can rewrite the end of the chain and its head row together, and
//! whoever has the key, is not found by this: that takes a head that was kept elsewhere (docs/contract/audit-events.md, "Verification").

use caracal_storage::{Database, StorageError, audit_event};
use serde::Serialize;

pub use crate::chain::AuditKeys;
use crate::chain::content_of_link;

/// Links read at a time.
const PAGE: i64 = 1_000;
/// Problems named in a report; further ones are only counted.
const PROBLEMS_NAMED_MAX: usize = 100;

/// What verification found in one zone.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The zone.
    pub zone_id: String,
    /// Whether nothing is wrong.
    pub ok: bool,
    /// Links looked at.
    pub checked: u64,
    /// Position of the last link; 0 for an empty chain.
    pub head_seq: i64,
    /// Content hash of the last link, hex.
    pub head_content_sha256: Option<String>,
    /// How many things are wrong.
    pub problems_total: u64,
    /// The first hundred of them.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Position in the chain; for [`ProblemKind::Unchained`], how many events it is about.
    pub chain_seq: i64,
    /// The event there.
    pub event_id: String,
    /// What is wrong.
    pub kind: ProblemKind,
}

/// The ways in which a ledger can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// The event's content does not have the hash that was stored with it.
    ContentMismatch,
    /// The link does not name the hash of the one before.
    ChainBreak,
    /// Positions are missing before this link.
    Gap,
    /// The seal was not made with our key.
    HmacMismatch,
    /// The chain does not end at the recorded head, or no head is recorded.
    TailMissing,
    /// Events have no place in the chain, or share one; `chain_seq` says how many.
    Unchained,
}

/// Verifies one zone from its first link to its end. Reads a thousand links at a time in one snapshot.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn zone(database: &Database, zone: &str, keys: &AuditKeys) -> Result<Report, StorageError> {
    let mut tx = database.read().await?;
    let head = audit_event::head(&mut tx, zone).await?;
    let mut walk = Walk::new(zone);
    loop {
        let page = audit_event::links_after(&mut tx, zone, walk.seq, PAGE).await?;
        if page.is_empty() {
            break;
        }
        for link in &page {
            walk.step(link, keys);
        }
    }
    let stored = audit_event::count(&mut tx, zone).await?;
    Ok(walk.finish(head.as_ref(), stored))
}

/// Every zone that has a ledger.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn zones(database: &Database) -> Result<Vec<String>, StorageError> {
    audit_event::zones(&mut database.read().await?).await
}

/// The state of one verification.
struct Walk {
    report: Report,
    seq: i64,
    previous: Option<String>,
}

impl Walk {
    fn new(zone: &str) -> Self {
        let report = Report {
            zone_id: zone.to_owned(),
            ok: true,
            checked: 0,
            head_seq: 0,
            head_content_sha256: None,
            problems_total: 0,
            problems: Vec::new(),
        };
        Self {
            report,
            seq: 0,
            previous: None,
        }
    }

    fn step(&mut self, link: &audit_event::Link, keys: &AuditKeys) {
        let seq = link.chain_seq.unwrap_or_default();
        let stored = link.content_sha256.clone().unwrap_or_default();
        if seq != self.seq + 1 {
            self.wrong(seq, &link.id, ProblemKind::Gap);
        }
        if content_of_link(link) != stored {
            self.wrong(seq, &link.id, ProblemKind::ContentMismatch);
        }
        if link.prev_content_sha256 != self.previous {
            self.wrong(seq, &link.id, ProblemKind::ChainBreak);
        }
        if !keys.sealed(
            link.chain_hmac.as_deref().unwrap_or_default(),
            &stored,
            link.prev_content_sha256.as_deref(),
        ) {
            self.wrong(seq, &link.id, ProblemKind::HmacMismatch);
        }
        self.report.checked += 1;
        self.seq = seq;
        self.previous = Some(stored);
    }

    fn wrong(&mut self, chain_seq: i64, event_id: &str, kind: ProblemKind) {
        self.report.ok = false;
        self.report.problems_total += 1;
        if self.report.problems.len() < PROBLEMS_NAMED_MAX {
            self.report.problems.push(Problem {
                chain_seq,
                event_id: event_id.to_owned(),
                kind,
            });
        }
    }

    fn finish(mut self, head: Option<&audit_event::ChainHead>, stored: i64) -> Report {
        let (head_seq, head_content) =
            head.map_or((0, None), |head| (head.seq, head.content_sha256.as_ref()));
        if head_seq != self.seq || head_content != self.previous.as_ref() {
            self.wrong(head_seq, "", ProblemKind::TailMissing);
        }
        let checked = i64::try_from(self.report.checked).unwrap_or(i64::MAX);
        if stored != checked {
            self.wrong(stored.saturating_sub(checked), "", ProblemKind::Unchained);
        }
        self.report.head_seq = self.seq;
        self.report.head_content_sha256 = self.previous;
        self.report
    }
}
