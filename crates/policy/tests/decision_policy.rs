//! What may a decision policy say, what holds whatever it says, and what happens when it does not end?

#![expect(clippy::unwrap_used, reason = "what the cases share runs only in tests")]

use std::fmt::Write as _;
use std::time::Duration;

use caracal_policy::{
    Bundle, CompileError, Decision, PolicyError, Reason, Regime, document, explain, simulate,
};
use serde_json::{Value, json};

const DATA: &str = "# caracal:data-document
package caracal.authz

app_ids := {\"bot\": \"app-1\"}

grants := {\"resource://crm\": {\"application\": \"bot\", \"roles\": {\"editor\": [\"crm:read\", \"crm:write\"]}}}
";

/// A module of a decision policy with this body.
fn module(body: &str) -> String {
    format!("# caracal:decision-policy\npackage caracal.authz\n\n{body}\n")
}

/// A rule that allows under a condition.
fn allows_if(condition: &str) -> String {
    module(&format!(
        "result := {{\"decision\": \"allow\", \"evaluation_status\": \"complete\", \"determining_policies\": [{{\"policy\": \"ours\"}}]}} if {{ {condition} }}"
    ))
}

fn compile(texts: &[&str]) -> Result<Bundle, CompileError> {
    let names: Vec<String> = (0..texts.len()).map(|index| format!("d{index}")).collect();
    let modules: Vec<(&str, &str)> = names
        .iter()
        .map(String::as_str)
        .zip(texts.iter().copied())
        .collect();
    Bundle::compile(&modules)
}

fn mint(scope: &str) -> Value {
    json!({
        "schema_version": "2026-05-20",
        "principal": {"type": "Application", "id": "app-1", "zone_id": "z1", "labels": ["editor"]},
        "resource": {"type": "Resource", "id": "r1", "identifier": "resource://crm", "scopes": ["crm:write"]},
        "action": {"id": "TokenExchange"},
        "delegation_edge": {"id": "e1", "scopes": ["crm:read", "crm:write"]},
        "context": {"agent_session_id": "s1", "requested_scopes": [scope], "challenge_resolved": false}
    })
}

fn r#use(target: &str) -> Value {
    json!({
        "schema_version": "2026-05-20",
        "principal": {"type": "Application", "id": "app-1", "zone_id": "z1", "labels": ["editor"]},
        "resource": {"identifier": "resource://crm"},
        "action": {"id": "TokenExchange", "method": "GET", "path": "/"},
        "delegation_edge": {"id": "e1", "scopes": ["crm:read"]},
        "context": {"agent_session_id": "s1", "requested_scopes": [], "subject_claims":
            {"use": "gateway", "delegation_edge_id": "e1", "scope": "crm:read", "target": [target]}}
    })
}

fn decide(bundle: &Bundle, input: &Value, regime: Regime) -> Result<Decision, PolicyError> {
    simulate(bundle, &input.to_string(), regime)
}

fn outcome(bundle: &Bundle, input: &Value, regime: Regime) -> &'static str {
    let decision = decide(bundle, input, regime).unwrap();
    decision.first_reason().map_or("allow", Reason::as_str)
}

#[test]
fn a_restricting_policy_takes_away_and_gives_nothing() {
    let reads_only = allows_if("input.context.requested_scopes == [\"crm:read\"]");
    let bundle = compile(&[DATA, &reads_only]).unwrap();
    assert!(bundle.reads_input());
    for (scope, expected) in [
        ("crm:read", "allow"),
        ("crm:write", "decision_policy_undefined"),
        ("crm:admin", "delegation_scope_exceeded"),
    ] {
        assert_eq!(
            outcome(&bundle, &mint(scope), Regime::Restrict),
            expected,
            "{scope}"
        );
    }
    let everything = compile(&[DATA, &allows_if("true")]).unwrap();
    let mut stranger = mint("crm:read");
    stranger["principal"]["id"] = json!("app-2");
    assert_eq!(
        outcome(&everything, &stranger, Regime::Restrict),
        "resource_not_granted"
    );
    let allowed = decide(&bundle, &mint("crm:read"), Regime::Restrict).unwrap();
    assert_eq!(
        serde_json::to_value(&allowed).unwrap()["determining_policies"],
        json!([{"policy": "caracal-bot-mint"}, {"policy": "ours"}])
    );
}

