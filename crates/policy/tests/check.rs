//! Does whoever puts a set in force learn what is wrong with it, in which document, and on which line?

use caracal_policy::{Bundle, Finding, Regime, explain};
use serde_json::json;

const HEAD: &str = "# caracal:data-document\npackage caracal.authz\n\nimport rego.v1\n\n";

/// What is found in one document whose first line after the head is line 6.
fn findings(body: &str) -> Vec<Finding> {
    let text = format!("{HEAD}{body}\n");
    match Bundle::check(&[("good", HEAD), ("pv-7", &text)]) {
        Ok(_) => Vec::new(),
        Err(findings) => findings.as_slice().to_vec(),
    }
}

#[track_caller]
fn only(body: &str) -> Finding {
    let mut found = findings(body);
    assert_eq!(found.len(), 1, "{body}: {found:?}");
    found.remove(0)
}

#[test]
fn a_member_nobody_knows_is_named_with_its_line() {
    for (body, line, path) in [
        (
            "grants := {\n\t\"resource://crm\": {\n\t\t\"application\": \"bot\",\n\t\t\"rolse\": {},\n\t},\n}",
            9,
            r#"grants["resource://crm"]["rolse"]"#,
        ),
        (
            "grants[\"resource://crm\"] := {\"application\": \"bot\"}\n\ngrants[\"resource://hr\"] := {\n\t\"application\": \"bot\",\n\t\"owner\": 1,\n}",
            10,
            r#"grants["resource://hr"]["owner"]"#,
        ),
        (
            "confinement := [\n\t{\"label_prefix\": \"a\", \"scopes\": []},\n\t{\"label_prefix\": \"b\", \"scopes\": [], \"scope\": []},\n]",
            8,
            r#"confinement[1]["scope"]"#,
        ),
        (
            "risk := [{\"scope\": \"a\", \"tier\": \"t\", \"why\": 1}]",
            6,
            r#"risk[0]["why"]"#,
        ),
        (
            "approval_tiers := [{\n\t\"tier\": \"t\",\n\t\"aprover\": \"any\",\n}]",
            8,
            r#"approval_tiers[0]["aprover"]"#,
        ),
    ] {
        let found = only(body);
        assert_eq!(
            (found.document.as_deref(), found.line, found.path.as_deref()),
            (Some("pv-7"), Some(line), Some(path)),
            "{found}"
        );
        assert!(found.problem.starts_with("is not a known member"), "{found}");
    }
}

#[test]
fn a_wrong_shape_is_named_with_its_line() {
    for (body, line, path, problem) in [
        ("app_ids := []", 6, "app_ids", "must be an object"),
        (
            "app_ids := {\n\t\"bot\": 7,\n}",
            7,
            r#"app_ids["bot"]"#,
            "must be a text that is not empty",
        ),
        (
            "app_ids.bot := 7",
            6,
            r#"app_ids["bot"]"#,
            "must be a text that is not empty",
        ),
        (
            "grants := {\"r\": {\n\t\"roles\": {\n\t\t\"e\": [\n\t\t\t\"a\",\n\t\t\t\"b c\",\n\t\t],\n\t},\n\t\"application\": \"x\",\n}}",
            10,
            r#"grants["r"].roles["e"][1]"#,
            "must be a scope: a text that is not empty and has no white space",
        ),
        (
            "\n\ngrants := {\"r\": {}}",
            8,
            r#"grants["r"].application"#,
            "is missing",
        ),
        (
            "restrict := \"freeze\"",
            6,
            "restrict",
            "must be an array, a set or an object",
        ),
        ("risk := {}", 6, "risk", "must be an array"),
        ("risk := [{\"scope\": \"a\"}]", 6, "risk[0].tier", "is missing"),
        (
            "approval_tiers := [{\"tier\": \"t\"},\n{\"tier\": \"t\", \"approver\": \"root\"}]",
            7,
            "approval_tiers[1].approver",
            "must be one of operator, subject, any",
        ),
        (
            "approval_tiers := [{\"tier\": \"t\", \"ttl_seconds\": 0}]",
            6,
            "approval_tiers[0].ttl_seconds",
            "must be a whole number above zero",
        ),
        (
            "risk := [\n\t{\"scope\": \"a\", \"tier\": \"x\"},\n\t{\"scope\": \"a\", \"tier\": \"y\"},\n]",
            8,
            "risk[1]",
            "puts the scope in another tier than risk[0] does",
        ),
        (
            "# a computed value is found at the rule that computes it\ngrants := {name: {\"application\": 1} | some name in [\"r\"]}",
            7,
            r#"grants["r"].application"#,
            "must be a text that is not empty",
        ),
    ] {
        let found = only(body);
        assert_eq!(
            (
                found.document.as_deref(),
                found.line,
                found.path.as_deref(),
                found.problem.as_str()
            ),
            (Some("pv-7"), Some(line), Some(path), problem),
            "{body}"
        );
    }
}

