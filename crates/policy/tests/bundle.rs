//! Which documents compile, which of them are interpreted, and what happens when one misbehaves?

#![expect(clippy::unwrap_used, reason = "what the cases share runs only in tests")]

use caracal_policy::{Bundle, CompileError, Decision, PolicyError, Reason, Regime, simulate};
use serde_json::{Value, json};

const OWNER: &str = r#"
app_ids := {"bot": "app-1"}
grants := {"resource://crm": {"application": "bot", "roles": {"editor": ["crm:write"]}}}
"#;

fn compile(bodies: &[&str]) -> Result<Bundle, CompileError> {
    let texts: Vec<String> = bodies
        .iter()
        .map(|body| format!("package caracal.authz\nimport rego.v1\n{body}\n"))
        .collect();
    let names: Vec<String> = (0..texts.len()).map(|index| format!("d{index}")).collect();
    let modules: Vec<(&str, &str)> = names
        .iter()
        .map(String::as_str)
        .zip(texts.iter().map(String::as_str))
        .collect();
    Bundle::compile(&modules)
}

fn mint() -> Value {
    json!({
        "schema_version": "2026-05-20",
        "principal": {"type": "Application", "id": "app-1", "zone_id": "z1", "labels": ["editor"]},
        "resource": {"type": "Resource", "id": "r1", "identifier": "resource://crm", "scopes": ["crm:write"]},
        "action": {"id": "TokenExchange", "method": "GET"},
        "delegation_edge": {"id": "e1", "scopes": ["crm:write"]},
        "context": {"agent_session_id": "s1", "requested_scopes": ["crm:write"], "challenge_resolved": false}
    })
}

fn decide(bundle: &Bundle, input: &Value) -> Result<Decision, PolicyError> {
    simulate(bundle, &input.to_string(), Regime::Restrict)
}

fn outcome(bundle: &Bundle, input: &Value) -> &'static str {
    decide(bundle, input)
        .unwrap()
        .first_reason()
        .map_or("allow", Reason::as_str)
}

#[test]
fn documents_add_up_to_one_policy() {
    let bundle = compile(&[
        r#"app_ids.bot := "app-1""#,
        r#"grants["resource://crm"] := {"application": "bot", "roles": {"editor": editors}} if { editors := ["crm:write"] }"#,
        r#"grants["resource://vault"] := {"application": "bot"}"#,
        r"default confinement := []",
    ])
    .unwrap();
    assert!(!bundle.reads_input());
    assert_eq!(outcome(&bundle, &mint()), "allow");
}

#[test]
fn computed_values_that_read_no_input_are_constant() {
    let bundle = compile(&[
        r#"app_ids := {key: id | some key, id in {"bot": "app-1"}}"#,
        r#"grants := {sprintf("resource://%s", [name]): {"application": "bot", "roles": {"editor": [concat(":", [name, "write"])]}} | some name in ["crm", "hr"]}"#,
        "# nothing here reads input.principal\nrisk := [{\"scope\": \"input\", \"tier\": \"input.x\"}]",
    ])
    .unwrap();
    assert!(
        !bundle.reads_input(),
        "a comment and a string are no reference to the request"
    );
    assert_eq!(outcome(&bundle, &mint()), "allow");
}

#[test]
fn every_way_to_look_at_the_request_is_noticed() {
    for body in [
        r#"restrict contains "x" if input.action.method == "DELETE""#,
        r"restrict contains input.action.id if false",
        r"restrict := {input.action.id} if { false }",
        r"restrict[input.action.id] := 1 if false",
        r#"restrict := ["x"] if not input.action.id"#,
        r#"restrict := ["x"] if { some label in input.principal.labels; label == "z" }"#,
        r#"restrict := ["x"] if { every label in input.principal.labels { label == "z" } }"#,
        r#"restrict := [x | x := input.action.id; x == "z"]"#,
        r#"restrict := {x | some x in object.keys(input); x == "z"}"#,
        r#"restrict := ["x"] if { count(input.principal.labels) > 5 }"#,
        r#"restrict := [] if { true } else := ["x"] if { input.action.id }"#,
        r#"restrict := ["x"] if { "z" in input.principal.labels }"#,
        r#"restrict := ["x"] if { walk(input, [["z"], _]) }"#,
        r#"restrict := ["x"] if { app_ids.z with input as {} }"#,
        "import input.action as act\nrestrict := [\"x\"] if act.id == \"z\"",
        "import input\nrestrict := [\"x\"] if input.action.id == \"z\"",
        r#"restrict := ["x"] if { uuid.rfc4122("k") == "z" }"#,
    ] {
        let bundle = compile(&[OWNER, body]).unwrap_or_else(|error| panic!("{body}: {error:?}"));
        assert!(bundle.reads_input(), "{body}");
        assert_eq!(outcome(&bundle, &mint()), "allow", "{body}");
    }
}