#[test]
fn a_sole_policy_decides_what_the_contract_would_not() {
    let bundle = compile(&[&allows_if("input.principal.id == \"app-9\"")]).unwrap();
    let mut asked = mint("crm:read");
    assert_eq!(
        outcome(&bundle, &asked, Regime::Sole),
        "decision_policy_undefined"
    );
    asked["principal"]["id"] = json!("app-9");
    assert_eq!(outcome(&bundle, &asked, Regime::Sole), "allow");
    assert_eq!(outcome(&bundle, &asked, Regime::Restrict), "resource_not_granted");
    let allowed = decide(&bundle, &asked, Regime::Sole).unwrap();
    assert_eq!(
        serde_json::to_value(&allowed).unwrap()["determining_policies"],
        json!([{"policy": "ours"}])
    );
}

#[test]
fn whatever_a_sole_policy_says_delegations_never_widen_and_tokens_stay_what_they_are() {
    let bundle = compile(&[DATA, &allows_if("true")]).unwrap();
    for (input, expected) in [
        (mint("crm:admin"), "delegation_scope_exceeded"),
        (r#use("resource://other"), "mandate_target_mismatch"),
        (r#use("resource://crm"), "allow"),
    ] {
        assert_eq!(outcome(&bundle, &input, Regime::Sole), expected, "{input}");
    }
    let mut widened = r#use("resource://crm");
    widened["delegation_edge"] = Value::Null;
    widened["context"]["requested_scopes"] = json!(["crm:write"]);
    assert_eq!(
        outcome(&bundle, &widened, Regime::Sole),
        "delegation_scope_exceeded",
        "more than the token has"
    );
    let frozen = "# caracal:data-document\npackage caracal.authz\nrestrict := [\"x\"]\n";
    let frozen = compile(&[frozen, &allows_if("true")]).unwrap();
    assert_eq!(
        outcome(&frozen, &mint("crm:read"), Regime::Sole),
        "restriction_active"
    );
    let none = compile(&[DATA]).unwrap();
    assert_eq!(
        outcome(&none, &mint("crm:read"), Regime::Sole),
        "no_decision_policy"
    );
    let nothing = Bundle::deny_all(Reason::NoActivePolicySet);
    assert_eq!(
        outcome(&nothing, &mint("crm:read"), Regime::Sole),
        "no_active_policy_set"
    );
}

#[test]
fn a_policy_may_have_helpers_packages_and_the_data_of_its_set() {
    let library = "# caracal:decision-policy\npackage acme.lib\n\nmay(scope) if scope in scopes\n\nscopes contains scope if some scope in data.caracal.authz.grants[\"resource://crm\"].roles.editor\n";
    let main = "# caracal:decision-policy\npackage caracal.authz\n\nimport data.acme.lib\n\ndefault result := {\"decision\": \"deny\", \"evaluation_status\": \"complete\", \"diagnostics\": [{\"reason\": \"not ours\"}]}\n\nresult := {\"decision\": \"allow\", \"evaluation_status\": \"complete\"} if { every scope in input.context.requested_scopes { lib.may(scope) } }\n";
    let bundle = compile(&[DATA, library, main]).unwrap();
    assert_eq!(outcome(&bundle, &mint("crm:read"), Regime::Sole), "allow");
    let mut other = mint("crm:x");
    other["delegation_edge"]["scopes"] = json!(["crm:x"]);
    let denied = decide(&bundle, &other, Regime::Sole).unwrap();
    assert_eq!(
        serde_json::to_value(&denied).unwrap()["diagnostics"],
        json!([{"reason": "decision_policy_denied"}, {"reason": "not ours"}])
    );
    let reading = "# caracal:data-document\npackage caracal.authz\nconfinement := [{\"label_prefix\": \"\", \"scopes\": [\"crm:read\"]}] if input.action.id == \"TokenExchange\"\n";
    let sees = allows_if("data.caracal.authz.confinement[0].scopes == input.context.requested_scopes");
    let bundle = compile(&[DATA, reading, &sees]).unwrap();
    assert_eq!(outcome(&bundle, &mint("crm:read"), Regime::Sole), "allow");
    assert_eq!(
        outcome(&bundle, &mint("crm:write"), Regime::Sole),
        "decision_policy_undefined"
    );
}

#[test]
fn a_policy_may_ask_for_a_human_where_one_can_be_asked() {
    let asks = module(
        "result := {\"decision\": \"allow\", \"evaluation_status\": \"complete\", \"diagnostics\": [{\"step_up_required\": {\"type\": \"human_approval\", \"tiers\": [{\"tier\": \"night\", \"ttl_seconds\": 60}]}}, {\"note\": 1}]}",
    );
    let bundle = compile(&[DATA, &asks]).unwrap();
    for regime in [Regime::Restrict, Regime::Sole] {
        let granted = decide(&bundle, &mint("crm:read"), regime).unwrap();
        assert!(granted.allow());
        assert_eq!(&*granted.step_up_tiers()[0].tier, "night");
        let shown = serde_json::to_value(&granted).unwrap();
        assert_eq!(shown["diagnostics"][1], json!({"note": 1}));
        assert_eq!(
            outcome(&bundle, &r#use("resource://crm"), regime),
            "decision_policy_denied",
            "nobody is asked while a mandate is used"
        );
    }
}

#[test]
fn what_is_no_result_document_is_an_error_and_no_decision() {
    for body in [
        "result := true",
        "result := {\"decision\": \"allow\"}",
        "result := {\"decision\": \"allow\", \"evaluation_status\": \"partial\"}",
        "result := [input]",
    ] {
        let bundle = compile(&[DATA, &module(body)]).unwrap();
        for regime in [Regime::Restrict, Regime::Sole] {
            let outcome = decide(&bundle, &mint("crm:read"), regime);
            assert!(
                matches!(outcome, Err(PolicyError::Result(_))),
                "{body}: {outcome:?}"
            );
        }
    }
    let contradicts = module(
        "result := {\"decision\": \"allow\", \"evaluation_status\": \"complete\"} if input.action.id\nresult := {\"decision\": \"deny\", \"evaluation_status\": \"complete\"} if input.action.id",
    );
    let bundle = compile(&[DATA, &contradicts]).unwrap();
    let outcome = decide(&bundle, &mint("crm:read"), Regime::Sole);
    assert!(!outcome.is_ok_and(|decision| decision.allow()));
}

#[test]
fn a_policy_that_spins_recurses_or_allocates_is_stopped_and_the_next_one_is_not() {
    let digits = "xs := [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]\n";
    let loops = ["a", "b", "c", "d", "e", "f", "g", "h"]
        .map(|name| format!("some {name} in xs"))
        .join("; ");
    let mut doubles = "result := count(x60) if {\nx0 := sprintf(\"%v\", [input])\n".to_owned();
    let mut deeper = "result := x2000 if {\nx0 := input\n".to_owned();
    for step in 0..60 {
        let next = step + 1;
        writeln!(doubles, "x{next} := concat(\"\", [x{step}, x{step}])").unwrap();
    }
    for step in 0..2_000 {
        let next = step + 1;
        writeln!(deeper, "x{next} := [x{step}]").unwrap();
    }
    doubles.push('}');
    deeper.push('}');
    for (what, body) in [
        (
            "spins",
            format!("{digits}result := count([1 | {loops}; a + b + c + d + e + f + g + h < 0])"),
        ),
        ("recurses", "result := f(1)\nf(x) := f(x + 1)".to_owned()),
        ("turns in circles", "result := a\na := b\nb := a".to_owned()),
        ("doubles a text", doubles),
        (
            "collects",
            format!("{digits}result := count([[a, b, c, d, e, f, g, h] | {loops}])"),
        ),
    ] {
        let bundle = compile(&[DATA, &module(&body)]).unwrap_or_else(|error| panic!("{what}: {error:?}"));
        let outcome = decide(&bundle, &mint("crm:read"), Regime::Sole);
        assert!(
            matches!(outcome, Err(PolicyError::Evaluation(_))),
            "{what}: {outcome:?}"
        );
    }
    // Too many registers for the machine, or too deep an answer: never an abort.
    if let Ok(bundle) = compile(&[DATA, &module(&deeper)]) {
        assert!(decide(&bundle, &mint("crm:read"), Regime::Sole).is_err());
    }
    let bundle = compile(&[DATA, &allows_if("true")]).unwrap();
    assert_eq!(outcome(&bundle, &mint("crm:read"), Regime::Sole), "allow");
}

#[test]
fn a_document_that_nests_a_value_without_end_is_refused_and_ends_no_process() {
    let mut body = "restrict := {\"k\": x} if {\nx0 := 1\n".to_owned();
    for step in 0..2_000 {
        writeln!(body, "x{} := [x{step}]", step + 1).unwrap();
    }
    body.push_str("x := x2000\n}\n");
    let constant = format!("# caracal:data-document\npackage caracal.authz\n{body}");
    assert!(matches!(compile(&[&constant]), Err(CompileError::Evaluation(_))));
    let reading = constant.replace("x0 := 1", "x0 := input.action.id");
    let bundle = compile(&[DATA, &reading]).unwrap();
    for _ in 0..2 {
        let outcome = decide(&bundle, &mint("crm:read"), Regime::Restrict);
        assert!(matches!(outcome, Err(PolicyError::Evaluation(_))), "{outcome:?}");
    }
}

#[test]
fn what_may_not_be_in_a_decision_policy_is_refused_when_it_is_compiled() {
    for (body, is_expected) in [
        ("grants := {}", "rule"),
        ("result(x) := x", "rule"),
        (
            "result := http.send({\"method\": \"get\", \"url\": \"http://x\"})",
            "builtin",
        ),
        ("result := 1 if { walk(input, [[], _]) }", "builtin"),
        ("result := time.now_ns()", "builtin"),
        ("result := strings.replace_n({\"a\": \"aa\"}, \"a\")", "builtin"),
        ("allow := true", "none"),
        ("result := nosuch(1)", "program"),
        ("result := 1 if { input.action with input as {} }", "program"),
        ("result := {", "syntax"),
    ] {
        let error = compile(&[DATA, &module(body)])
            .err()
            .unwrap_or_else(|| panic!("compiled: {body}"));
        let kind = match error {
            CompileError::Rule { .. } => "rule",
            CompileError::Builtin { .. } => "builtin",
            CompileError::NoResult => "none",
            CompileError::Program(_) => "program",
            CompileError::Syntax { .. } => "syntax",
            _ => "other",
        };
        assert_eq!(kind, is_expected, "{body}");
    }
    let elsewhere = "# caracal:decision-policy\npackage caracal.documents\nresult := 1\n";
    assert!(matches!(compile(&[elsewhere]), Err(CompileError::Package { .. })));
}

#[test]
fn a_decision_policy_is_stored_by_its_mark_and_no_other_text_decides() {
    let word = |text: &str| document::validate(text).err().map(|error| error.to_string());
    assert_eq!(word(&allows_if("true")), None);
    assert_eq!(
        word("# caracal:decision-policy\npackage acme.lib\nf(x) := x\n"),
        None
    );
    for (text, expected) in [
        (
            "# caracal:decision-policy\npackage caracal.documents\na := 1\n",
            "decision_policy_package_not_allowed",
        ),
        (
            "# caracal:decision-policy\npackage caracal.authz\n",
            "decision_policy_must_define_a_rule",
        ),
        (
            "# caracal:decision-policy\npackage caracal.authz\nrisk := []\n",
            "decision_policy_must_not_define_data:risk",
        ),
        (
            "# caracal:decision-policy\npackage acme\na := time.now_ns()\n",
            "forbidden_builtin:time.now_ns",
        ),
        (
            "# caracal:decision-policy\n# caracal:data-document\npackage caracal.authz\nresult := {}\n",
            "data_document_must_not_define_result",
        ),
        ("package caracal.authz\nresult := {}\n", "must_be_data_document"),
    ] {
        assert_eq!(word(text).as_deref(), Some(expected), "{text}");
    }
}

#[test]
fn an_explanation_names_the_policy_that_refused() {
    let bundle = compile(&[DATA, &allows_if("false")]).unwrap();
    let last = |regime| {
        let told = explain(&bundle, &mint("crm:read").to_string(), regime).unwrap();
        let last = told.gates.last().unwrap();
        (last.gate, last.passed, last.refuses_with)
    };
    let expected = ("decision_policy_allows", false, "decision_policy_undefined");
    assert_eq!(last(Regime::Restrict), expected);
    assert_eq!(last(Regime::Sole), expected);
}

#[test]
fn both_limits_together_fit_into_the_time_a_caller_waits() {
    let both = caracal_policy::INTERPRETATION_LIMIT + caracal_policy::PROGRAM_LIMIT;
    assert!(both < Duration::from_secs(1));
}
