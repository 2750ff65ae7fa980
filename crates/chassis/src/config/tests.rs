use std::net::SocketAddr;
use std::time::Duration;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn pairs(pairs: &[(&str, &str)]) -> Source {
    Source::from_pairs(pairs.iter().copied())
}

/// Reads with `read` and returns the lines of the report, empty when all is well.
fn report(source: &Source, read: impl FnOnce(&mut Reader<'_>)) -> String {
    let mut reader = Reader::new(source);
    read(&mut reader);
    reader
        .finish()
        .map_or_else(|errors| errors.to_string(), |()| String::new())
}

#[test]
fn every_mistake_is_reported_at_once_with_its_mend() {
    let source = pairs(&[
        ("PORT", "80a"),
        ("STS_TIMEOUT", "5"),
        ("MAX_REQUEST_BYTES", "10MiBs"),
        ("TRUST_PROXY", "maybe"),
        ("STS_URL", "sts:8080"),
        ("LOG_LEVEL", "loud"),
    ]);
    let report = report(&source, |reader| {
        reader.listen_address("PORT", 8081);
        reader.duration("STS_TIMEOUT", 5 * SECOND, SECOND..=60 * SECOND);
        reader.size("MAX_REQUEST_BYTES", 1 << 20, 1..=1 << 30);
        reader.boolean("TRUST_PROXY", false);
        reader.url("STS_URL", &["http", "https"]);
        reader.choice("LOG_LEVEL", "info", &[("info", "info"), ("warn", "warn")]);
        reader.secret("DATABASE_URL");
    });
    assert_eq!(
        report.lines().collect::<Vec<_>>(),
        [
            "PORT: is \"80a\", not a whole number (write a whole number from 0 to 65535)",
            "STS_TIMEOUT: is \"5\", not a duration (write a duration with its unit from 1s to 1m, e.g. 5s)",
            "MAX_REQUEST_BYTES: is \"10MiBs\", not a size (write a size from 1 to 1GiB)",
            "TRUST_PROXY: is \"maybe\", not a switch (write true or false)",
            "STS_URL: has the scheme \"sts\" (write an absolute URL beginning with http: or https:)",
            "LOG_LEVEL: is \"loud\" (write one of: info, warn)",
            "DATABASE_URL: is not set (set DATABASE_URL or DATABASE_URL_FILE, or database_url in the file)",
        ]
    );
}

#[test]
fn what_is_set_is_read_and_what_is_not_has_its_default() {
    let source = pairs(&[
        ("HOST", "0.0.0.0"),
        ("STS_TIMEOUT", "250ms"),
        ("SHUTDOWN_GRACE_MS", "1500"),
        ("CARACAL_PRIVATE_EGRESS_HOSTS", " a.internal, ,b.internal,"),
        ("EMPTY", ""),
    ]);
    let mut reader = Reader::new(&source);
    assert_eq!(
        reader.listen_address("PORT", 4000),
        SocketAddr::from(([0, 0, 0, 0], 4000))
    );
    assert_eq!(
        reader.duration("STS_TIMEOUT", SECOND, SECOND / 10..=SECOND),
        SECOND / 4
    );
    assert_eq!(
        reader.milliseconds("SHUTDOWN_GRACE_MS", SECOND, Duration::ZERO..=60 * SECOND),
        Duration::from_millis(1_500)
    );
    assert_eq!(
        reader.seconds("AUDIT_CLAIM_IDLE_SECS", 30 * SECOND, SECOND..=60 * SECOND),
        30 * SECOND
    );
    assert_eq!(
        reader.list("CARACAL_PRIVATE_EGRESS_HOSTS"),
        ["a.internal", "b.internal"]
    );
    assert_eq!(reader.text("EMPTY", Some("default")), "default");
    assert_eq!(reader.optional_text("ABSENT"), None);
    assert_eq!(reader.integer("DB_MAX_CONNS", 20, 1..=1_000), 20);
    assert!(!reader.boolean("TRUST_PROXY", false));
    reader.finish().unwrap();
}

#[test]
fn numbers_out_of_range_are_refused() {
    let source = pairs(&[
        ("DB_MAX_CONNS", "0"),
        ("IDLE", "2h"),
        ("BYTES", "2GiB"),
        ("GRACE_MS", "-5"),
    ]);
    let report = report(&source, |reader| {
        assert_eq!(reader.integer("DB_MAX_CONNS", 20, 1..=1_000), 20);
        assert_eq!(reader.duration("IDLE", SECOND, SECOND..=60 * SECOND), SECOND);
        assert_eq!(reader.size("BYTES", 1, 1..=1 << 30), 1);
        assert_eq!(
            reader.milliseconds("GRACE_MS", SECOND, SECOND..=60 * SECOND),
            SECOND
        );
    });
    assert_eq!(report.lines().count(), 4, "{report}");
    assert!(
        report.contains("write a whole number of milliseconds from 1000 to 60000"),
        "{report}"
    );
}

#[test]
fn a_key_that_is_read_twice_is_reported_once() {
    let report = report(&pairs(&[("HOST", "here")]), |reader| {
        reader.listen_address("PORT", 8081);
        reader.listen_address("ADMIN_PORT", 8082);
    });
    assert_eq!(report.lines().count(), 1, "{report}");
    assert!(
        report.starts_with("HOST: is \"here\", not an IP address"),
        "{report}"
    );
}

#[test]
fn the_environment_wins_over_the_file() {
    let source = Source::from_toml_str("port = 1\nlog_level = \"warn\"")
        .unwrap()
        .with_pairs([("PORT", "2")]);
    let mut reader = Reader::new(&source);
    assert_eq!(reader.integer("PORT", 0, 0..=9), 2);
    assert_eq!(reader.text("LOG_LEVEL", None), "warn");
    reader.finish().unwrap();
}

#[test]
fn the_file_may_use_the_types_of_toml() {
    let text = "hosts = [\"a\", \"b\"]\nport = 8081\ntrust_proxy = true\ntimeout = \"5s\"\nbytes = \"1MiB\"";
    let source = Source::from_toml_str(text).unwrap();
    let mut reader = Reader::new(&source);
    assert_eq!(reader.list("HOSTS"), ["a", "b"]);
    assert_eq!(reader.integer("PORT", 0, 0..=9_999), 8081);
    assert!(reader.boolean("TRUST_PROXY", false));
    assert_eq!(
        reader.duration("TIMEOUT", SECOND, SECOND..=9 * SECOND),
        5 * SECOND
    );
    assert_eq!(reader.size("BYTES", 0, 0..=1 << 30), 1 << 20);
    reader.finish().unwrap();
}

#[test]
fn unknown_keys_of_the_file_are_named_with_the_nearest_known_one() {
    let source = Source::from_toml_str("sts_ulr = \"http://sts\"\ncolour = 1\nPORT = 1").unwrap();
    let report = report(&source, |reader| {
        reader.optional_url("STS_URL", &["http"]);
        reader.integer("PORT", 0, 0..=9);
    });
    assert!(
        report.contains("sts_ulr: is not a known setting (did you mean sts_url?)"),
        "{report}"
    );
    assert!(
        report.contains("colour: is not a known setting (remove it"),
        "{report}"
    );
    assert!(
        report.contains("PORT: is not a known setting (did you mean port?)"),
        "{report}"
    );
}

#[test]
fn a_table_where_a_value_belongs_is_reported_without_its_content() {
    let source = Source::from_toml_str("[database_url]\npassword = \"hunter2\"").unwrap();
    let report = report(&source, |reader| {
        reader.secret("DATABASE_URL");
    });
    assert!(
        report.contains("DATABASE_URL: is a table where one value is expected"),
        "{report}"
    );
    assert!(!report.contains("hunter2"), "{report}");
    assert_eq!(report.lines().count(), 1, "one mistake, one line: {report}");
}

#[test]
fn a_secret_may_come_from_a_file_and_the_direct_value_wins() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    std::fs::write(&path, "from the file \n").unwrap();
    let path = path.to_str().unwrap();

    let source = pairs(&[("METRICS_BEARER_FILE", path)]);
    assert_eq!(
        Reader::new(&source).secret("METRICS_BEARER").expose(),
        "from the file"
    );

    let source = pairs(&[("METRICS_BEARER", "direct"), ("METRICS_BEARER_FILE", path)]);
    assert_eq!(Reader::new(&source).secret("METRICS_BEARER").expose(), "direct");

    let text = "metrics_bearer = \"in the configuration\"";
    let source = Source::from_toml_str(text)
        .unwrap()
        .with_pairs([("METRICS_BEARER_FILE", path)]);
    assert_eq!(
        Reader::new(&source).secret("METRICS_BEARER").expose(),
        "from the file",
        "a variable wins over the configuration file"
    );

    let source = Source::from_toml_str(&format!("metrics_bearer_file = {path:?}")).unwrap();
    let mut reader = Reader::new(&source);
    assert_eq!(reader.secret("METRICS_BEARER").expose(), "from the file");
    reader.finish().unwrap();
}

