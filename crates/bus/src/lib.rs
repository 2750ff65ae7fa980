//! Event streams, consumer groups, cursors, watermarks and the evidence spool.
