use super::*;

const DOCUMENT: &str = r#"# caracal:data-document
package caracal.authz

import rego.v1

app_ids := {"bot": "app-1"}

grants["resource://crm"] := {
	"application": "bot", # the package is { not opened here
	"roles": {"editor": ["crm:write"]},
}

confinement := [{"label_prefix": "tenant:", "scopes": ["crm:read"]}]

restrict contains `frozen "by"
hand` if {
	input.action.method == "DELETE"
}

default risk := []
"#;

fn document(body: &str) -> String {
    format!("# caracal:data-document\npackage caracal.authz\n{body}\n")
}

fn word(content: &str) -> String {
    validate(content).map_or_else(|error| error.to_string(), |()| "valid".to_owned())
}

#[test]
fn a_data_document_is_valid() {
    assert_eq!(word(DOCUMENT), "valid");
}

#[test]
fn every_refusal_has_its_published_word() {
    let many_brackets = document(&format!("restrict := {}", "[".repeat(1_000)));
    for (content, expected) in [
        (String::new(), "empty_policy"),
        (" \n\t".to_owned(), "empty_policy"),
        (document(&"#".repeat(CONTENT_CHARACTERS_MAX)), "content_too_large"),
        (document("risk := [\"x]"), "unterminated_string"),
        (document("risk := [`x]"), "unterminated_string"),
        (document(r#"risk := ["x\"]"#), "unterminated_string"),
        (document("risk := [1"), "unbalanced_delimiters"),
        (document("risk := [1}"), "unbalanced_delimiters"),
        (document("risk := 1]"), "unbalanced_delimiters"),
        (many_brackets, "unbalanced_delimiters"),
        (
            "# caracal:data-document\nrisk := []".to_owned(),
            "missing_package_declaration",
        ),
        (
            "# package caracal.authz\nrisk := []".to_owned(),
            "missing_package_declaration",
        ),
        (
            "packages caracal.authz\nrisk := []".to_owned(),
            "missing_package_declaration",
        ),
        (
            "package caracal..authz\nrisk := []".to_owned(),
            "invalid_package_name",
        ),
        ("package 1authz\nrisk := []".to_owned(), "invalid_package_name"),
        (
            "package caracal authz\nrisk := []".to_owned(),
            "invalid_package_name",
        ),
        (
            document("risk := [time.now_ns()]"),
            "forbidden_builtin:time.now_ns",
        ),
        (
            document("risk := [http.send ({})]"),
            "forbidden_builtin:http.send",
        ),
        (
            "package other\nrisk := [rand.intn(1)]".to_owned(),
            "forbidden_builtin:rand.intn",
        ),
        (
            "# caracal:data-document\npackage other\nrisk := []".to_owned(),
            "must_use_package_caracal_authz",
        ),
        (
            "package caracal.authz\nrisk := []".to_owned(),
            "must_be_data_document",
        ),
        (
            "package caracal.authz\nrisk := [\"# caracal:data-document\"]".to_owned(),
            "must_be_data_document",
        ),
        (document("result := {}"), "data_document_must_not_define_result"),
        (
            document("risk := []\ndefault result := {}"),
            "data_document_must_not_define_result",
        ),
        (
            document("result[\"decision\"] := \"allow\""),
            "data_document_must_not_define_result",
        ),
        (document(""), "data_document_must_define_data"),
        (document("import rego.v1"), "data_document_must_define_data"),
        (document("helper := 1"), "data_document_rule_not_allowed:helper"),
        (
            document("risk := []\n  helper if {\n true\n}"),
            "data_document_rule_not_allowed:helper",
        ),
        (
            document("helper(x) := x"),
            "data_document_rule_not_allowed:helper",
        ),
        (
            document("helper contains 1"),
            "data_document_rule_not_allowed:helper",
        ),
        (
            document("helper.a[\"b\"] := 1"),
            "data_document_rule_not_allowed:helper",
        ),
        (
            document("risk := []; helper := 1"),
            "data_document_rule_not_allowed:helper",
        ),
    ] {
        assert_eq!(word(&content), expected, "{content:.200}");
    }
}

#[test]
fn a_name_that_only_looks_like_a_built_in_is_no_call() {
    for body in [
        r#"risk := ["time.now_ns()"]"#,
        "risk := [] # time.now_ns()",
        "risk := [my_http.send]",
        "risk := [x.http.send(1)]",
        "risk := [http.sender(1)]",
    ] {
        assert_eq!(word(&document(body)), "valid", "{body}");
    }
}

#[test]
fn lines_that_continue_a_rule_define_nothing() {
    for body in [
        "risk :=\n\tbase",
        "risk := [] if\n\tinput.action.id == \"x\"",
        "risk := [] if {\n\tfalse\n} else := [] if {\n\ttrue\n}",
        "risk := [\nhelper == 1,\n]",
    ] {
        assert_eq!(word(&document(body)), "valid", "{body}");
    }
}

#[test]
fn the_preview_names_what_a_document_defines_and_reads() {
    let shown = preview(DOCUMENT).unwrap();
    assert_eq!(shown.package, "caracal.authz");
    assert_eq!(
        shown.rules,
        ["app_ids", "grants", "confinement", "restrict", "risk"]
    );
    assert_eq!(shown.inputs_referenced, ["input.action.method"]);
    assert!(shown.data_referenced.is_empty(), "the marker is a comment");
    let other = preview("package a\nrisk := data.caracal.authz.grants[input.x]\n").unwrap();
    assert_eq!(
        (other.inputs_referenced, other.data_referenced),
        (
            vec!["input.x".to_owned()],
            vec!["data.caracal.authz.grants".to_owned()],
        )
    );
    assert_eq!(preview("risk := ["), None);
}

#[test]
fn what_may_be_stored_also_compiles() {
    assert!(crate::Bundle::compile(&[("d", DOCUMENT)]).is_ok_and(|bundle| bundle.reads_input()));
}