#[test]
fn an_unreadable_or_empty_secret_file_is_one_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty");
    std::fs::write(&empty, " \n").unwrap();
    let source = pairs(&[("A_FILE", empty.to_str().unwrap()), ("B_FILE", "/nonexistent/b")]);
    let report = report(&source, |reader| {
        reader.secret("A");
        reader.hex_key("B", 32);
    });
    let lines: Vec<_> = report.lines().collect();
    assert_eq!(lines.len(), 2, "{report}");
    assert!(
        lines[0].starts_with("A_FILE:") && lines[0].contains("is empty"),
        "{report}"
    );
    assert!(
        lines[1].starts_with("B_FILE: /nonexistent/b cannot be read"),
        "{report}"
    );
}

#[test]
fn no_message_shows_the_value_of_a_secret() {
    let source = pairs(&[
        ("AUDIT_HMAC_KEY", "hunter2"),
        ("STREAMS_HMAC_KEY", "abcd"),
        ("STS_URL", "http://user:hunter2@sts"),
        ("ISSUER_URL", "hunter2"),
    ]);
    let report = report(&source, |reader| {
        reader.hex_key("AUDIT_HMAC_KEY", 32);
        reader.hex_key("STREAMS_HMAC_KEY", 32);
        reader.url("STS_URL", &["http"]);
        reader.url("ISSUER_URL", &["http"]);
    });
    assert!(
        !report.contains("hunter2") && !report.contains("abcd"),
        "{report}"
    );
    assert!(report.contains("AUDIT_HMAC_KEY: is not hexadecimal"), "{report}");
    assert!(
        report.contains("STREAMS_HMAC_KEY: has 2 bytes, which is too short"),
        "{report}"
    );
    assert!(
        report.contains("STS_URL: carries a user or a password"),
        "{report}"
    );
    assert!(!format!("{source:?}").contains("hunter2"));
    let error = Source::from_toml_str("password = hunter2")
        .unwrap_err()
        .to_string();
    assert!(error.contains("line 1") && !error.contains("hunter2"), "{error}");
}

