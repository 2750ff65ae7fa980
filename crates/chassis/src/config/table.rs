//! One element of an array of tables, e.g. one route.

use super::source::Source;

/// One `[[name]]` table of the file. Read it with [`super::Reader::table`], which checks it like the top level.
#[derive(Clone, Debug)]
pub struct Table(Source);

impl Table {
    pub(super) fn new(source: Source) -> Self {
        Self(source)
    }

    pub(super) fn source(&self) -> &Source {
        &self.0
    }
}
