//! Which bundles of OPA are read, as what, and which are refused?

#![expect(clippy::unwrap_used, reason = "what the cases share runs only in tests")]

use std::io::Write as _;

use caracal_policy::opa_bundle::{
    ENTRIES_MAX, OpaBundle, OpaBundleError, REVISION_CHARACTERS_MAX, ROOTS_MAX, SEGMENTS_MAX,
    UNPACKED_BYTES_MAX, read,
};
use caracal_policy::{Bundle, document};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use tar::{Builder, EntryType, Header};

const ALLOW: &str = "package shop

import data.users

default allow := false

allow if input.user in users.admins
";

const RESULT: &str = "# caracal:decision-policy
package caracal.authz

result := {\"decision\": \"allow\", \"evaluation_status\": \"complete\"} if data.shop.allow
";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An entry under a name of any kind, which the library itself would not write.
fn entry(builder: &mut Builder<Vec<u8>>, name: &str, kind: EntryType, content: &[u8]) {
    let mut header = Header::new_gnu();
    let field = header.as_old_mut().name.get_mut(..name.len()).unwrap();
    field.copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    builder.append(&header, content).unwrap();
}

fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, content) in files {
        entry(&mut builder, name, EntryType::Regular, content.as_bytes());
    }
    gzip(&builder.into_inner().unwrap())
}

fn bundle(files: &[(&str, &str)]) -> Result<OpaBundle, OpaBundleError> {
    read(&archive(files))
}

fn names(bundle: &OpaBundle) -> Vec<&str> {
    bundle
        .documents
        .iter()
        .map(|document| document.name.as_str())
        .collect()
}

/// What `opa build` writes: names with a slash in front.
#[test]
fn a_bundle_of_modules_and_data_becomes_documents_that_can_be_put_in_force() {
    let users = r#"{"users": {"admins": ["ada"], "limits": {"a/b": 1.50}}}"#;
    let grants = r#"{"app_ids": {"bot": "app-1"}}"#;
    let read = bundle(&[
        ("/data.json", users),
        ("/caracal/authz/data.json", grants),
        ("/shop/allow.rego", ALLOW),
        (
            "/shop/allow_test.rego",
            "package shop\ntest_allow if allow with input as {}\n",
        ),
        ("/result.rego", RESULT),
        ("/README.md", "words"),
        (
            "/.manifest",
            r#"{"revision": "r1", "roots": ["shop", "users", "caracal/authz"], "rego_version": 1}"#,
        ),
    ])
    .unwrap();
    assert_eq!(read.revision.as_deref(), Some("r1"));
    assert_eq!(
        names(&read),
        [
            "result.rego",
            "shop/allow.rego",
            "data:caracal/authz",
            "data:users"
        ]
    );
    let of = |name: &str| {
        &read
            .documents
            .iter()
            .find(|document| document.name == name)
            .unwrap()
            .content
    };
    assert_eq!(of("result.rego"), RESULT, "what is marked stays as it is");
    assert_eq!(
        *of("shop/allow.rego"),
        format!("{ALLOW}\n# caracal:decision-policy\n"),
        "lines keep their numbers"
    );
    assert_eq!(
        of("data:users"),
        "# caracal:decision-policy\n# caracal:bundle-data\npackage users\n\nadmins := [\"ada\"]\n\nlimits := {\"a/b\": 1.50}\n"
    );
    for document in &read.documents {
        document::validate(&document.content).unwrap();
    }
    let modules: Vec<(&str, &str)> = read
        .documents
        .iter()
        .map(|document| (document.name.as_str(), document.content.as_str()))
        .collect();
    assert!(Bundle::check(&modules).unwrap().reads_input());
}

