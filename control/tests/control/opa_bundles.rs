//! Bundles of OPA: what they become, what is refused, and what the same one does again.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use tar::{Builder, Header};

use crate::harness::{Answer, BOOTSTRAP, Harness, id};

const RESULT: &str = "package caracal.authz

result := {\"decision\": \"allow\", \"evaluation_status\": \"complete\"} if input.principal.id in data.users.admins
";

const USERS: &str = r#"{"users": {"admins": ["app-1"]}}"#;

const MANIFEST: &str = r#"{"revision": "r1", "roots": ["caracal/authz", "users"]}"#;

const FILES: [(&str, &str); 3] = [
    (".manifest", MANIFEST),
    ("data.json", USERS),
    ("authz/result.rego", RESULT),
];

fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, content) in files {
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder
            .append_data(&mut header, path, content.as_bytes())
            .unwrap();
    }
    let mut encoder = builder.into_inner().unwrap();
    encoder.flush().unwrap();
    encoder.finish().unwrap()
}

struct Set {
    api: Harness,
    zone: String,
    path: String,
}

impl Set {
    async fn new() -> Self {
        Self::named("ours").await
    }

    async fn named(name: &str) -> Self {
        let api = Harness::start().await;
        let zone = api.zone("z").await;
        let sets = format!("/v1/zones/{zone}/policy-sets");
        let set = id(&api.post(&sets, &json!({ "name": name })).await.expect(201));
        Self {
            api,
            zone,
            path: format!("{sets}/{set}"),
        }
    }

    async fn import(&self, query: &str, body: &[u8]) -> Answer {
        let authorization = format!("Bearer {BOOTSTRAP}");
        let headers = [
            ("authorization", authorization.as_str()),
            ("content-type", "application/gzip"),
        ];
        let path = format!("{}/opa-bundle{query}", self.path);
        self.api.send("POST", &path, &headers, body).await
    }

    async fn count(&self, table: &str) -> i64 {
        let query = match table {
            "policies" => "SELECT count(*) FROM policies WHERE zone_id = $1",
            "policy_versions" => {
                "SELECT count(*) FROM policy_versions v JOIN policies p ON p.id = v.policy_id WHERE p.zone_id = $1"
            }
            "policy_set_versions" => {
                "SELECT count(*) FROM policy_set_versions v JOIN policy_sets s ON s.id = v.policy_set_id
                 WHERE s.zone_id = $1"
            }
            _ => "SELECT count(*) FROM admin_audit_events WHERE zone_id = $1 AND path LIKE '%/opa-bundle'",
        };
        self.api.count(query, &self.zone).await
    }

    async fn active(&self) -> Value {
        self.api.get(&self.path).await.expect(200)["active_version_id"].clone()
    }
}

