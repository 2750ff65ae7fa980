//! What went wrong in the database, in the terms a caller can act on?

use sqlx::error::ErrorKind;
use thiserror::Error;

/// A failed statement or a row that breaks a rule the code relies on.
#[derive(Debug, Error)]
pub enum StorageError {
    /// The database could not be reached, is shutting down, or has no connection left. Retrying later is safe.
    #[error("the database is not available")]
    Unavailable(#[source] sqlx::Error),
    /// A lock, deadlock, serialization or statement timeout stopped the transaction. Retrying at once is safe.
    #[error("the database gave up waiting for a lock or a statement")]
    Contention(#[source] sqlx::Error),
    /// A uniqueness rule was violated; `constraint` is its name in the schema.
    #[error("a row with the same key exists already ({constraint})")]
    Conflict {
        /// Name of the unique constraint or index.
        constraint: String,
        /// What the driver said.
        #[source]
        source: sqlx::Error,
    },
    /// A referenced row does not exist, or a referencing one still does; `constraint` is the foreign key.
    #[error("a referenced row is missing or still in use ({constraint})")]
    Reference {
        /// Name of the foreign key.
        constraint: String,
        /// What the driver said.
        #[source]
        source: sqlx::Error,
    },
    /// A value is outside what the schema allows; `constraint` is the check, empty for a type error.
    #[error("a value is not allowed by the schema ({constraint})")]
    Invalid {
        /// Name of the check constraint, empty when the value did not fit its type.
        constraint: String,
        /// What the driver said.
        #[source]
        source: sqlx::Error,
    },
    /// The role of this service may not do that (missing grant or row-level security).
    #[error("this service's database role may not do that")]
    Refused(#[source] sqlx::Error),
    /// A stored value cannot be what the code requires it to be. Never repaired silently.
    #[error("{table}.{column} of row {row} holds a value this version cannot read")]
    Inconsistent {
        /// Table of the row.
        table: &'static str,
        /// Column of the value.
        column: &'static str,
        /// Key of the row.
        row: String,
    },
    /// A message that may not go to a stream; says which field and why.
    #[error("field {field} of a message for {stream} {problem}")]
    Message {
        /// Stream the message was meant for.
        stream: String,
        /// Field at fault.
        field: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Any other answer of the database.
    #[error("the database refused the statement")]
    Database(#[source] sqlx::Error),
}

impl StorageError {
    /// True when the database itself is out of reach, so that the answer is 503 and a retry later makes sense.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// True when the same transaction may succeed if it is run again at once.
    pub fn is_contention(&self) -> bool {
        matches!(self, Self::Contention(_))
    }

    /// The violated uniqueness rule, if that is what went wrong.
    pub fn conflict(&self) -> Option<&str> {
        match self {
            Self::Conflict { constraint, .. } => Some(constraint),
            _ => None,
        }
    }

    /// An [`StorageError::Inconsistent`] for a value that was read from `table.column` of `row`.
    pub fn inconsistent(table: &'static str, column: &'static str, row: impl Into<String>) -> Self {
        Self::Inconsistent {
            table,
            column,
            row: row.into(),
        }
    }
}

/// Reads a text column as a checked type, or reports the row as inconsistent.
///
/// # Errors
/// [`StorageError::Inconsistent`] when the text is not a valid `T`.
pub(crate) fn checked<T: TryFrom<String>>(
    text: String,
    table: &'static str,
    column: &'static str,
    row: &str,
) -> Result<T, StorageError> {
    // The reason is dropped on purpose: it could repeat the stored text, which may be anything.
    T::try_from(text)
        .ok()
        .ok_or_else(|| StorageError::inconsistent(table, column, row))
}

impl From<sqlx::Error> for StorageError {
    fn from(error: sqlx::Error) -> Self {
        let Some(answer) = error.as_database_error() else {
            return match error {
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed
                | sqlx::Error::BeginFailed => Self::Unavailable(error),
                _ => Self::Database(error),
            };
        };
        let constraint = answer.constraint().unwrap_or_default().to_owned();
        let code = answer.code().unwrap_or_default().into_owned();
        match answer.kind() {
            ErrorKind::UniqueViolation => Self::Conflict {
                constraint,
                source: error,
            },
            ErrorKind::ForeignKeyViolation => Self::Reference {
                constraint,
                source: error,
            },
            ErrorKind::CheckViolation | ErrorKind::NotNullViolation => Self::Invalid {
                constraint,
                source: error,
            },
            _ => by_sqlstate(&code, constraint, error),
        }
    }
}

/// Sorts the remaining answers by SQLSTATE (PostgreSQL manual, appendix A).
fn by_sqlstate(code: &str, constraint: String, error: sqlx::Error) -> StorageError {
    match code {
        // Serialization failure, deadlock, lock not available, statement or idle-in-transaction timeout.
        "40001" | "40P01" | "55P03" | "57014" | "25P03" => StorageError::Contention(error),
        // Shutdown, crash, cannot connect now, too many connections, out of resources.
        "57P01" | "57P02" | "57P03" | "53100" | "53200" | "53300" | "53400" | "25006" => {
            StorageError::Unavailable(error)
        }
        "42501" => StorageError::Refused(error),
        _ if code.starts_with("08") => StorageError::Unavailable(error),
        _ if code.starts_with("22") => StorageError::Invalid {
            constraint,
            source: error,
        },
        _ => StorageError::Database(error),
    }
}
