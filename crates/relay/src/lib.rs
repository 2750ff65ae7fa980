//! Moves committed outbox rows to the event streams and publishes watermarks.
