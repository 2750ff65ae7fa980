//! The only SQL: one file per aggregate.