#[test]
fn data_is_taken_apart_down_to_the_packages_and_roots_below_it() {
    let data = json!({"a": {"b": {"c": {"d": 1}, "e": 2}, "f": [3]}}).to_string();
    let read = bundle(&[
        ("data.json", &data),
        ("m.rego", "package a.b.c\nx := 1\n"),
        (".manifest", r#"{"roots": ["a/b", "a/f"]}"#),
    ])
    .unwrap();
    assert_eq!(names(&read), ["m.rego", "data:a", "data:a/b", "data:a/b/c"]);
    let modules: Vec<(&str, &str)> = read
        .documents
        .iter()
        .map(|document| (document.name.as_str(), document.content.as_str()))
        .chain([("r", "# caracal:decision-policy\npackage caracal.authz\nresult := {\"decision\": \"allow\", \"evaluation_status\": \"complete\"} if data.a.b.c.d == data.a.b.c.x\n")])
        .collect();
    Bundle::check(&modules).unwrap();
}

#[test]
fn a_module_without_a_mark_is_what_it_can_be() {
    let read = bundle(&[
        (
            "data.rego",
            "package caracal.authz\napp_ids := {\"bot\": \"app-1\"}\n",
        ),
        ("rules.rego", "package caracal.authz\nresult := {}\n"),
    ])
    .unwrap();
    let last = |index: usize| read.documents[index].content.lines().last();
    assert_eq!(last(0), Some("# caracal:data-document"));
    assert_eq!(last(1), Some("# caracal:decision-policy"));
}

#[test]
fn what_is_no_bundle_or_not_offered_is_refused() {
    use OpaBundleError as E;
    let refused = |files: &[(&str, &str)]| bundle(files).unwrap_err();
    for path in [
        "../x.rego",
        "a/../x.rego",
        "//x.rego",
        "a//x.rego",
        "a\\x.rego",
        "./../x.rego",
        "/",
        "a/./x.rego",
        "C:\n.rego",
    ] {
        assert!(matches!(refused(&[(path, ALLOW)]), E::Path(_)), "{path:?}");
    }
    assert!(
        matches!(refused(&[("a.rego", ALLOW), ("/a.rego", ALLOW)]), E::Path(_)),
        "twice"
    );
    for (files, expected) in [
        ([("data.yaml", "a: 1"), ("x", "")], "not taken"),
        ([("policy.wasm", ""), ("x", "")], "not taken"),
        ([("patch.json", "{}"), ("x", "")], "not taken"),
        ([(".manifest", r#"{"rego_version": 0}"#), ("x", "")], "not taken"),
        ([(".manifest", r#"{"wasm": [{}]}"#), ("x", "")], "not taken"),
        ([(".manifest", "["), ("x", "")], "manifest"),
        (
            [(".manifest", r#"{"roots": ["a", "a/b"]}"#), ("x", "")],
            "overlap",
        ),
        ([(".manifest", r#"{"roots": ["a", ""]}"#), ("x", "")], "overlap"),
        (
            [(".manifest", r#"{"roots": ["a", "a-b", "a/b"]}"#), ("x", "")],
            "overlap",
        ),
        ([(".manifest", r#"{"roots": ["a", "a"]}"#), ("x", "")], "overlap"),
        (
            [("data.json", r#"{"a": {"b": 1}, "a": {"c": 2}}"#), ("x", "")],
            "not a JSON object",
        ),
        (
            [(".manifest", r#"{"roots": ["shops"]}"#), ("a.rego", ALLOW)],
            "not within the roots",
        ),
        (
            [
                (".manifest", r#"{"roots": ["b"]}"#),
                ("data.json", r#"{"a": {"c": 1}}"#),
            ],
            "not within the roots",
        ),
        ([("data.json", "[]"), ("x", "")], "not a JSON object"),
        ([("data.json", "{"), ("x", "")], "not a JSON object"),
        ([("data.json", r#"{"a": 1}"#), ("x", "")], "cannot be defined"),
        (
            [("data.json", r#"{"a": {"b-c": 1}}"#), ("x", "")],
            "cannot be defined",
        ),
        (
            [("data.json", r#"{"a b": {"c": 1}}"#), ("x", "")],
            "cannot be defined",
        ),
        (
            [
                ("data.json", r#"{"a": {"b": 1}}"#),
                ("a/data.json", r#"{"b": 2}"#),
            ],
            "defined twice",
        ),
        (
            [
                ("data.json", r#"{"caracal": {"authz": {"result": {}}}}"#),
                ("x", ""),
            ],
            "cannot be defined",
        ),
        ([("a.rego", "words"), ("x", "")], "not a Rego module"),
    ] {
        let error = refused(&files).to_string();
        assert!(error.contains(expected), "{files:?}: {error}");
    }
    for bytes in [
        &b""[..],
        b"words",
        &gzip(b"words"),
        &archive(&[("a.rego", ALLOW)])[..60],
    ] {
        assert!(matches!(read(bytes), Err(E::Archive(_))), "{bytes:?}");
    }
}

#[test]
fn manifest_and_data_are_bounded_in_breadth_and_depth() {
    use OpaBundleError as E;
    let manifest = |member: serde_json::Value| {
        let text = member.to_string();
        bundle(&[(".manifest", &text), ("a.rego", ALLOW)])
    };
    let roots = |count: usize| -> Vec<String> { (0..count).map(|number| format!("r{number}")).collect() };
    let with_shop = |mut roots: Vec<String>| {
        roots.push("shop".to_owned());
        json!({ "roots": roots })
    };
    assert!(manifest(with_shop(roots(ROOTS_MAX - 1))).is_ok());
    let refused = manifest(with_shop(roots(ROOTS_MAX))).unwrap_err();
    assert!(matches!(refused, E::LongManifest), "{refused}");
    let long = "r".repeat(REVISION_CHARACTERS_MAX + 1);
    assert!(manifest(json!({ "revision": &long[1..] })).is_ok());
    let refused = manifest(json!({ "revision": long })).unwrap_err();
    assert!(matches!(refused, E::LongManifest), "{refused}");
    let deep = |segments: usize| vec!["a"; segments].join("/");
    let refused = manifest(with_shop(vec![deep(SEGMENTS_MAX + 1)])).unwrap_err();
    assert!(matches!(refused, E::TooDeep(_)), "{refused}");
    let module = format!(
        "package {}\nallow := true\n",
        deep(SEGMENTS_MAX + 1).replace('/', ".")
    );
    let refused = bundle(&[("a.rego", &module)]).unwrap_err();
    assert!(matches!(refused, E::TooDeep(_)), "{refused}");
    // Each level is read again, and each of them holds all that is below.
    let payload = "1,".repeat(700_000);
    let mut nested = format!("[{payload}1]");
    for _level in 0..SEGMENTS_MAX {
        nested = format!("{{\"a\":{nested}}}");
    }
    let root = json!({ "roots": [deep(SEGMENTS_MAX)] }).to_string();
    let taken = bundle(&[(".manifest", &root), ("data.json", &nested)]);
    assert!(taken.is_ok(), "{:?}", taken.err());
    let larger = nested.replacen(&payload, &"1,".repeat(3_000_000), 1);
    let refused = bundle(&[(".manifest", &root), ("data.json", &larger)]).unwrap_err();
    assert!(matches!(refused, E::TooDeep(_)), "{refused}");
}

#[test]
fn an_archive_is_read_within_its_limits_and_no_entry_leads_out_of_it() {
    use OpaBundleError as E;
    let zeros = vec![0_u8; UNPACKED_BYTES_MAX + 1];
    let bomb = gzip(&zeros);
    assert!(
        bomb.len() < 1 << 20,
        "it comes through the limit of the body: {}",
        bomb.len()
    );
    assert!(matches!(read(&bomb), Err(E::TooLarge)));
    let mut many = Builder::new(Vec::new());
    for number in 0..=ENTRIES_MAX {
        entry(&mut many, &format!("f{number}"), EntryType::Regular, b"");
    }
    let many = gzip(&many.into_inner().unwrap());
    assert!(matches!(read(&many), Err(E::TooManyEntries)));
    for kind in [
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Fifo,
        EntryType::Char,
        EntryType::GNUSparse,
    ] {
        let mut builder = Builder::new(Vec::new());
        entry(&mut builder, "a.rego", kind, b"");
        let bytes = gzip(&builder.into_inner().unwrap());
        assert!(
            matches!(read(&bytes), Err(E::NotAFile(_) | E::Archive(_))),
            "{kind:?}"
        );
    }
    let members: serde_json::Map<_, _> = (0..9_000)
        .map(|number| (format!("k{number}"), json!(1)))
        .collect();
    let crowd = json!({ "a": members }).to_string();
    assert!(matches!(bundle(&[("data.json", &crowd)]), Err(E::TooManyMembers)));
    // An entry that says it is longer than the archive.
    let mut header = Header::new_gnu();
    header.set_path("a.rego").unwrap();
    header.set_entry_type(EntryType::Regular);
    header.set_size(1 << 40);
    header.set_cksum();
    assert!(matches!(read(&gzip(header.as_bytes())), Err(E::Archive(_))));
}
