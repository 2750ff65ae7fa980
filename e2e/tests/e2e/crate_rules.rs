//! Do the crates keep to their rooms? The arrows of ARCHITECTURE.md, read from `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// What each crate may depend on among ours, outside its tests.
const ARROWS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("migrations", &[]),
    ("chassis", &[]),
    ("egress", &[]),
    ("oauth", &["chassis", "egress"]),
    ("token", &["model"]),
    ("policy", &["model"]),
    ("wire", &["model"]),
    ("storage", &["model", "migrations"]),
    ("bus", &["wire", "model"]),
    ("relay", &["storage", "bus", "wire", "model"]),
    ("gateway", &["chassis", "egress", "bus", "wire", "token", "model"]),
    (
        "sts",
        &[
            "chassis", "egress", "oauth", "storage", "relay", "bus", "policy", "wire", "token", "model",
        ],
    ),
    (
        "control",
        &[
            "chassis", "egress", "oauth", "storage", "relay", "bus", "policy", "wire", "token", "model",
        ],
    ),
    (
        "coordinator",
        &["chassis", "storage", "relay", "bus", "wire", "token", "model"],
    ),
    ("audit", &["chassis", "storage", "bus", "wire", "token", "model"]),
    (
        "caracal",
        &[
            "gateway",
            "sts",
            "control",
            "coordinator",
            "audit",
            "chassis",
            "egress",
            "storage",
            "relay",
            "bus",
            "migrations",
            "wire",
            "token",
            "model",
            "policy",
        ],
    ),
    (
        "testing",
        &[
            "model",
            "token",
            "wire",
            "migrations",
            "bus",
            "storage",
            "chassis",
            "policy",
            "relay",
        ],
    ),
    ("e2e", &[]),
    (
        "fuzz",
        &["policy", "wire", "token", "model", "chassis", "egress", "gateway"],
    ),
    (
        "bench",
        &["testing", "token", "policy", "wire", "model", "chassis"],
    ),
    ("micro", &["token", "policy", "wire", "model", "bus"]),
];

/// Crates that may name a library that opens sockets, files or databases, by library.
const ONLY: &[(&str, &[&str])] = &[
    ("sqlx", &["storage", "migrations", "testing", "caracal", "e2e"]),
    ("redis", &["bus", "testing", "e2e"]),
    ("pingora-core", &["gateway", "bench"]),
    ("pingora-proxy", &["gateway", "bench"]),
    ("regorus", &["policy"]),
];

/// Libraries that a pure crate never names: no I/O, no clock.
const IMPURE: &[&str] = &[
    "tokio",
    "hyper",
    "hyper-util",
    "axum",
    "sqlx",
    "redis",
    "tracing-subscriber",
    "nix",
];

fn short(name: &str) -> &str {
    name.strip_prefix("caracal-").unwrap_or(name)
}

/// Each workspace crate with the names of what it depends on outside its tests.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = MetadataCommand::new().no_deps().exec().expect("cargo metadata");
    metadata
        .workspace_packages()
        .into_iter()
        .map(|package| {
            let names = package
                .dependencies
                .iter()
                .filter(|dependency| dependency.kind != DependencyKind::Development)
                .map(|dependency| dependency.name.clone())
                .collect();
            (short(&package.name).to_owned(), names)
        })
        .collect()
}

#[test]
fn crate_rules_every_arrow_between_our_crates_is_an_allowed_one() {
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    for (name, depends_on) in dependencies() {
        let allowed = allowed.get(name.as_str()).unwrap_or_else(|| {
            panic!("the crate {name} has no row in ARROWS: add it here and to ARCHITECTURE.md")
        });
        for target in depends_on.iter().filter(|target| target.starts_with("caracal-")) {
            assert!(
                allowed.contains(&short(target)),
                "{name} may not depend on {target}"
            );
        }
    }
}

#[test]
fn crate_rules_stores_and_proxies_are_named_only_where_they_belong() {
    for (name, depends_on) in dependencies() {
        for (library, owners) in ONLY {
            assert!(
                !depends_on.contains(*library) || owners.contains(&name.as_str()),
                "{name} may not depend on {library}: only {owners:?} may"
            );
        }
    }
}

#[test]
fn crate_rules_pure_crates_do_no_io_and_read_no_clock() {
    let all = dependencies();
    for name in ["model", "token", "policy", "wire"] {
        for library in IMPURE {
            assert!(
                !all[name].contains(*library),
                "{name} is pure and may not depend on {library}"
            );
        }
    }
}

#[test]
fn crate_rules_the_chassis_knows_no_domain_word() {
    let sources = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/chassis/src");
    let words = ["mandate", "zone", "delegation", "upstream", "tenant", "policy"];
    let mut pending = vec![sources];
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            continue;
        }
        if path.ends_with("tests.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap().to_lowercase();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code: Vec<&str> = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect();
        let code = code.join("\n");
        for word in words {
            assert!(
                !code.contains(word),
                "{} uses the domain word '{word}'",
                path.display()
            );
        }
    }
}

#[test]
fn crate_rules_the_map_names_every_crate() {
    let map = include_str!("../../../ARCHITECTURE.md");
    for (name, _) in dependencies() {
        assert!(
            map.contains(&format!("`{name}`")),
            "ARCHITECTURE.md does not mention `{name}`"
        );
    }
}