#[tokio::test]
async fn a_bundle_becomes_a_version_that_decides_once_it_is_activated() {
    let set = Set::new().await;
    let made = set.import("", &archive(&FILES)).await.expect(201);
    assert_eq!(
        (&made["version"], &made["revision"], &made["activated"]),
        (&json!(1), &json!("r1"), &json!(false))
    );
    let names: Vec<&Value> = made["policies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|policy| &policy["name"])
        .collect();
    assert_eq!(names, ["ours/authz/result.rego", "ours/data:users"]);
    assert_eq!(set.active().await, Value::Null, "nobody asked for that");
    let version = &made["version_id"];
    let tried = set
        .api
        .post(
            &format!("{}/simulate", set.path),
            &json!({ "version_id": version, "input": { "principal": { "id": "app-2" } } }),
        )
        .await
        .expect(200);
    assert_eq!(tried["explanation"]["evaluation"], "executed", "{tried}");
    let activate = json!({ "version_id": version });
    set.api
        .post(&format!("{}/activate", set.path), &activate)
        .await
        .expect(202);
    assert_eq!(set.active().await, *version);
}

#[tokio::test]
async fn the_same_bundle_again_changes_nothing_and_another_adds_what_is_new() {
    let set = Set::new().await;
    let first = set.import("?activate=true", &archive(&FILES)).await.expect(201);
    assert_eq!(
        (&first["activated"], &set.active().await),
        (&json!(true), &first["version_id"])
    );
    set.api
        .get(first["status_url"].as_str().unwrap())
        .await
        .expect(200);
    let again = set.import("", &archive(&FILES)).await.expect(200);
    assert_eq!(
        (&again["version_id"], &again["policies"]),
        (&first["version_id"], &first["policies"])
    );
    assert_eq!(set.count("policy_set_versions").await, 1);
    let recorded = "the import and the activation; what changed nothing is not recorded";
    assert_eq!(set.count("records").await, 2, "{recorded}");
    let more = [
        (".manifest", MANIFEST),
        ("data.json", r#"{"users": {"admins": ["app-1", "app-2"]}}"#),
        ("authz/result.rego", RESULT),
    ];
    let second = set.import("", &archive(&more)).await.expect(201);
    assert_eq!(second["version"], 2);
    assert_eq!(
        second["policies"][0], first["policies"][0],
        "the module is the same"
    );
    assert_ne!(second["policies"][1], first["policies"][1]);
    assert_eq!(
        (set.count("policies").await, set.count("policy_versions").await),
        (2, 3)
    );
    assert_eq!(
        set.active().await,
        first["version_id"],
        "nobody asked for another"
    );
    let back = set.import("", &archive(&FILES)).await.expect(201);
    assert_eq!(back["version"], 3, "an older bundle is a newer version");
}

#[tokio::test]
async fn no_two_sets_can_mean_the_same_policy() {
    let set = Set::named("ours/b").await;
    set.import("", &archive(&FILES))
        .await
        .refused(422, "invalid_opa_bundle");
    assert_eq!(set.count("policies").await, 0);
}

#[tokio::test]
async fn what_could_not_come_one_by_one_does_not_come_in_a_bundle() {
    let set = Set::new().await;
    for (body, code) in [
        (b"words".to_vec(), "invalid_opa_bundle"),
        (Vec::new(), "invalid_opa_bundle"),
        (archive(&[]), "invalid_opa_bundle"),
        (archive(&[("README.md", "words")]), "invalid_opa_bundle"),
        (archive(&[("data.yaml", "a: 1")]), "invalid_opa_bundle"),
        (
            archive(&[("a.rego", "package a\nx := http.send({})\n")]),
            "invalid_rego",
        ),
        (
            archive(&[("a.rego", "package caracal.other\nx := 1\n")]),
            "invalid_rego",
        ),
        (
            archive(&[("a.rego", "package a\nx := 1\n")]),
            "invalid_policy_bundle",
        ),
        (
            archive(&[("authz/result.rego", RESULT), ("a.rego", "package a\n\nx := \n")]),
            "invalid_policy_bundle",
        ),
    ] {
        set.import("?activate=true", &body).await.refused(422, code);
    }
    let broken = archive(&[
        ("authz/result.rego", RESULT),
        ("a/b.rego", "package a\n\nx := {\n"),
    ]);
    let refused = set.import("", &broken).await;
    refused.refused(422, "invalid_opa_bundle");
    assert!(refused.body.to_string().contains("a/b.rego"), "{}", refused.body);
    let unknown = archive(&[(
        "caracal/authz/data.json",
        r#"{"grants": {"resource://crm": {"aplication": "x"}}}"#,
    )]);
    let refused = set.import("", &unknown).await;
    refused.refused(422, "invalid_policy_bundle");
    let finding = &refused.body["details"]["diagnostics"][0];
    assert_eq!(finding["document"], "data:caracal/authz", "{}", refused.body);
    let huge = vec![0_u8; (1 << 20) + 1];
    set.import("", &huge).await.refused(413, "payload_too_large");
    set.import("?activate=maybe", &archive(&FILES))
        .await
        .refused(400, "invalid_query");
    for table in ["policies", "policy_set_versions"] {
        assert_eq!(set.count(table).await, 0, "{table}: all or nothing");
    }
    let elsewhere = Set {
        path: format!("{}-not", set.path),
        ..set
    };
    elsewhere
        .import("", &archive(&FILES))
        .await
        .refused(404, "policy_set_not_found");
}