#[test]
fn keys_are_decoded_and_may_be_missing_only_in_dev() {
    let key = "0f".repeat(32);
    let source = pairs(&[("AUDIT_HMAC_KEY", &key)]);
    let mut reader = Reader::new(&source);
    assert_eq!(
        reader.hex_key_outside_dev("AUDIT_HMAC_KEY", 32).unwrap().expose(),
        &[0x0f; 32]
    );
    assert!(reader.optional_hex_key("AUDIT_HMAC_KEY_PREVIOUS", 32).is_none());
    reader.finish().unwrap();

    let missing = |mode| {
        report(&pairs(&[("CARACAL_MODE", mode)]), |reader| {
            reader.hex_key_outside_dev("AUDIT_HMAC_KEY", 32);
            reader.secret_outside_dev("METRICS_BEARER");
        })
    };
    assert_eq!(missing("dev"), "");
    assert_eq!(missing("rc").lines().count(), 2);
}

#[test]
fn urls_are_absolute_and_end_after_their_path() {
    for (url, problem) in [
        ("http://sts:8080", ""),
        ("http://127.0.0.1:8080/base", ""),
        ("unix:/run/sts.sock", ""),
        ("sts", "is not an absolute URL"),
        ("https://sts", "has the scheme \"https\""),
        ("http://sts?zone=1", "has a query or a fragment"),
        ("http://sts#top", "has a query or a fragment"),
    ] {
        let report = report(&pairs(&[("STS_URL", url)]), |reader| {
            reader.url("STS_URL", &["http", "unix"]);
        });
        assert!(
            report.contains(problem) && report.is_empty() == problem.is_empty(),
            "{url}: {report}"
        );
    }
}

