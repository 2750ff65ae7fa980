//! Which part of a long list does a caller want, and who last touched a row of it?
//!
//! Lists are ordered by `(time, id)` descending and continued strictly after the last row seen. The time has the
//! database's full precision, so rows of the same millisecond are neither skipped nor repeated.

use time::OffsetDateTime;

/// A place in a list: the last row already seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Its time, in microseconds precision.
    pub at: OffsetDateTime,
    /// Its id, which orders rows of the same time.
    pub id: String,
}

/// One page of a list.
#[derive(Debug, Clone)]
pub struct Page {
    /// Most rows to return; at least 1.
    pub limit: i64,
    /// Continue after this row; from the newest when `None`.
    pub after: Option<Position>,
}

impl Page {
    /// The time to continue after; `None` stands for the end of time.
    pub(crate) fn after_time(&self) -> Option<OffsetDateTime> {
        self.after.as_ref().map(|position| position.at)
    }

    /// The id to continue after.
    pub(crate) fn after_id(&self) -> &str {
        self.after.as_ref().map_or("", |position| position.id.as_str())
    }
}

/// Who made and who last changed a row.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Attribution {
    /// Who made it.
    pub created_by: Option<String>,
    /// Whether an assistant helped making it.
    pub created_via_operator: bool,
    /// Who changed it last; `None` when nobody did.
    pub updated_by: Option<String>,
    /// Whether an assistant helped changing it.
    pub updated_via_operator: bool,
}

/// Who is making a change.
#[derive(Debug, Clone, Copy)]
pub struct By<'a> {
    /// The name to store.
    pub name: &'a str,
    /// Whether an assistant helps.
    pub via_operator: bool,
}
