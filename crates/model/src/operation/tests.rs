use proptest::prelude::*;

use super::*;
use crate::ScopeSet;

fn operation(method: &str, path: &str, scope: &str) -> Operation {
    Operation {
        method: method.to_owned(),
        path: path.to_owned(),
        scope: scope.to_owned(),
    }
}

fn permits(operations: &Operations, method: &str, path: &str, scopes: &str) -> bool {
    let scopes = ScopeSet::parse(scopes);
    operations.permits(method, path, |scope| scopes.contains(scope))
}

#[test]
fn an_operation_needs_its_method_its_path_and_its_scope() {
    let operations = Operations::compile(&[
        operation("get", "/v1/users", "read"),
        operation("GET", "/v1/users/{id}", "read"),
        operation("GET", "/v1/users/me", "self"),
        operation("PUT", "/v1/users/{id}", "write"),
        operation("GET", "/v1/{kind}/me/{part}", "part"),
        operation("GET", "/v1/users/{id}/parts", "parts"),
        operation("GET", "/v1/{}/{a b}/x{y}", "odd"),
        operation("GET", "/v1/a%2Fb", "coded"),
        operation("GET", "/v1/either/{a}", "one"),
        operation("GET", "/v1/either/{b}", "two"),
    ]);
    for (method, path, scopes, is_permitted) in [
        ("GET", "/v1/users", "read", true),
        ("Get", "/v1/users", "other read", true),
        ("POST", "/v1/users", "read", false),
        ("GET", "/v1/users", "write", false),
        ("GET", "/v1/users", "", false),
        ("GET", "/V1/users", "read", false),
        ("GET", "/v1/users/", "read", false),
        ("GET", "/v1//users", "read", false),
        ("GET", "//v1/users", "read", false),
        ("GET", "v1/users", "read", false),
        ("GET", "/v1/users/7", "read", true),
        ("GET", "/v1/users/7/", "read", false),
        ("GET", "/v1/users/7/8", "read", false),
        ("GET", "/v1/users/\u{e9}", "read", true),
        ("GET", "/v1/users/{id}", "read", true),
        ("GET", "/v1/users/me", "read", false),
        ("GET", "/v1/users/me", "self", true),
        ("GET", "/v1/users/Me", "read", true),
        ("PUT", "/v1/users/me", "write", true),
        ("GET", "/v1/users/me/x", "part", true),
        ("GET", "/v1/users/me/parts", "part", false),
        ("GET", "/v1/users/me/parts", "parts", true),
        ("GET", "/v1/users/a%2Fb", "read", false),
        ("GET", "/v1/users/a;b", "read", false),
        ("GET", "/v1/users/a\\b", "read", false),
        ("GET", "/v1/users/a\u{7}b", "read", false),
        ("GET", "/v1/x/y/x{y}", "odd", false),
        ("GET", "/v1/{}/{a b}/x{y}", "odd", true),
        ("GET", "/v1/a%2Fb", "coded", true),
        ("GET", "/v1/either/x", "one", true),
        ("GET", "/v1/either/x", "two", true),
        ("GET", "", "read", false),
        ("", "", "read", false),
    ] {
        assert_eq!(
            permits(&operations, method, path, scopes),
            is_permitted,
            "{method} {path} with {scopes}"
        );
    }
    assert!(!permits(&Operations::default(), "GET", "/", "read"));
}

#[test]
fn a_path_without_end_is_not_declared() {
    let endless = "/a".repeat(SEGMENTS_MAX);
    let long = "/a".repeat(SEGMENTS_MAX - 1);
    let operations = Operations::compile(&[
        operation("GET", &endless, "read"),
        operation("GET", &long, "read"),
    ]);
    assert!(!permits(&operations, "GET", &endless, "read"));
    assert!(permits(&operations, "GET", &long, "read"));
}

/// What the table should say, by comparing with every declaration.
fn compared(declared: &[Operation], method: &str, path: &str, scopes: &str) -> bool {
    let segments: Vec<&str> = path.split('/').collect();
    let shape = |operation: &&Operation| operation.path.split('/').map(is_placeholder).collect::<Vec<_>>();
    let fits = |operation: &&Operation| {
        let declared: Vec<&str> = operation.path.split('/').collect();
        let fits =
            |(held, given): (&&str, &&str)| held == given || (is_placeholder(held) && may_stand(given));
        declared.len() == segments.len()
            && declared.iter().zip(&segments).all(fits)
            && operation.method.eq_ignore_ascii_case(method)
    };
    let fitting: Vec<&Operation> = declared.iter().filter(fits).collect();
    let best = fitting.iter().map(shape).min();
    fitting
        .iter()
        .filter(|operation| best.as_ref() == Some(&shape(operation)))
        .any(|operation| scopes.split_whitespace().any(|scope| scope == operation.scope))
}

fn path() -> impl Strategy<Value = String> {
    let segment = prop::sample::select(vec!["a", "b", "{x}", "{y}", "", "%2F"]);
    prop::collection::vec(segment, 0..4).prop_map(|segments| format!("/{}", segments.join("/")))
}

fn method() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["GET", "get", "PUT"]).prop_map(str::to_owned)
}

proptest! {
    #[test]
    fn the_table_says_what_comparing_with_every_declaration_says(
        declared in prop::collection::vec((method(), path(), "[rw]"), 0..8),
        method in method(), path in path(), scopes in "[rw ]{0,3}"
    ) {
        let declared: Vec<Operation> =
            declared.iter().map(|(method, path, scope)| operation(method, path, scope)).collect();
        let table = Operations::compile(&declared);
        prop_assert_eq!(permits(&table, &method, &path, &scopes), compared(&declared, &method, &path, &scopes));
    }

    /// Where nothing but whole paths is declared, a table is what it was before there were placeholders.
    #[test]
    fn whole_paths_compare_exactly(
        declared in prop::collection::vec((method(), "/[ab%;/]{0,4}", "[rw]"), 0..8),
        method in method(), path in "/[ab%;/]{0,4}", scope in "[rw]"
    ) {
        let declared: Vec<Operation> =
            declared.iter().map(|(method, path, scope)| operation(method, path, scope)).collect();
        let exactly = declared.iter().any(|operation| {
            operation.method.eq_ignore_ascii_case(&method) && operation.path == path && operation.scope == scope
        });
        prop_assert_eq!(permits(&Operations::compile(&declared), &method, &path, &scope), exactly);
    }
}
