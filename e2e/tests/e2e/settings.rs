//! Settings: every sample works, and every start-up error is reported at once, with its key and its mend.

use std::path::Path;

use caracal_chassis::config::{Reader, Source};
use tokio::process::Command;

/// What each role cannot start without in stable mode.
const REQUIRED: [(&str, &[&str]); 5] = [
    (
        "gateway",
        &["REDIS_URL", "STS_URL", "STREAMS_HMAC_KEY", "AUDIT_HMAC_KEY"],
    ),
    (
        "sts",
        &[
            "REDIS_URL",
            "DATABASE_URL",
            "ISSUER_URL",
            "SECRET_STORE_KEK",
            "STREAMS_HMAC_KEY",
            "AUDIT_HMAC_KEY",
        ],
    ),
    (
        "control",
        &[
            "REDIS_URL",
            "DATABASE_URL",
            "SECRET_STORE_KEK",
            "STREAMS_HMAC_KEY",
        ],
    ),
    (
        "coordinator",
        &[
            "REDIS_URL",
            "DATABASE_URL",
            "STS_URL",
            "ISSUER_URL",
            "STREAMS_HMAC_KEY",
        ],
    ),
    (
        "audit",
        &["REDIS_URL", "DATABASE_URL", "STREAMS_HMAC_KEY", "AUDIT_HMAC_KEY"],
    ),
];

fn binary() -> std::ffi::OsString {
    std::env::var_os("CARACAL_BIN").expect("CARACAL_BIN names the executable; ./x test sets it")
}

#[test]
fn every_sample_is_toml_that_the_reader_of_settings_takes() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config");
    let mut found = 0;
    for entry in std::fs::read_dir(samples).unwrap() {
        let path = entry.unwrap().path();
        let source = Source::from_toml_str(&std::fs::read_to_string(&path).unwrap());
        let source = source.unwrap_or_else(|errors| panic!("{}: {errors}", path.display()));
        assert!(
            !Reader::new(&source).mode().is_dev(),
            "{}: a sample is for real use",
            path.display()
        );
        found += 1;
    }
    assert_eq!(found, REQUIRED.len(), "each role has a sample");
}

#[tokio::test]
async fn each_sample_is_accepted_by_its_role() {
    for (role, _) in REQUIRED {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../deploy/config/{role}.toml"));
        let secrets = sample_secrets(&sample);
        let output = Command::new(binary())
            .arg(role)
            .arg("--config")
            .arg(&sample)
            .env_clear()
            .envs(secrets)
            .output();
        let output = tokio::time::timeout(std::time::Duration::from_mins(1), output)
            .await
            .expect("it ends")
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let settings_were_accepted = [
            "DATABASE_URL: cannot use the database",
            "the evidence spool cannot be opened",
        ];
        assert!(
            settings_were_accepted.iter().any(|reason| said.contains(reason)),
            "{role} ends for another reason than its missing stores:\n{said}"
        );
    }
}

/// A sample names files of secrets that exist in a deployment only: here the values are given directly, which wins.
fn sample_secrets(sample: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(sample).unwrap();
    let keys = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, _)| key.trim().trim_start_matches('#').trim().to_owned());
    let value = |index: usize| {
        format!(
            "{index:02x}{}",
            "8f3d9a712c45e6b0d18f2a4c6e9b3d57a1c4f8020e6a9c3d5b7f1a2c4e6d8b"
        )
    };
    let mut values: Vec<(String, String)> = keys
        .filter_map(|key| key.strip_suffix("_file").map(str::to_uppercase))
        .enumerate()
        .map(|(index, key)| (key, value(index)))
        .collect();
    // Nothing listens there, so the role ends right after it has accepted its settings.
    values.push((
        "DATABASE_URL".to_owned(),
        "postgres://nobody@127.0.0.1:1/none".to_owned(),
    ));
    values.push(("REDIS_URL".to_owned(), "redis://127.0.0.1:1".to_owned()));
    values.push(("AUDIT_REPLAY_DIR".to_owned(), "/dev/null/nowhere".to_owned()));
    values
}

#[tokio::test]
async fn every_missing_setting_is_reported_at_once_with_its_mend() {
    for (role, required) in REQUIRED {
        let output = Command::new(binary())
            .arg(role)
            .env_clear()
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{role} started without settings");
        for key in required {
            let line = said.lines().find(|line| line.contains(&format!("{key}:")));
            let line = line.unwrap_or_else(|| panic!("{role} does not report {key}:\n{said}"));
            assert!(
                line.contains('('),
                "{role} does not say how to mend {key}: {line}"
            );
        }
    }
}

#[tokio::test]
async fn a_wrong_value_an_unknown_key_and_an_insecure_switch_are_reported_together() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.toml");
    std::fs::write(&file, "prot = 9090\naudit_claim_idle_secs = 0\n").unwrap();
    let mut command = Command::new(binary());
    command
        .arg("audit")
        .arg("--config")
        .arg(&file)
        .env_clear()
        .env("PORT", "many")
        .env("AUDIT_HMAC_KEY", "short");
    let output = command.output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
    for key in [
        "prot",
        "port:",
        "audit_claim_idle_secs",
        "audit_hmac_key",
        "database_url",
    ] {
        assert!(said.contains(key), "{key} is not reported:\n{said}");
    }
    assert!(
        !said.contains("short\""),
        "the value of a secret is printed:\n{said}"
    );
}
