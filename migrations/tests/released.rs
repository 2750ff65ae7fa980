//! Was a released migration edited? A released file never changes: databases out there have applied it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot be set up has failed"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};

/// `sha256sum *.sql > ../released.sha256` in `sql/` writes it.
const RELEASED: &str = include_str!("../released.sha256");

fn files() -> BTreeMap<String, PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql");
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), path))
        .collect()
}

#[test]
fn no_released_migration_was_edited() {
    let found: BTreeMap<String, String> = files()
        .into_iter()
        .map(|(name, path)| (name, hex::encode(digest(&SHA256, &fs::read(path).unwrap()))))
        .collect();
    let released: BTreeMap<String, String> = RELEASED
        .lines()
        .map(|line| line.split_once("  ").expect("lines of sha256sum"))
        .map(|(sum, name)| (name.to_owned(), sum.to_owned()))
        .collect();
    assert_eq!(
        found, released,
        "a new migration is a new file, listed in released.sha256; a listed one is never edited"
    );
}

#[test]
fn every_migration_has_a_time_a_verb_and_a_bound_on_waiting_for_locks() {
    for (name, path) in files() {
        let (stamp, title) = name.strip_suffix(".sql").unwrap().split_once('_').unwrap();
        assert!(
            stamp.len() == 14 && stamp.bytes().all(|b| b.is_ascii_digit()),
            "{name}: YYYYMMDDHHMMSS"
        );
        assert!(
            title.contains('_') && title.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
            "{name}: verb_noun"
        );
        let text = fs::read_to_string(path).unwrap();
        assert!(
            text.contains("SET LOCAL lock_timeout = "),
            "{name} waits for locks without bound"
        );
    }
}