#[test]
fn a_root_built_from_one_that_reads_the_request_reads_it_too() {
    for body in [
        r#"restrict := ["x"] if { some cap in confinement; cap.scopes == ["none"] }"#,
        r#"restrict := ["x"] if { data.caracal.authz.confinement[0].scopes == ["none"] }"#,
        r#"restrict := ["x"] if { data.caracal["authz"].confinement[0].scopes == ["none"] }"#,
        "import data.caracal.authz.confinement as caps\nrestrict := [\"x\"] if caps[0].scopes == [\"none\"]",
    ] {
        let caps = r#"confinement := [{"label_prefix": "", "scopes": ["none"]}] if { input.action.method == "DELETE" }"#;
        let bundle = compile(&[OWNER, body, caps]).unwrap();
        let mut delete = mint();
        delete["action"]["method"] = json!("DELETE");
        assert_eq!(outcome(&bundle, &mint()), "allow", "{body}");
        assert_eq!(outcome(&bundle, &delete), "restriction_active", "{body}");
    }
}

#[test]
fn one_decision_leaves_nothing_behind_for_the_next() {
    let bundle = compile(&[
        OWNER,
        r#"restrict contains "x" if input.action.method == "DELETE""#,
    ])
    .unwrap();
    let mut delete = mint();
    delete["action"]["method"] = json!("DELETE");
    for _ in 0..3 {
        assert_eq!(outcome(&bundle, &delete), "restriction_active");
        assert_eq!(outcome(&bundle, &mint()), "allow");
    }
}

#[test]
fn many_threads_may_ask_one_bundle() {
    let bundle = compile(&[
        OWNER,
        r#"restrict contains "x" if input.action.method == "DELETE""#,
    ])
    .unwrap();
    std::thread::scope(|scope| {
        for index in 0..8 {
            let bundle = &bundle;
            scope.spawn(move || {
                let method = if index % 2 == 0 { "DELETE" } else { "GET" };
                let mut input = mint();
                input["action"]["method"] = json!(method);
                for _ in 0..20 {
                    let expected = if method == "GET" {
                        "allow"
                    } else {
                        "restriction_active"
                    };
                    assert_eq!(outcome(bundle, &input), expected);
                }
            });
        }
    });
}

