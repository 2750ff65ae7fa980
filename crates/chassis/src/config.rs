//! What did the operator ask for, and is it complete and valid?
//!
//! A [`Source`] is what was written (environment variables, and a TOML file with the same names in lower case). A
//! [`Reader`] checks it while a service reads its settings, and [`Reader::finish`] reports everything that is wrong at
//! once. The environment wins over the file; `NAME` wins over `NAME_FILE`. See `docs/operating/configuration.md`.

mod errors;
mod mode;
mod reader;
mod scalar;
mod source;
mod table;
mod unknown;

pub use errors::{ConfigErrors, Problem};
pub use mode::Mode;
pub use reader::Reader;
pub use scalar::{format_duration, parse_duration, parse_size};
pub use source::Source;
pub use table::Table;

#[cfg(test)]
mod tests;
