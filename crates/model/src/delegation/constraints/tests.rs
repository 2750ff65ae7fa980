//! What is read, what is refused, and that the canonical form loses nothing.

use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn a_full_document_is_read() {
    let constraints = Constraints::parse(&json!({
        "resources": ["resource://crm", "resource://crm", "resource://erp"],
        "max_hops": 3, "max_depth": 3, "ttl_seconds": 600, "budget": 2, "policy_approved": true,
        "expires_at": "2026-01-02T03:04:05.9Z", "broad_reason": "migration",
    }))
    .unwrap();
    assert_eq!(constraints.resources.len(), 2, "a repeated resource counts once");
    assert_eq!(constraints.hops(), 3);
    assert_eq!(constraints.ttl_seconds, Some(600));
    assert_eq!(constraints.budget, Some(Budget::Count(2)));
    assert_eq!(
        constraints.expires_at,
        Some(UnixSeconds(1_767_323_045)),
        "a fraction is dropped, never added"
    );
}

#[test]
fn nothing_said_means_one_hop_and_no_limit() {
    for document in [
        json!(null),
        json!({}),
        json!({"max_hops": 0}),
        json!({"max_hops": null, "ttl_seconds": null}),
    ] {
        let constraints = Constraints::parse(&document).unwrap();
        assert_eq!(constraints.hops(), 1, "{document}");
        assert_eq!(
            Constraints {
                max_hops: None,
                ..constraints
            },
            Constraints::default(),
            "{document}"
        );
    }
}

#[test]
fn max_depth_is_another_name_of_max_hops() {
    assert_eq!(
        Constraints::parse(&json!({"max_depth": 4})).unwrap().max_hops,
        Some(4)
    );
    let disagreeing = Constraints::parse(&json!({"max_depth": 4, "max_hops": 5}));
    assert_eq!(disagreeing, Err(ConstraintError::HopsDisagree));
}

#[test]
fn an_unknown_member_makes_the_document_invalid() {
    let unknown = Constraints::parse(&json!({"max_hops": 2, "only_on_weekdays": true}));
    assert_eq!(
        unknown,
        Err(ConstraintError::Unknown("only_on_weekdays".to_owned()))
    );
}

#[test]
fn a_member_of_the_wrong_kind_is_refused_by_name() {
    for (document, field) in [
        (json!({"max_hops": -1}), "max_hops"),
        (json!({"max_depth": -1}), "max_hops"),
        (json!({"max_hops": 1.5}), "max_hops"),
        (json!({"max_hops": "2"}), "max_hops"),
        (json!({"max_hops": 4_294_967_296_u64}), "max_hops"),
        (json!({"ttl_seconds": -5}), "ttl_seconds"),
        (json!({"budget": -1}), "budget"),
        (json!({"budget": ["a b"]}), "budget"),
        (json!({"budget": [1]}), "budget"),
        (json!({"resources": "resource://crm"}), "resources"),
        (json!({"resources": ["/relative"]}), "resources"),
        (json!({"policy_approved": "yes"}), "policy_approved"),
        (json!({"expires_at": "tomorrow"}), "expires_at"),
        (json!({"broad_reason": 5}), "broad_reason"),
    ] {
        assert_eq!(
            Constraints::parse(&document),
            Err(ConstraintError::Invalid(field)),
            "{document}"
        );
    }
    assert_eq!(Constraints::parse(&json!([])), Err(ConstraintError::NotAnObject));
}

#[test]
fn a_new_delegation_must_keep_the_ranges() {
    let accepted = [
        json!({}),
        json!({"max_hops": 10, "ttl_seconds": 86_400, "budget": 64}),
        json!({"budget": ["crm:read"], "broad_reason": "x"}),
    ];
    for document in accepted {
        assert_eq!(
            Constraints::parse(&document).unwrap().check_ranges(),
            Ok(()),
            "{document}"
        );
    }
    let many: Vec<String> = (0..65).map(|number| format!("resource://r{number}")).collect();
    for (document, field) in [
        (json!({"max_hops": 11}), "max_hops"),
        (json!({"max_hops": 0}), "max_hops"),
        (json!({"ttl_seconds": 0}), "ttl_seconds"),
        (json!({"ttl_seconds": 86_401}), "ttl_seconds"),
        (json!({"budget": 0}), "budget"),
        (json!({"budget": 65}), "budget"),
        (json!({"budget": []}), "budget"),
        (json!({"broad_reason": ""}), "broad_reason"),
        (json!({"broad_reason": "x".repeat(257)}), "broad_reason"),
        (json!({"resources": many}), "resources"),
    ] {
        let refused = Constraints::parse(&document).unwrap().check_ranges();
        assert_eq!(refused, Err(ConstraintError::OutOfRange(field)), "{document}");
        assert_eq!(refused.unwrap_err().field(), Some(field));
    }
}

#[test]
fn the_canonical_form_leaves_out_what_is_not_said() {
    assert_eq!(Constraints::default().to_json().to_string(), "{}");
    let depth = Constraints::parse(&json!({"ttl_seconds": 60, "max_depth": 2})).unwrap();
    assert_eq!(depth.to_json().to_string(), r#"{"max_hops":2,"ttl_seconds":60}"#);
}

proptest! {
    #[test]
    fn the_canonical_form_reads_back_the_same(
        resources in proptest::collection::btree_set("resource://[a-z]{1,3}", 0..4),
        hops in proptest::option::of(0u32..12),
        ttl in proptest::option::of(0u32..100_000),
        budget in proptest::option::of(prop_oneof![
            (0u32..70).prop_map(|count| json!(count)),
            proptest::collection::btree_set("[a-z:]{1,4}", 0..4).prop_map(|scopes| json!(scopes)),
        ]),
        approved in proptest::option::of(any::<bool>()),
        end in proptest::option::of(0i64..4_000_000_000),
        reason in proptest::option::of("\\PC{0,8}"),
    ) {
        let document = json!({
            "resources": resources, "max_hops": hops, "ttl_seconds": ttl, "budget": budget, "policy_approved": approved,
            "expires_at": end.map(|end| UnixSeconds(end).to_rfc3339()), "broad_reason": reason,
        });
        let read = Constraints::parse(&document).unwrap();
        prop_assert_eq!(Constraints::parse(&read.to_json()).unwrap(), read.clone());
        prop_assert_eq!(read.to_json().to_string(), Constraints::parse(&read.to_json()).unwrap().to_json().to_string());
    }
}
