//! One test per narrowing rule, and the choice of a parent.

use super::*;

fn identifier(name: &str) -> ResourceIdentifier {
    format!("resource://{name}").parse().unwrap()
}

fn named(name: &str) -> (Option<ResourceId>, Option<ResourceIdentifier>) {
    (
        Some(format!("res-{name}").parse().unwrap()),
        Some(identifier(name)),
    )
}

fn listed(names: &[&str]) -> BTreeSet<ResourceIdentifier> {
    names.iter().map(|name| identifier(name)).collect()
}

fn parent() -> Authority {
    Authority {
        resource_id: None,
        resource_identifier: None,
        resources: BTreeSet::new(),
        scopes: ScopeSet::parse("crm:read crm:write"),
        expires_at: UnixSeconds(1_000),
        max_hops: 3,
        ttl_seconds: None,
        budget: None,
    }
}

/// The widest child that is allowed under [`parent`].
fn child() -> Authority {
    Authority {
        max_hops: 2,
        ..parent()
    }
}

fn with_resource(authority: Authority, name: &str) -> Authority {
    let (resource_id, resource_identifier) = named(name);
    Authority {
        resource_id,
        resource_identifier,
        ..authority
    }
}

fn with_list(authority: Authority, names: &[&str]) -> Authority {
    Authority {
        resources: listed(names),
        ..authority
    }
}

#[test]
fn the_widest_child_is_accepted() {
    assert_eq!(attenuate(&parent(), &child()), Ok(()));
}

#[test]
fn a_child_may_not_carry_another_scope() {
    let wider = Authority {
        scopes: ScopeSet::parse("crm:read crm:admin"),
        ..child()
    };
    assert_eq!(attenuate(&parent(), &wider), Err(Exceeds::Scopes));
    let none = Authority {
        scopes: ScopeSet::empty(),
        ..child()
    };
    assert_eq!(attenuate(&parent(), &none), Ok(()));
}

#[test]
fn a_child_may_not_outlive_its_parent() {
    assert_eq!(
        attenuate(
            &parent(),
            &Authority {
                expires_at: UnixSeconds(1_001),
                ..child()
            }
        ),
        Err(Exceeds::Expiry)
    );
}

#[test]
fn the_expiry_in_the_constraints_counts_when_it_is_earlier() {
    let limits = Constraints {
        expires_at: Some(UnixSeconds(500)),
        ..Constraints::default()
    };
    let made = Authority::new(None, ScopeSet::empty(), UnixSeconds(1_000), &limits);
    assert_eq!(made.expires_at, UnixSeconds(500));
    let made = Authority::new(None, ScopeSet::empty(), UnixSeconds(100), &limits);
    assert_eq!(made.expires_at, UnixSeconds(100));
}

#[test]
fn under_one_resource_only_that_resource_can_be_passed_on() {
    let crm = with_resource(parent(), "crm");
    for (description, candidate, outcome) in [
        ("the same by id", with_resource(child(), "crm"), Ok(())),
        ("the same by identifier", with_list(child(), &["crm"]), Ok(())),
        (
            "another by id",
            with_resource(child(), "erp"),
            Err(Exceeds::Resources),
        ),
        (
            "another by identifier",
            with_list(child(), &["erp"]),
            Err(Exceeds::Resources),
        ),
        (
            "more by identifier",
            with_list(child(), &["crm", "erp"]),
            Err(Exceeds::Resources),
        ),
        ("every resource", child(), Err(Exceeds::Resources)),
    ] {
        assert_eq!(attenuate(&crm, &candidate), outcome, "{description}");
    }
}

#[test]
fn under_a_list_only_what_is_listed_can_be_passed_on() {
    let pair = with_list(parent(), &["crm", "erp"]);
    for (description, candidate, outcome) in [
        ("the whole list", with_list(child(), &["crm", "erp"]), Ok(())),
        ("a part", with_list(child(), &["erp"]), Ok(())),
        ("one of it by id", with_resource(child(), "crm"), Ok(())),
        (
            "one outside by id",
            with_resource(child(), "hr"),
            Err(Exceeds::Resources),
        ),
        (
            "one outside by identifier",
            with_list(child(), &["crm", "hr"]),
            Err(Exceeds::Resources),
        ),
        ("every resource", child(), Err(Exceeds::Resources)),
    ] {
        assert_eq!(attenuate(&pair, &candidate), outcome, "{description}");
    }
}

#[test]
fn an_id_whose_identifier_is_unknown_is_not_taken_for_a_listed_one() {
    let unknown = Authority {
        resource_identifier: None,
        ..with_resource(child(), "crm")
    };
    assert_eq!(
        attenuate(&with_list(parent(), &["crm"]), &unknown),
        Err(Exceeds::Resources)
    );
}

#[test]
fn hops_count_down_to_one() {
    assert_eq!(
        attenuate(
            &parent(),
            &Authority {
                max_hops: 3,
                ..child()
            }
        ),
        Err(Exceeds::Hops)
    );
    assert_eq!(
        attenuate(
            &parent(),
            &Authority {
                max_hops: 1,
                ..child()
            }
        ),
        Ok(())
    );
    let last = Authority {
        max_hops: 1,
        ..parent()
    };
    assert_eq!(
        attenuate(
            &last,
            &Authority {
                max_hops: 1,
                ..child()
            }
        ),
        Err(Exceeds::Hops),
        "the last hop passes nothing on"
    );
}

