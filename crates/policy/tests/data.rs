//! What does an OPA client find at a path?

#![expect(clippy::unwrap_used, reason = "what the cases share runs only in tests")]

use std::sync::Arc;

use caracal_policy::{Bundle, DataAnswer, DataQuestion, PolicyError, Reason, Regime};
use serde_json::{Value, json};

const DATA: &str = "# caracal:data-document
package caracal.authz

app_ids := {\"bot\": \"app-1\"}

grants := {\"resource://crm\": {\"application\": \"bot\", \"roles\": {\"editor\": [\"crm:read\"]}}}
";

const DECISION: &str = "# caracal:decision-policy
package caracal.authz

result := {\"decision\": \"allow\", \"evaluation_status\": \"complete\"} if input.principal.id != \"app-9\"

owners := data.caracal.authz.app_ids
";

const LIBRARY: &str = "# caracal:decision-policy
package shop.orders

import data.shop.people

default allow := false

allow if input.user in people.admins
allow if is_owner(input.user, input.order)

is_owner(user, order) if order.owner == user

limits := {\"low\": [10, 20], \"high\": {\"max\": 1000}}

reason := \"too much\" if input.amount > 1000

deep.inside := 1
";

const PEOPLE: &str = "# caracal:decision-policy
package shop.people

admins := {\"ada\", \"bob\"}
";

fn bundle(texts: &[&str]) -> Arc<Bundle> {
    let names: Vec<String> = (0..texts.len()).map(|index| format!("d{index}")).collect();
    let modules: Vec<(&str, &str)> = names
        .iter()
        .map(String::as_str)
        .zip(texts.iter().copied())
        .collect();
    Arc::new(Bundle::compile(&modules).unwrap())
}

fn shop() -> Arc<Bundle> {
    bundle(&[DATA, DECISION, LIBRARY, PEOPLE])
}

fn ask(bundle: &Arc<Bundle>, path: &str, input: Option<Value>) -> Result<DataAnswer, PolicyError> {
    let question = DataQuestion {
        bundle: Arc::clone(bundle),
        regime: Regime::Restrict,
        path: path
            .split('/')
            .filter(|segment| !segment.is_empty())
            .map(str::to_owned)
            .collect(),
        input: input.map(|input| input.to_string()),
    };
    question.answer()
}

fn value(bundle: &Arc<Bundle>, path: &str, input: Value) -> Option<Value> {
    ask(bundle, path, Some(input)).unwrap().value
}

fn mint(application: &str) -> Value {
    json!({
        "principal": {"type": "Application", "id": application, "labels": ["editor"]},
        "resource": {"identifier": "resource://crm"},
        "action": {"id": "TokenExchange"},
        "delegation_edge": {"id": "e1", "scopes": ["crm:read"]},
        "context": {"agent_session_id": "s1", "requested_scopes": ["crm:read"]}
    })
}

#[test]
fn a_rule_a_place_in_it_and_a_package_have_values() {
    let bundle = shop();
    let order = json!({"user": "eve", "order": {"owner": "eve"}});
    for (path, input, expected) in [
        ("shop/orders/allow", json!({"user": "ada"}), json!(true)),
        ("shop/orders/allow", order, json!(true)),
        ("shop/orders/allow", json!({"user": "eve"}), json!(false)),
        ("shop/orders/limits/high/max", json!({}), json!(1000)),
        ("shop/orders/limits/low/1", json!({}), json!(20)),
        ("shop/people/admins", json!({}), json!(["ada", "bob"])),
        ("shop/orders/deep/inside", json!({}), json!(1)),
        ("shop/people", json!({}), json!({"admins": ["ada", "bob"]})),
        (
            "shop/orders",
            json!({"user": "ada"}),
            json!({"allow": true, "limits": {"low": [10, 20], "high": {"max": 1000}}, "deep": {"inside": 1}}),
        ),
        ("caracal/authz/owners", json!({}), json!({"bot": "app-1"})),
    ] {
        assert_eq!(
            value(&bundle, path, input.clone()),
            Some(expected),
            "{path} {input}"
        );
    }
    let all = value(&bundle, "", json!({})).unwrap();
    assert_eq!(all["shop"]["orders"]["allow"], false);
    let asked_again = value(&bundle, "shop/orders/allow", json!({"user": "ada"}));
    assert_eq!(
        asked_again,
        Some(json!(true)),
        "what was compiled once serves every input"
    );
}

#[test]
fn what_is_not_defined_is_undefined_and_no_document_is_shown() {
    let bundle = shop();
    for path in [
        "shop/orders/reason",
        "shop/orders/nothing",
        "shop/orders/is_owner",
        "shop/orders/limits/low/7",
        "shop/orders/limits/none",
        "shop/order",
        "caracal/authz/grants",
        "caracal/authz/app_ids",
        "caracal/documents",
        "system",
        "shop.orders.allow/x",
        "shop.orders.allow",
        "shop.orders/allow",
        "shop/orders.allow",
        "shop/orders/limits/high.max",
    ] {
        assert_eq!(value(&bundle, path, json!({"amount": 1})), None, "{path}");
    }
    assert_eq!(
        value(&bundle, "caracal", json!({})),
        Some(json!({"authz": {"owners": {"bot": "app-1"}}})),
        "neither the documents nor the undecided result"
    );
    let without_input = ask(&bundle, "shop/orders/allow", None).unwrap();
    assert_eq!(without_input.value, Some(json!(false)));
    let documents_only = self::bundle(&[DATA]);
    assert_eq!(value(&documents_only, "caracal/authz/grants", json!({})), None);
}

#[test]
fn the_decision_of_the_zone_is_the_contracts_and_the_policys_together() {
    let bundle = shop();
    let path = "caracal/authz/result";
    let allowed = ask(&bundle, path, Some(mint("app-1"))).unwrap();
    assert!(allowed.decision.unwrap().allow());
    assert_eq!(allowed.value.unwrap()["decision"], "allow");
    let below = ask(&bundle, "caracal/authz/result/decision", Some(mint("app-1"))).unwrap();
    assert_eq!(below.value, Some(json!("allow")));
    let denied = ask(&bundle, path, Some(mint("app-2"))).unwrap();
    assert_eq!(
        denied.decision.unwrap().first_reason(),
        Some(Reason::ResourceNotGranted),
        "the policy alone would allow"
    );
    for input in [
        None,
        Some(json!([])),
        Some(json!({"schema_version": "1999-01-01"})),
    ] {
        let refused = ask(&bundle, path, input.clone());
        assert!(matches!(refused, Err(PolicyError::Input(_))), "{input:?}");
    }
    let nothing = Arc::new(Bundle::deny_all(Reason::NoActivePolicySet));
    let denied = ask(&nothing, path, Some(mint("app-1"))).unwrap();
    assert_eq!(denied.value.unwrap()["decision"], "deny");
    assert_eq!(value(&nothing, "shop/orders", json!({})), None);
}

#[test]
fn a_rule_that_spends_a_budget_fails_and_the_others_go_on() {
    let endless = "# caracal:decision-policy
package costly

import data.costly.more

spin := count([1 | input.items[_]; input.items[_]; input.items[_]; input.items[_]])

rest := 1
";
    let more = "# caracal:decision-policy
package costly.more

large := [[x, input.items] | some x in input.items]
";
    let broken = "# caracal:decision-policy\npackage broken\nrule if true with input as 1\n";
    let bundle = bundle(&[DECISION, endless, more, broken]);
    let items: Vec<u32> = (0..200).collect();
    let input = json!({ "items": items });
    for path in ["costly/spin", "costly"] {
        let refused = ask(&bundle, path, Some(input.clone()));
        assert!(
            refused.as_ref().is_err_and(PolicyError::is_budget_spent),
            "{path}: {refused:?}"
        );
    }
    let large = ask(&bundle, "costly/more/large", Some(input.clone()));
    assert!(
        large.is_err_and(|error| !error.is_budget_spent()),
        "too much of an answer costs little"
    );
    assert_eq!(value(&bundle, "costly/rest", input), Some(json!(1)));
    let other = ask(&bundle, "broken/rule", Some(json!({})));
    assert!(
        other.is_err_and(|error| !error.is_budget_spent()),
        "a mistake costs little"
    );
}

#[test]
fn a_package_with_very_many_rules_is_not_evaluated_for_one_question() {
    use std::fmt::Write as _;
    let mut many = "# caracal:decision-policy\npackage many\n".to_owned();
    for number in 0..65 {
        writeln!(many, "r{number} := {number} if true").unwrap();
    }
    let bundle = bundle(&[DECISION, &many]);
    let refused = ask(&bundle, "many", Some(json!({})));
    assert!(matches!(refused, Err(PolicyError::Evaluation(_))), "{refused:?}");
    assert_eq!(value(&bundle, "many/r64", json!({})), Some(json!(64)));
}

#[test]
fn a_rule_that_is_only_a_default_has_its_value() {
    let only = "# caracal:decision-policy\npackage only\ndefault deny := true\n";
    let bundle = bundle(&[DECISION, only]);
    assert_eq!(value(&bundle, "only/deny", json!({})), Some(json!(true)));
    assert_eq!(value(&bundle, "only", json!({})), Some(json!({"deny": true})));
}

#[test]
fn the_policys_own_result_is_not_shown_in_any_spelling() {
    let member = "# caracal:decision-policy
package caracal.authz
result[\"decision\"] := \"allow\"
owners := 1 if true
";
    let dotted = member.replace("[\"decision\"]", ".decision");
    for text in [member, &dotted] {
        // The machine may not take one of them; then it is never in force.
        let Ok(bundle) = Bundle::compile(&[("d", text)]) else {
            continue;
        };
        assert_eq!(
            value(&Arc::new(bundle), "caracal/authz", json!({})),
            Some(json!({"owners": 1})),
            "{text}"
        );
    }
}

/// What the interpreter says a package comes to.
fn reference(text: &str, input: &Value) -> Value {
    let mut engine = regorus::Engine::new();
    engine.add_policy("p".to_owned(), text.to_owned()).unwrap();
    engine.set_input(regorus::Value::from_json_str(&input.to_string()).unwrap());
    let results = engine.eval_query("data.p".to_owned(), false).unwrap();
    let answer = results.result.first().unwrap().expressions.first().unwrap();
    serde_json::to_value(&answer.value).unwrap()
}

#[test]
fn a_package_is_answered_whole_or_not_at_all() {
    let input = json!({"frozen": true, "reasons": ["late", "large"], "gold": 7});
    let answered = [
        "deny contains reason if some reason in input.reasons\ndeny contains \"frozen\" if input.frozen",
        "deny[reason] if some reason in input.reasons",
        "deny[reason] := count(reason) if some reason in input.reasons",
        "limits.gold := input.gold\nlimits.silver := 1",
        "limits.gold.max := input.gold\nlimits.gold.min := 1\nlimits.silver := {\"max\": 2}",
        "limits := {\"gold\": input.gold, \"a-b\": 1}",
        "default deny := false\ndeny if input.frozen\nallow := true if input.none",
        "default deny := true",
        "a[\"b\"].c := input.gold",
        "deep.deny[reason] if some reason in input.reasons\ndeep.gold := 1",
        "else_rule := 1 if input.none else := 2\nf(x) := x",
    ];
    for rules in answered {
        let text = format!("# caracal:decision-policy\npackage p\n{rules}\nwitness if true\n");
        let bundle = bundle(&[DECISION, &text]);
        assert_eq!(
            value(&bundle, "p", input.clone()),
            Some(reference(&text, &input)),
            "{rules}"
        );
    }
    let refused = [
        "deny[\"frozen\"] if input.frozen\ndeny[reason] if some reason in input.reasons",
        "limits[\"gold\"] := input.gold\nlimits[\"a-b\"] := 1",
        "limits[\"gold\"] := input.gold\nlimits[name] := 1 if some name in input.reasons",
        "limits.gold := input.gold\nlimits[name] := 1 if some name in input.reasons",
        "limits[name].max := 1 if some name in input.reasons",
        "limits[name][other] := 1 if { some name in input.reasons; some other in input.reasons }",
        "limits[1] := input.gold\nlimits[2] := 1",
    ];
    for rules in refused {
        let text = format!("# caracal:decision-policy\npackage p\n{rules}\nwitness if true\n");
        let bundle = bundle(&[DECISION, &text]);
        for path in ["p", "p/deny", "p/limits", "p/limits/gold", "p/deny/frozen"] {
            let defined = reference(&text, &input);
            let mut below = path.split('/').skip(1);
            let expected = below.try_fold(&defined, |at, segment| at.get(segment));
            match (ask(&bundle, path, Some(input.clone())), expected) {
                (Err(PolicyError::Evaluation(_)), _) => {}
                (Ok(answer), expected) => assert_eq!(answer.value.as_ref(), expected, "{path} of {rules}"),
                (Err(error), _) => panic!("{path} of {rules}: {error}"),
            }
        }
        assert_eq!(
            value(&bundle, "p/witness", input.clone()),
            Some(json!(true)),
            "{rules}"
        );
    }
}