#[test]
fn documents_that_are_no_data_documents_do_not_compile() {
    let refused = |body: &str, is_expected: fn(&CompileError) -> bool| {
        let error = compile(&[body])
            .err()
            .unwrap_or_else(|| panic!("compiled: {body}"));
        assert!(is_expected(&error), "{body}: {error:?}");
    };
    for body in [
        r#"result := {"decision": "allow"}"#,
        r#"result["decision"] := "allow""#,
        r"default result := {}",
        r"allow if true",
        r"helper := 1",
        r"grants(x) := x",
        r"default grants(x) := 1",
        r"Grants := {}",
        r"caracal.grants := {}",
    ] {
        refused(body, |error| matches!(error, CompileError::Rule { .. }));
    }
    for body in [
        r"restrict := [time.now_ns()]",
        r#"restrict := [rand.intn("a", 2)]"#,
        r#"restrict := [http.send({"url": "http://x", "method": "get"})]"#,
        r#"restrict := ["x"] if { opa.runtime().env.HOME }"#,
        r"restrict := numbers.range(0, 9223372036854775806)",
        r"restrict := [bits.lsh(1, 4000000000)]",
        r#"restrict := ["x"] if { some x in [1]; net["lookup_ip_addr"]("x") }"#,
        r#"restrict := [replace("aaaa", "a", "aaaaaaaaaaaa")]"#,
        r"restrict := [json.marshal([app_ids, app_ids])]",
        r#"restrict := ["x"] if { count([9]) == 1 with count as opa.runtime }"#,
        r#"restrict := ["x"] if { array.concat(0, 9000000000) with array.concat as numbers.range }"#,
    ] {
        refused(body, |error| matches!(error, CompileError::Builtin { .. }));
    }
    for body in ["grants := {", "grants = :=", "grants { true }", "???"] {
        refused(body, |error| matches!(error, CompileError::Syntax { .. }));
    }
    for (body, other) in [
        ("grants := {}\ngrants := 1", r#"app_ids := {"a": "b"}"#),
        (r#"app_ids := {"a": "1"}"#, r#"app_ids := {"a": "2"}"#),
        (r#"app_ids.a := "1""#, r#"app_ids.a := "2""#),
        (r"restrict := [no_such_function(1)]", ""),
        (r#"restrict := [to_number("x")]"#, ""),
    ] {
        let error = compile(&[body, other])
            .err()
            .unwrap_or_else(|| panic!("compiled: {body} {other}"));
        assert!(
            matches!(error, CompileError::Evaluation(_)),
            "{body} {other}: {error:?}"
        );
    }
}

#[test]
fn a_root_built_from_itself_does_not_compile() {
    for body in [
        "restrict := [app_ids]\napp_ids := {x: x | some x in restrict}",
        "app_ids.a := app_ids.b\napp_ids.b := \"app-1\"",
        "restrict contains \"x\" if data.caracal.authz.restrict",
        "import data.caracal.authz.restrict as frozen\nrestrict contains \"x\" if frozen",
        "risk := [1 | confinement]\nconfinement := [1 | grants]\ngrants := {1: risk}",
    ] {
        assert!(
            matches!(compile(&[body]), Err(CompileError::Cycle { .. })),
            "{body}"
        );
    }
}

#[test]
fn documents_see_only_each_other() {
    for (body, stray) in [
        (
            "grants := data.caracal.documents.grants",
            "data.caracal.documents.grants",
        ),
        ("grants := data.other", "data.other"),
        ("grants := data", "data"),
        ("grants := data.caracal.authz", "data.caracal.authz"),
        ("grants := {k: v | some k; v := data[k]}", "data"),
        (
            "import data.caracal.authz\ngrants := authz.app_ids",
            "data.caracal.authz",
        ),
        ("grants := {1: walk(data)}", "data"),
    ] {
        match compile(&[body]) {
            Err(CompileError::Reference { reference, .. }) => assert_eq!(reference, stray, "{body}"),
            other => panic!("{body}: {other:?}"),
        }
    }
}

#[test]
fn a_document_of_another_package_does_not_compile() {
    for package in ["caracal", "caracal.authz.more", "other", "caracal.documents"] {
        let text = format!("package {package}\nimport rego.v1\ngrants := {{}}\n");
        let error = Bundle::compile(&[("d", &text)]).unwrap_err();
        assert!(
            matches!(error, CompileError::Package { .. }),
            "{package}: {error:?}"
        );
    }
}

#[test]
fn a_set_beyond_the_limits_does_not_compile() {
    let long = format!("package caracal.authz\n# {}\n", "x".repeat(262_144));
    assert!(matches!(
        Bundle::compile(&[("d", &long)]),
        Err(CompileError::TooLarge)
    ));
    let many: Vec<(&str, &str)> = vec![("d", "package caracal.authz"); 257];
    assert!(matches!(Bundle::compile(&many), Err(CompileError::TooLarge)));
    let wide = format!(
        "package caracal.authz\nimport rego.v1\nrestrict := [{}]\n",
        "[],".repeat(20_000)
    );
    assert!(
        Bundle::compile(&[("d", &wide)]).is_ok(),
        "a long line is no mistake"
    );
}

#[test]
fn no_document_can_exhaust_the_stack_or_the_processor() {
    type Form = fn(usize) -> String;
    let forms: [(&str, Form); 15] = [
        ("brackets", |n| {
            format!("restrict := {}1{}", "[".repeat(n), "]".repeat(n))
        }),
        ("braces", |n| {
            format!("restrict := {}1{}", "{".repeat(n), "}".repeat(n))
        }),
        ("objects", |n| {
            format!("restrict := {}1{}", "{1: ".repeat(n), "}".repeat(n))
        }),
        ("patterns", |n| {
            format!(
                "restrict := [x | some {}x{} in [1]]",
                "[".repeat(n),
                "]".repeat(n)
            )
        }),
        ("parentheses", |n| {
            format!("restrict := {}1{}", "(".repeat(n), ")".repeat(n))
        }),
        ("names", |n| {
            format!("restrict := [x | x := app_ids{}]", ".x".repeat(n))
        }),
        ("indices", |n| {
            format!("restrict := [x | x := app_ids{}]", "[0]".repeat(n))
        }),
        ("sums", |n| format!("restrict := [1{}]", "+1".repeat(n))),
        ("differences", |n| format!("restrict := [1{}]", "-1".repeat(n))),
        ("unions over lines", |n| {
            format!("restrict := {{1}}{}", "\n| {1}".repeat(n))
        }),
        ("comparisons", |n| {
            format!("restrict := [x | x := 1{}]", " == 1".repeat(n))
        }),
        ("memberships", |n| {
            format!("restrict := [x | x := 1{}]", " in [1]".repeat(n))
        }),
        ("signs", |n| format!("restrict := [{}1]", "- ".repeat(n))),
        ("comprehensions", |n| {
            format!("restrict := {}1{}", "[x | x := ".repeat(n), "]".repeat(n))
        }),
        ("calls", |n| {
            format!("restrict := [{}1{}]", "abs(".repeat(n), ")".repeat(n))
        }),
    ];
    for (what, form) in forms {
        for length in [200, 20_000] {
            let error = compile(&[&form(length)])
                .err()
                .unwrap_or_else(|| panic!("compiled: {length} {what}"));
            let is_expected = matches!(error, CompileError::TooDeep { .. } | CompileError::TooLarge);
            assert!(is_expected, "{length} {what}: {error:?}");
        }
        // What is let through must not overflow either; whether it means something is another question.
        drop(compile(&[&form(90)]));
    }
}

#[test]
fn long_documents_are_no_deep_documents() {
    let grants: Vec<String> = (0..500)
        .map(|n| format!("grants[\"resource://r{n}\"] := {{\"application\": \"bot\", \"roles\": {{\"e\": [\"r:{n}\"]}}}}\n"))
        .collect();
    let ids: Vec<String> = (0..500).map(|n| format!("\t\"k{n}\": \"app-{n}\",\n")).collect();
    let body = "\tinput.action.id == \"x\"\n\tinput.action.method != \"y\"\n".repeat(100);
    let bundle = compile(&[
        &grants.concat(),
        &format!("app_ids := {{\n{}}}", ids.concat()),
        &format!("restrict contains 1 if {{\n{body}}}"),
    ]);
    assert!(bundle.unwrap().reads_input());
}

#[test]
fn constants_of_the_wrong_shape_do_not_compile() {
    for (body, at) in [
        (r#"app_ids := ["bot"]"#, "app_ids"),
        (r#"app_ids := {"bot": 1}"#, r#"app_ids["bot"]"#),
        (r#"app_ids := {1: "bot"}"#, "app_ids"),
        (r"grants := []", "grants"),
        (r#"grants := {"r": "bot"}"#, r#"grants["r"]"#),
        (r#"grants := {"r": {}}"#, r#"grants["r"].application"#),
        (
            r#"grants := {"r": {"application": 1}}"#,
            r#"grants["r"].application"#,
        ),
        (
            r#"grants := {"r": {"application": "b", "roles": []}}"#,
            r#"grants["r"].roles"#,
        ),
        (
            r#"grants := {"r": {"application": "b", "roles": {"e": "crm"}}}"#,
            r#"grants["r"].roles["e"]"#,
        ),
        (
            r#"grants := {"r": {"application": "b", "roles": {"e": ["a b"]}}}"#,
            r#"grants["r"].roles["e"][0]"#,
        ),
        (
            r#"grants := {"r": {"application": "b", "ambient": "all"}}"#,
            r#"grants["r"].ambient"#,
        ),
        (
            r#"grants := {"r": {"application": "b", "ambient": [""]}}"#,
            r#"grants["r"].ambient[0]"#,
        ),
        (
            r#"confinement := {"label_prefix": "x", "scopes": []}"#,
            "confinement",
        ),
        (
            r#"confinement := [{"scopes": []}]"#,
            "confinement[0].label_prefix",
        ),
        (
            r#"confinement := [{"label_prefix": "x"}]"#,
            "confinement[0].scopes",
        ),
        (r#"confinement := ["x"]"#, "confinement[0].label_prefix"),
    ] {
        match compile(&[body]) {
            Err(CompileError::Shape(error)) => assert_eq!(error.at, at, "{body}"),
            other => panic!("{body}: {other:?}"),
        }
    }
    assert!(matches!(
        compile(&[r#"risk := [{"scope": "a", "tier": "x"}, {"scope": "a", "tier": "y"}]"#]),
        Err(CompileError::RiskConflict(scope)) if *scope == *"a"
    ));
}

#[test]
fn sets_may_stand_where_arrays_may() {
    let bundle = compile(&[r#"
        app_ids := {"bot": "app-1"}
        grants := {"resource://crm": {"application": "bot", "roles": {"editor": {"crm:write"}}}}
        confinement := {{"label_prefix": "tenant:", "scopes": set()}}
        restrict := set()
    "#])
    .unwrap();
    assert_eq!(outcome(&bundle, &mint()), "allow");
}

#[test]
fn a_document_that_fails_on_a_request_is_an_error_and_no_decision() {
    let bundle = compile(&[OWNER, r"restrict contains to_number(input.action.id)"]).unwrap();
    assert!(matches!(
        decide(&bundle, &mint()),
        Err(PolicyError::Evaluation(_))
    ));
    let bundle = compile(&[OWNER, r"confinement := input.principal.labels"]).unwrap();
    assert!(matches!(decide(&bundle, &mint()), Err(PolicyError::Shape(_))));
    let bundle = compile(&[
        OWNER,
        r#"risk := [{"scope": s, "tier": t} | s := "crm:write"; some t in ["a", input.action.id]]"#,
    ])
    .unwrap();
    assert!(matches!(
        decide(&bundle, &mint()),
        Err(PolicyError::RiskConflict(_))
    ));
}

#[test]
fn a_document_that_does_not_end_is_cut_off() {
    let endless = "xs := [1, 2, 3, 4, 5, 6, 7, 8, 9]; count([1 | some a in xs; some b in xs; some c in xs; \
                   some d in xs; some e in xs; some f in xs; some g in xs; some h in xs; a + b + c + d + e + f + g + h < 0]) > 0";
    let bundle = compile(&[
        OWNER,
        &format!(r#"restrict := ["x"] if {{ input.action.id; {endless} }}"#),
    ])
    .unwrap();
    assert!(matches!(
        decide(&bundle, &mint()),
        Err(PolicyError::Evaluation(_))
    ));
    assert!(
        matches!(decide(&bundle, &mint()), Err(PolicyError::Evaluation(_))),
        "and so the next time"
    );
    let constant = compile(&[&format!(r#"restrict := ["x"] if {{ {endless} }}"#)]);
    assert!(matches!(constant, Err(CompileError::Evaluation(_))));
}

#[test]
fn a_zone_without_a_policy_set_grants_nothing() {
    let bundle = Bundle::deny_all(Reason::NoActivePolicySet);
    assert_eq!(outcome(&bundle, &mint()), "no_active_policy_set");
    assert_eq!(outcome(&compile(&[]).unwrap(), &mint()), "resource_not_granted");
}

#[test]
fn a_simulation_takes_only_input_documents() {
    let bundle = compile(&[OWNER]).unwrap();
    for (what, input) in [
        ("no object", json!([])),
        ("no version", json!({})),
        ("another version", json!({"schema_version": "2025-01-01"})),
        (
            "a scope that reads as two",
            json!({"schema_version": "2026-05-20", "context": {"requested_scopes": ["a b"]}}),
        ),
        (
            "a scope that is no text",
            json!({"schema_version": "2026-05-20", "context": {"requested_scopes": [1]}}),
        ),
        (
            "a delegation without an id",
            json!({"schema_version": "2026-05-20", "delegation_edge": {}}),
        ),
        (
            "labels that are no texts",
            json!({"schema_version": "2026-05-20", "principal": {"labels": "editor"}}),
        ),
    ] {
        assert!(
            matches!(decide(&bundle, &input), Err(PolicyError::Input(_))),
            "{what}"
        );
    }
    let sparse =
        json!({"schema_version": "2026-05-20", "session": null, "delegation_edge": null, "context": null});
    assert_eq!(outcome(&bundle, &sparse), "no_rule_matched");
}
