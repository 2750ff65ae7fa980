//! For how long does the allocator keep memory that is free?

use std::os::unix::process::CommandExt;
use std::process::Command;

/// What mimalloc is told by; it reads the environment when the process begins, and hears nothing later without `unsafe`.
const SETTING: &str = "MIMALLOC_PURGE_DELAY";
/// In milliseconds. Its default of 10 gives pages back that the next requests take again: two page faults for each.
const USUAL: &str = "1000";

/// Begins again with the usual setting, as the same process with the same arguments, unless the environment has one
/// (docs/decisions/0066). Where that cannot be done, the allocator's default will do.
#[expect(
    clippy::disallowed_methods,
    reason = "it is the allocator that reads this, not the configuration"
)]
pub(crate) fn begin_with_usual_setting() {
    if std::env::var_os(SETTING).is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    let mut arguments = std::env::args_os();
    let mut again = Command::new(program);
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    let _failed = again.args(arguments).env(SETTING, USUAL).exec();
}