#[test]
fn the_mode_is_stable_unless_somebody_says_otherwise() {
    for (pairs_, mode) in [
        (&[][..], Mode::Stable),
        (&[("CARACAL_MODE", "dev")], Mode::Dev),
        (&[("CARACAL_MODE", "rc")], Mode::Rc),
        (&[("CARACAL_ENV", "dev")], Mode::Dev),
        (&[("CARACAL_ENV", "production")], Mode::Stable),
        (&[("CARACAL_ENV", "development")], Mode::Stable),
        (
            &[("CARACAL_MODE", "stable"), ("CARACAL_ENV", "dev")],
            Mode::Stable,
        ),
    ] {
        let source = pairs(pairs_);
        let reader = Reader::new(&source);
        assert_eq!(reader.mode(), mode, "{pairs_:?}");
        reader.finish().unwrap();
    }
    let report = report(&pairs(&[("CARACAL_MODE", "prod")]), |reader| {
        assert_eq!(reader.mode(), Mode::Stable);
    });
    assert_eq!(report, "CARACAL_MODE: is \"prod\" (write dev, rc or stable)");
}

#[test]
fn weakening_switches_work_in_dev_only_and_are_warned_about() {
    let text = "caracal_mode = \"dev\"\n[insecure]\njti_fail_open = true";
    let source = Source::from_toml_str(text).unwrap();
    let mut reader = Reader::new(&source);
    assert!(reader.insecure_boolean("JTI_FAIL_OPEN"));
    assert!(
        reader.warnings()[0].starts_with("JTI_FAIL_OPEN is on"),
        "{:?}",
        reader.warnings()
    );
    reader.finish().unwrap();

    let strict = pairs(&[("JTI_FAIL_OPEN", "true")]);
    let refused = report(&strict, |reader| {
        assert!(!reader.insecure_boolean("JTI_FAIL_OPEN"));
    });
    assert!(
        refused.contains("JTI_FAIL_OPEN: weakens the service and is refused in mode stable"),
        "{refused}"
    );
}

#[test]
fn weakening_switches_have_a_place_of_their_own_in_the_file() {
    let read = |reader: &mut Reader<'_>| {
        assert!(
            !reader.insecure_boolean("JTI_FAIL_OPEN"),
            "a misplaced switch must not count"
        );
        reader.integer("PORT", 0, 0..=9);
    };
    let misplaced = Source::from_toml_str("caracal_mode = \"dev\"\njti_fail_open = true").unwrap();
    assert_eq!(
        report(&misplaced, read),
        "jti_fail_open: is not a known setting (write jti_fail_open under [insecure])"
    );
    let misplaced = Source::from_toml_str("caracal_mode = \"dev\"\n[insecure]\nport = 1").unwrap();
    assert_eq!(
        report(&misplaced, read),
        "insecure.port: is not a known setting (write port at the top, outside of [insecure])"
    );
}

#[test]
fn insecure_variables_nobody_reads_are_refused_too() {
    let names = [
        ("INSECURE_STS", "1"),
        ("INSECURE_HTTP", "yes"),
        ("INSECURE_OFF", "false"),
    ];
    let refused = report(&pairs(&names), |_| {});
    assert_eq!(refused.lines().count(), 2, "{refused}");
    let dev = pairs(&names).with_pairs([("CARACAL_MODE", "dev")]);
    assert_eq!(report(&dev, |_| {}), "");
}

#[test]
fn a_secret_written_into_the_configuration_file_is_warned_about() {
    let text = "audit_admin_token = \"hunter2\"\nredis_url = \"redis://redis:6379\"";
    let source = Source::from_toml_str(text).unwrap();
    let mut reader = Reader::new(&source);
    reader.secret("AUDIT_ADMIN_TOKEN");
    reader.secret("REDIS_URL");
    assert_eq!(
        reader.warnings(),
        [
            "AUDIT_ADMIN_TOKEN is written in the configuration file: prefer AUDIT_ADMIN_TOKEN_FILE or the environment"
        ]
    );
}

