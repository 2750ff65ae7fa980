//! What does the runner of the tests tell them?

use std::path::PathBuf;

/// The value of a variable that `./x test` sets.
///
/// # Panics
/// When it is not set, with the way to set it.
pub(crate) fn required(name: &str) -> String {
    match optional(name) {
        Some(value) => value,
        None => panic!("{name} is not set: run ./x test, or ./x services and export what it prints"),
    }
}

/// The value of a variable that may be left out.
pub(crate) fn optional(name: &str) -> Option<String> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the runner of the tests speaks through the environment"
    )]
    let value = std::env::var(name);
    value.ok().filter(|value| !value.is_empty())
}

/// The `caracal` executable: `CARACAL_BIN`, else the one built beside the test (`target/debug/caracal`).
///
/// # Panics
/// When there is none, with the way to build it.
pub(crate) fn executable() -> PathBuf {
    let named = optional("CARACAL_BIN").map(PathBuf::from);
    let built = || {
        let test = std::env::current_exe().ok()?;
        // target/debug/deps/<test> or target/debug/<program>
        test.ancestors()
            .skip(1)
            .take(2)
            .map(|folder| folder.join("caracal"))
            .find(|path| path.is_file())
    };
    match named.or_else(built) {
        Some(path) if path.is_file() => path,
        Some(path) => panic!("CARACAL_BIN names {}, which is not a file", path.display()),
        None => panic!("no caracal executable beside this test: run ./x test, or cargo build -p caracal"),
    }
}