#[test]
fn text_that_does_not_compile_is_named_with_its_line() {
    for (body, line, problem) in [
        ("app_ids := {}\ngrants := {", Some(7), "is not valid Rego"),
        ("grants := \"open", Some(6), "is not valid Rego"),
        ("app_ids := {}\n\ngrants := :=", Some(8), "is not valid Rego"),
        ("app_ids := {}\nallow := true", Some(7), "must not define allow"),
        (
            "app_ids := {}\nrestrict := [\n\ttime.now_ns(),\n]",
            Some(8),
            "must not call time.now_ns",
        ),
        (
            "grants := {1:\ndata.other}",
            Some(7),
            "must not refer to data.other",
        ),
        (
            "app_ids := {}\nrestrict := [no_such(1)]",
            Some(7),
            "cannot be evaluated",
        ),
        (
            "app_ids := {}\nrestrict := [to_number(\"x\")]",
            Some(7),
            "cannot be evaluated",
        ),
    ] {
        let found = only(body);
        assert_eq!(
            (found.document.as_deref(), found.line),
            (Some("pv-7"), line),
            "{body}: {found}"
        );
        assert!(found.problem.starts_with(problem), "{body}: {found}");
    }
    let other = Bundle::check(&[("pv-7", "\npackage other\n")]).unwrap_err();
    assert_eq!(other.as_slice()[0].line, Some(2));
}

#[test]
fn everything_that_can_be_told_is_told_at_once() {
    let found = findings("app_ids := {\"a\": 1, \"b\": 2}\nrestrict := 7\nrisk := [{}]");
    let paths: Vec<_> = found
        .iter()
        .filter_map(|finding| finding.path.as_deref())
        .collect();
    assert_eq!(
        paths,
        [
            r#"app_ids["a"]"#,
            r#"app_ids["b"]"#,
            "restrict",
            "risk[0].scope",
            "risk[0].tier"
        ]
    );
    let text = Bundle::check(&[("d", &format!("{HEAD}app_ids := {{\"a\": 1, \"b\": 2}}"))]).unwrap_err();
    assert_eq!(
        text.to_string(),
        r#"document d, line 6: app_ids["a"] must be a text that is not empty (and 1 more)"#
    );
}

#[test]
fn a_stored_set_with_members_nobody_knows_still_loads() {
    let text = format!("{HEAD}grants := {{\"r\": {{\"application\": \"b\", \"note\": 1}}}}");
    assert!(Bundle::check(&[("d", &text)]).is_err());
    assert!(
        Bundle::compile(&[("d", &text)]).is_ok(),
        "it was put in force under other rules, and goes on deciding"
    );
}

#[test]
fn a_sound_set_passes_and_decides() {
    let body = r#"app_ids := {"bot": "app-1"}
grants := {"resource://crm": {"application": "bot", "roles": {"editor": {"crm:write"}}, "ambient": []}}
confinement := {{"label_prefix": "", "scopes": ["crm:write"]}}
restrict := set()
risk := [{"scope": "crm:write", "tier": "t"}]
approval_tiers := [{"tier": "t", "approver": "any", "ttl_seconds": 60, "privacy": "anonymous"}]"#;
    let bundle = Bundle::check(&[("d", &format!("{HEAD}{body}"))]).unwrap();
    let mut input = json!({
        "schema_version": "2026-05-20",
        "principal": {"type": "Application", "id": "app-1", "labels": ["reader", "editor"]},
        "resource": {"identifier": "resource://crm"},
        "delegation_edge": {"id": "e1", "scopes": ["crm:write"]},
        "context": {"agent_session_id": "s1", "requested_scopes": ["crm:write"]}
    });
    let told = explain(&bundle, &input.to_string(), Regime::Restrict).unwrap();
    assert!(told.decision.allow());
    let gates: Vec<&str> = told.gates.iter().map(|gate| gate.gate).collect();
    assert_eq!(
        (told.shape, gates.as_slice()),
        (
            Some("mint"),
            &[
                "zone_is_not_frozen",
                "risk_is_well_formed",
                "approval_tiers_are_well_formed",
                "principal_owns_resource",
                "within_delegation",
                "within_confinement",
                "one_role_covers_scopes",
            ][..]
        )
    );
    input["principal"]["labels"] = json!(["reader"]);
    let told = explain(&bundle, &input.to_string(), Regime::Restrict).unwrap();
    let last = told.gates.last().unwrap();
    assert_eq!(
        (last.gate, last.passed, last.because.as_str()),
        (
            "one_role_covers_scopes",
            false,
            r#"crm:write is wanted; label "reader" has no role"#
        )
    );
}