fn read_routes(reader: &mut Reader<'_>) -> Vec<(String, bool)> {
    let tables = reader.tables("ROUTES");
    let read = |reader: &mut Reader<'_>| (reader.text("HOST", None), reader.boolean("PUBLIC", false));
    tables.iter().map(|table| reader.table(table, read)).collect()
}

#[test]
fn tables_are_read_like_the_top_level_and_their_mistakes_carry_their_place() {
    let text = "[[routes]]\nhost = \"a\"\npublic = true\n[[routes]]\nhots = \"b\"";
    let source = Source::from_toml_str(text).unwrap();
    let mut reader = Reader::new(&source);
    assert_eq!(
        read_routes(&mut reader),
        [("a".to_owned(), true), (String::new(), false)]
    );
    let report = reader.finish().unwrap_err().to_string();
    assert!(report.contains("routes[1].host: is not set"), "{report}");
    assert!(
        report.contains("routes[1].hots: is not a known setting (did you mean host?)"),
        "{report}"
    );
}

#[test]
fn tables_may_come_from_a_variable_as_json() {
    let source = pairs(&[("ROUTES", r#"[{"host": "a", "public": true}]"#)]);
    let mut reader = Reader::new(&source);
    assert_eq!(read_routes(&mut reader), [("a".to_owned(), true)]);
    reader.finish().unwrap();
    let broken = report(&pairs(&[("ROUTES", "{}")]), |reader| {
        assert!(read_routes(reader).is_empty());
    });
    assert_eq!(
        broken,
        "ROUTES: is not a JSON array of objects (write [{...}, {...}])"
    );
    let scalar = report(&Source::from_toml_str("routes = 3").unwrap(), |reader| {
        read_routes(reader);
    });
    assert_eq!(
        scalar,
        "ROUTES: is a number where tables are expected (write [[routes]] tables)"
    );
}

#[test]
fn rules_between_settings_are_reported_like_the_others() {
    let report = report(&pairs(&[]), |reader| {
        reader.check(true, "A", "never", "never");
        reader.check(
            false,
            "READ_TIMEOUT",
            "is not above STS_TIMEOUT + UPSTREAM_TIMEOUT",
            "raise it",
        );
    });
    assert_eq!(
        report,
        "READ_TIMEOUT: is not above STS_TIMEOUT + UPSTREAM_TIMEOUT (raise it)"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_a_mistake_with_its_name() {
    let error = Source::from_env_and_file(Some(std::path::Path::new("/nonexistent/a.toml"))).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("/nonexistent/a.toml: cannot be read"),
        "{error}"
    );
}

#[test]
fn the_environment_of_the_process_is_read() {
    let source = Source::from_env_and_file(None).unwrap();
    assert!(Reader::new(&source).optional_text("PATH").is_some());
}

#[test]
fn a_sample_that_leaves_a_setting_out_is_found() {
    let source = Source::from_toml_str("").unwrap();
    let mut reader = Reader::new(&source);
    reader.integer("PORT", 1, 1..=2);
    reader.boolean("TRUST", false);
    reader.optional_secret("KEY");
    reader.optional_secret("TOKEN");
    drop(reader.tables("ROUTE"));
    let sample = "# the port\nport = 1\n# key_file = \"/run/key\"\n[[route]]\n";
    assert_eq!(
        reader.not_shown_in(sample),
        ["caracal_env", "caracal_mode", "token", "trust"]
    );
}

#[test]
fn a_file_that_is_read_again_keeps_the_environment_and_tells_what_differs() {
    let before = Source::from_toml_str("port = 1\nhost = \"a\"\n[[route]]\npath = \"/a\"\n").unwrap();
    let before = before.with_pairs([("HOST", "b")]);
    let after = before
        .with_file_text("host = \"a\"\nmore = 2\n[[route]]\npath = \"/b\"\n")
        .unwrap();
    assert_eq!(before.keys_that_differ(&after), ["more", "port", "route"]);
    assert_eq!(Reader::new(&after).text("HOST", None), "b");
    assert!(before.with_file_text("port = ").is_err());
    assert_eq!(before.file(), None);
}