#[test]
fn a_token_lifetime_limit_is_kept() {
    let limited = Authority {
        ttl_seconds: Some(600),
        ..parent()
    };
    assert_eq!(
        attenuate(
            &limited,
            &Authority {
                ttl_seconds: Some(600),
                ..child()
            }
        ),
        Ok(())
    );
    assert_eq!(
        attenuate(
            &limited,
            &Authority {
                ttl_seconds: Some(601),
                ..child()
            }
        ),
        Err(Exceeds::Ttl)
    );
    assert_eq!(
        attenuate(&limited, &child()),
        Err(Exceeds::Ttl),
        "dropping the limit widens"
    );
}

#[test]
fn a_budget_is_kept() {
    let scopes = |text: &str| Some(Budget::Scopes(ScopeSet::parse(text)));
    let one = Authority {
        budget: Some(Budget::Count(1)),
        ..parent()
    };
    let read = Authority {
        budget: scopes("crm:read"),
        ..parent()
    };
    let single = |authority| Authority {
        scopes: ScopeSet::parse("crm:read"),
        ..authority
    };
    for (description, parent, candidate, outcome) in [
        (
            "count, smaller",
            &one,
            Authority {
                budget: Some(Budget::Count(1)),
                ..child()
            },
            Ok(()),
        ),
        (
            "count, larger",
            &one,
            Authority {
                budget: Some(Budget::Count(2)),
                ..child()
            },
            Err(Exceeds::Budget),
        ),
        ("count, none but few scopes", &one, single(child()), Ok(())),
        ("count, none and many scopes", &one, child(), Err(Exceeds::Budget)),
        (
            "count, short list",
            &one,
            Authority {
                budget: scopes("crm:read"),
                ..child()
            },
            Ok(()),
        ),
        (
            "count, long list",
            &one,
            Authority {
                budget: scopes("crm:read crm:write"),
                ..child()
            },
            Err(Exceeds::Budget),
        ),
        (
            "list, part of it",
            &read,
            Authority {
                budget: scopes("crm:read"),
                ..child()
            },
            Ok(()),
        ),
        (
            "list, something else",
            &read,
            Authority {
                budget: scopes("crm:write"),
                ..child()
            },
            Err(Exceeds::Budget),
        ),
        ("list, none but its scopes", &read, single(child()), Ok(())),
        ("list, none and more scopes", &read, child(), Err(Exceeds::Budget)),
        (
            "list, a count",
            &read,
            Authority {
                budget: Some(Budget::Count(1)),
                ..child()
            },
            Err(Exceeds::Budget),
        ),
    ] {
        assert_eq!(attenuate(parent, &candidate), outcome, "{description}");
    }
}

fn edge(id: &str, is_live: bool) -> InboundEdge {
    InboundEdge {
        id: id.parse().unwrap(),
        authority: parent(),
        is_live,
    }
}

#[test]
fn a_lapsed_delegation_never_makes_a_root() {
    assert_eq!(authority_to_delegate(Inbound::Lapsed), Err(LapsedAuthority));
    assert_eq!(
        resolve_parent(&[edge("e1", false)], None),
        Err(ParentError::NotActive)
    );
    assert_eq!(ParentError::from(LapsedAuthority), ParentError::NotActive);
}

#[test]
fn a_session_that_received_nothing_is_a_root() {
    let source = authority_to_delegate(Inbound::None).unwrap();
    assert_eq!(source, Source::Root);
    assert_eq!(source.permits(&child()), Ok(()));
    assert_eq!(
        resolve_parent(&[], Some(&"e9".parse().unwrap())),
        Ok(None),
        "a named parent is then ignored"
    );
}

#[test]
fn a_live_delegation_limits_what_is_passed_on() {
    let source = authority_to_delegate(Inbound::Live(Box::new(parent()))).unwrap();
    assert_eq!(source.permits(&child()), Ok(()));
    assert_eq!(source.permits(&parent()), Err(Exceeds::Hops));
}

#[test]
fn the_parent_is_the_only_live_edge_or_the_named_one() {
    let inbound = [edge("e1", true), edge("e2", false)];
    assert_eq!(resolve_parent(&inbound, None).unwrap().unwrap().id, "e1");
    assert_eq!(
        resolve_parent(&inbound, Some(&"e2".parse().unwrap())),
        Err(ParentError::NotActive)
    );
    assert_eq!(
        resolve_parent(&inbound, Some(&"e3".parse().unwrap())),
        Err(ParentError::NotActive)
    );
    let several = [edge("e1", true), edge("e3", true)];
    assert_eq!(resolve_parent(&several, None), Err(ParentError::Ambiguous));
    assert_eq!(
        resolve_parent(&several, Some(&"e3".parse().unwrap()))
            .unwrap()
            .unwrap()
            .id,
        "e3"
    );
}
