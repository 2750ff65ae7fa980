//! What operators write about where requests go.

use caracal_chassis::config::{Reader, Source};
use caracal_gateway::Config;
use caracal_gateway::fuzzing::{Lead, RouteTable, Written};
use caracal_wire::path::{careless, is_traversal, obliging};

/// What a gateway cannot do without, beside its routes.
const OTHER_SETTINGS: [(&str, &str); 3] = [
    ("STS_URL", "http://sts:8080"),
    ("REDIS_URL", "redis://redis"),
    ("CARACAL_MODE", "dev"),
];

/// A route table is taken or refused with words. In one that is taken, a path takes the route that reading all of them one after
/// the other gives, by the contract's order of precedence (docs/contract/gateway-routes.md, "Which route").
pub(crate) fn route_table(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(source) = Source::from_toml_str(text) else {
        return;
    };
    let source = source.with_pairs(OTHER_SETTINGS);
    let mut reader = Reader::new(&source);
    let config = Config::read(&mut reader);
    if let Err(errors) = reader.finish() {
        assert!(!errors.to_string().is_empty());
        return;
    }
    let table = RouteTable::of(config);
    let written = table.written();
    // The paths asked for come with the table: those of its routes, as they are written and otherwise.
    for path in table.paths() {
        for spelling in spellings(&path) {
            assert_eq!(table.find(&spelling), lead(&written, &spelling), "{spelling}");
        }
    }
}

/// Of the routes of one path, what there is for `GET`.
#[derive(Clone, Copy, PartialEq)]
enum Choice<'w> {
    NoRoute,
    Route(&'w Written),
    OtherMethods,
}

/// Where a path leads by the words of the contract.
fn lead(written: &[Written], path: &str) -> Option<Lead> {
    let as_sent = |text: &str| text.to_owned();
    let as_read = |text: &str| obliging(text).into_owned();
    let as_misread = |text: &str| careless(&obliging(text)).into_owned();
    let sent = choice(&of_the_path(written, path, as_sent));
    if sent != choice(&of_the_path(written, path, as_read)) {
        return None;
    }
    let Choice::Route(route) = sent else { return None };
    let misread = of_the_path(written, path, as_misread);
    let is_protected_to_a_careless_server = misread.iter().any(|misread_as| {
        let of_its_path = misread.iter().filter(|other| other.path == misread_as.path);
        match choice(&of_its_path.copied().collect::<Vec<_>>()) {
            Choice::Route(route) => route.is_protected,
            Choice::OtherMethods => misread_as.is_protected,
            Choice::NoRoute => false,
        }
    });
    let is_taken = route.is_protected || !is_protected_to_a_careless_server;
    is_taken.then_some(Lead {
        route: route.route,
        is_protected: route.is_protected,
    })
}

/// The routes of the exact path, else those of the longest prefix, when every path is read like this.
fn of_the_path<'w>(written: &'w [Written], path: &str, read: impl Fn(&str) -> String) -> Vec<&'w Written> {
    let path = read(path);
    let rule = |route: &Written| route.path.map(&read);
    let matching = || written.iter().filter(|route| rule(route).matches(&path));
    let rank = |route: &&Written| {
        let rule = rule(route);
        let is_exact = matches!(rule, caracal_wire::path::PathRule::Exact(_));
        (is_exact, rule.text().len())
    };
    let Some(best) = matching().max_by_key(rank) else {
        return Vec::new();
    };
    matching().filter(|route| rule(route) == rule(best)).collect()
}

fn choice<'w>(routes: &[&'w Written]) -> Choice<'w> {
    let names_get = routes.iter().find(|route| route.names_get);
    let for_all = || routes.iter().find(|route| route.is_for_all_methods);
    match names_get.or_else(for_all) {
        Some(route) => Choice::Route(route),
        None if routes.is_empty() => Choice::NoRoute,
        None => Choice::OtherMethods,
    }
}

/// Ways to write a path that some server takes for the same.
fn spellings(path: &str) -> Vec<String> {
    let first = path
        .char_indices()
        .nth(1)
        .map_or("", |(place, _mark)| &path[place..]);
    let encoded = first.chars().next().filter(char::is_ascii).map(|mark| {
        let rest = first.get(1..).unwrap_or_default();
        format!("/%{:02x}{rest}", u32::from(mark))
    });
    let mut spellings = vec![
        path.to_owned(),
        format!("{path}/"),
        format!("/{path}"),
        format!("{path}/x"),
        format!("{path};a=1"),
        format!("{path}%2Fx"),
        path.replace('/', "%2f"),
        path.to_ascii_uppercase(),
        path.to_ascii_lowercase(),
        obliging(path).into_owned(),
    ];
    spellings.extend(encoded);
    spellings.retain(|spelling| spelling.starts_with('/') && !is_traversal(spelling));
    spellings
}
