//! Work that nobody asks for.

pub(crate) mod expire;
