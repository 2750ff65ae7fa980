//! Where is there room for an interpreter to recurse?
//!
//! Values nest as deep as a document has steps, and are compared and dropped by recursion. A stack that is too small ends the
//! process, not the evaluation.

use std::thread::{Builder, scope};

use crate::interpreter::Failure;

/// Room for more levels than a document within its limits can make. Reserved, and used only as far as it is needed.
const STACK_BYTES: usize = 512 * 1024 * 1024;

/// Does `work` on a thread with a deep stack and waits for it: some tens of microseconds more.
///
/// # Errors
/// When there is no such thread, or the work panicked.
pub(crate) fn on_a_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Failure> {
    scope(|scope| {
        let builder = Builder::new().name("policy".to_owned()).stack_size(STACK_BYTES);
        let thread = builder.spawn_scoped(scope, work)?;
        thread.join().map_err(|_panic| "the evaluation panicked".into())
    })
}
