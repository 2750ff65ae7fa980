//! What does a host, a path and a method stand for?
//!
//! A table is immutable; a reload puts another in its place, and a request keeps the one it began with. A lookup costs one
//! map read for the host and one for each segment of the path, however many routes there are.

mod gate;
mod rule;

use std::collections::HashMap;
use std::sync::Arc;

use caracal_wire::path::{PathTable, careless, obliging};
use http::Method;

use crate::upstream::{Check, Checks};

pub(crate) use gate::{Gate, Place};
pub(crate) use rule::{Destination, HostRule, HostSent, Limits, Redirect, RedirectTo, RouteRule};

/// A rule in force, with what it has let through lately.
#[derive(Debug)]
pub(crate) struct Line {
    rule: RouteRule,
    gate: Arc<Gate>,
    checks: Vec<Arc<Check>>,
}

impl Line {
    /// What it says.
    pub(crate) fn rule(&self) -> &RouteRule {
        &self.rule
    }

    /// Whether it asks for a mandate.
    pub(crate) fn is_protected(&self) -> bool {
        matches!(self.rule.destination, Destination::Resource { .. })
    }

    /// The health checks of its upstreams.
    pub(crate) fn checks(&self) -> &[Arc<Check>] {
        &self.checks
    }

    /// Who may take it now.
    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }
}

/// A request, as far as routes look at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// In lower case, without port.
    pub(crate) host: Option<&'a str>,
    /// As sent; it is no traversal.
    pub(crate) path: &'a str,
    /// Its method.
    pub(crate) method: &'a Method,
    /// Whether the client used https.
    pub(crate) is_https: bool,
}

/// What the table says about a request.
#[derive(Debug)]
pub(crate) enum Found<'t> {
    /// Nothing.
    Nothing,
    /// This line.
    Line(&'t Arc<Line>),
    /// The routes of its path are for these methods.
    OtherMethods(Vec<&'t Method>),
    /// A server that reads the path differently would take another route.
    Ambiguous,
}

/// The route table.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    lines: Vec<Arc<Line>>,
    checks: Checks,
    /// Redirects to https, which come before everything else.
    to_https: Hosts,
    others: Hosts,
}

/// Lines by host, then by path.
#[derive(Debug, Default)]
struct Hosts {
    exact: HashMap<String, Paths>,
    label_before: HashMap<String, Paths>,
    any: Paths,
}

#[derive(Debug, Default)]
struct Paths {
    /// The paths as they are written.
    sent: PathTable<Arc<Line>>,
    /// The paths as an obliging server reads them.
    read: PathTable<Arc<Line>>,
    /// The paths as a careless server reads them.
    misread: PathTable<Arc<Line>>,
}

impl Routes {
    /// A table of `rules`, in any order. Lines that `previous` has too go on counting where they are.
    pub(crate) fn new(rules: Vec<RouteRule>, previous: Option<&Self>) -> Self {
        let mut table = Self::default();
        let mut known: HashMap<_, Vec<&Arc<Line>>> = HashMap::new();
        for line in previous.into_iter().flat_map(|previous| &previous.lines) {
            known.entry(line.rule.path.text()).or_default().push(line);
        }
        for rule in rules {
            let kept = known
                .get(rule.path.text())
                .and_then(|lines| lines.iter().find(|line| rule.continues(&line.rule)));
            let gate = kept.map_or_else(
                || Arc::new(Gate::new(&rule.limits)),
                |line| Arc::clone(&line.gate),
            );
            let checks = table.checks_of(&rule, previous);
            table.insert(&Arc::new(Line { rule, gate, checks }));
        }
        table
    }

    fn insert(&mut self, line: &Arc<Line>) {
        let hosts = if line.rule.leads_to_https() {
            &mut self.to_https
        } else {
            &mut self.others
        };
        let paths = match &line.rule.host {
            Some(HostRule::Exact(host)) => hosts.exact.entry(host.clone()).or_default(),
            Some(HostRule::LabelBefore(name)) => hosts.label_before.entry(name.clone()).or_default(),
            None => &mut hosts.any,
        };
        paths.sent.insert(&line.rule.path, Arc::clone(line));
        let read = line.rule.path.map(|path| obliging(path).into_owned());
        paths.read.insert(&read, Arc::clone(line));
        let misread = read.map(|read| careless(read).into_owned());
        paths.misread.insert(&misread, Arc::clone(line));
        self.lines.push(Arc::clone(line));
    }

    /// The health checks of the upstreams that `rule` leads to.
    fn checks_of(&mut self, rule: &RouteRule, previous: Option<&Self>) -> Vec<Arc<Check>> {
        let Destination::Public { pool, .. } = &rule.destination else {
            return Vec::new();
        };
        let Some(check) = pool.check() else {
            return Vec::new();
        };
        let before = previous.map(|previous| &previous.checks);
        let shared = |url| Check::shared(url, check, &mut self.checks, before);
        pool.urls().map(shared).collect()
    }

    /// Every health check, once.
    pub(crate) fn checks(&self) -> &Checks {
        &self.checks
    }

    /// The routes, in the order of the configuration.
    pub(crate) fn lines(&self) -> &[Arc<Line>] {
        &self.lines
    }

    /// How many routes there are.
    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }

    /// The line for a request. The order of precedence is the contract's (docs/contract/gateway-routes.md, "Which route").
    pub(crate) fn find(&self, asked: Asked<'_>) -> Found<'_> {
        if !asked.is_https {
            match self.to_https.find(asked) {
                Found::Nothing | Found::OtherMethods(_) => {}
                found => return found,
            }
        }
        self.others.find(asked)
    }
}

impl Hosts {
    fn find(&self, asked: Asked<'_>) -> Found<'_> {
        let parent = asked
            .host
            .and_then(|host| host.split_once('.'))
            .filter(|(label, _parent)| !label.is_empty());
        let exact = asked.host.and_then(|host| self.exact.get(host));
        let label_before = parent.and_then(|(_label, parent)| self.label_before.get(parent));
        for paths in [exact, label_before, Some(&self.any)].into_iter().flatten() {
            match paths.find(asked) {
                Found::Nothing => {}
                found => return found,
            }
        }
        Found::Nothing
    }
}

impl Paths {
    fn find(&self, asked: Asked<'_>) -> Found<'_> {
        let sent = one_of(&self.sent.find(asked.path).iter(), asked.method);
        let read = obliging(asked.path);
        match (&sent, one_of(&self.read.find(&read).iter(), asked.method)) {
            (Found::Nothing, Found::Nothing) | (Found::OtherMethods(_), Found::OtherMethods(_)) => {}
            (Found::Line(sent_line), Found::Line(read_line)) if Arc::ptr_eq(sent_line, read_line) => {}
            _ => return Found::Ambiguous,
        }
        let misread = self.misread.find(&careless(&read));
        let has_methods = matches!(sent, Found::OtherMethods(_));
        let would_be_protected = misread
            .iter()
            .any(|line| is_protected_beside(misread, line, asked.method, has_methods));
        let is_protected = matches!(&sent, Found::Line(line) if line.is_protected());
        if would_be_protected && !is_protected {
            return Found::Ambiguous;
        }
        sent
    }
}

/// Whether a careless server could take the request for one that the path of `line`, as it is written, keeps protected; that path may
/// stand in `lines` beside others that only such a server takes for the same.
fn is_protected_beside(lines: &[Arc<Line>], line: &Line, method: &Method, has_methods: bool) -> bool {
    let is_same_path = |other: &&Arc<Line>| other.rule.path == line.rule.path;
    match one_of(&lines.iter().filter(is_same_path), method) {
        Found::Line(line) => line.is_protected(),
        // What is only for other methods there is not for this one under another name.
        Found::OtherMethods(_) => line.is_protected() && !has_methods,
        Found::Nothing | Found::Ambiguous => false,
    }
}

/// The line among those of one path that is for `method`: one that names it, else one for all.
fn one_of<'t>(lines: &(impl Iterator<Item = &'t Arc<Line>> + Clone), method: &Method) -> Found<'t> {
    let all = || lines.clone();
    let names = |line: &&Arc<Line>| line.rule.methods.contains(method);
    let for_all = |line: &&Arc<Line>| line.rule.methods.is_empty();
    if let Some(line) = all().find(names).or_else(|| all().find(for_all)) {
        return Found::Line(line);
    }
    if all().next().is_none() {
        return Found::Nothing;
    }
    Found::OtherMethods(all().flat_map(|line| &line.rule.methods).collect())
}

#[cfg(test)]
mod tests {
    use caracal_wire::path::PathRule;

    use super::*;
    use crate::rate::Rate;
    use crate::upstream::Pool;

    pub(super) fn rule(host: Option<&str>, path: PathRule, resource: &str) -> RouteRule {
        let host = host.map(|host| match host.strip_prefix("*.") {
            Some(name) => HostRule::LabelBefore(name.to_owned()),
            None => HostRule::Exact(host.to_owned()),
        });
        RouteRule {
            host,
            path,
            methods: Vec::new(),
            strip_prefix: false,
            destination: Destination::Resource {
                resource: resource.to_owned(),
                zone: None,
            },
            host_sent: HostSent::Upstream,
            limits: Limits::default(),
            response_headers: Vec::new(),
        }
    }

    fn prefix(path: &str) -> PathRule {
        PathRule::Prefix(path.to_owned())
    }

    /// What a request gets: the resource, `other methods`, `ambiguous`, or nothing.
    fn found(table: &Routes, method: &str, host: &str, path: &str) -> String {
        let asked = Asked {
            host: Some(host),
            path,
            method: &method.parse().unwrap(),
            is_https: true,
        };
        match table.find(asked) {
            Found::Nothing => "nothing".to_owned(),
            Found::Ambiguous => "ambiguous".to_owned(),
            Found::OtherMethods(methods) => format!("only {methods:?}"),
            Found::Line(line) => match &line.rule.destination {
                Destination::Resource { resource, .. } => resource.clone(),
                Destination::Public { .. } => "public".to_owned(),
                Destination::Redirect(_) => "redirect".to_owned(),
            },
        }
    }

    #[test]
    fn host_wins_over_path_exact_over_prefix_and_long_over_short() {
        let table = Routes::new(
            vec![
                rule(None, prefix("/"), "any"),
                rule(None, prefix("/crm"), "crm"),
                rule(None, prefix("/crm/v2"), "crm-v2"),
                rule(None, PathRule::Exact("/crm/v2/exact".into()), "exact"),
                rule(Some("files.example"), prefix("/"), "files"),
                rule(Some("*.tenants.example"), prefix("/crm"), "tenant"),
                rule(Some("one.tenants.example"), prefix("/crm/v2"), "one"),
            ],
            None,
        );
        for (host, path, resource) in [
            ("a.example", "/", "any"),
            ("a.example", "/crm", "crm"),
            ("a.example", "/crm/contacts", "crm"),
            ("a.example", "/crmx", "any"),
            ("a.example", "/crm/v2", "crm-v2"),
            ("a.example", "/crm/v2/exact", "exact"),
            ("a.example", "/crm/v2/exact/more", "crm-v2"),
            ("files.example", "/crm/v2/exact", "files"),
            ("two.tenants.example", "/crm/v2", "tenant"),
            ("two.tenants.example", "/else", "any"),
            ("one.tenants.example", "/crm/v2", "one"),
            ("one.tenants.example", "/crm", "tenant"),
            ("a.two.tenants.example", "/crm", "crm"),
            ("tenants.example", "/crm", "crm"),
            (".tenants.example", "/crm", "crm"),
        ] {
            assert_eq!(found(&table, "GET", host, path), resource, "{host}{path}");
        }
        assert_eq!(found(&Routes::default(), "GET", "a", "/"), "nothing");
    }

    #[test]
    fn the_longest_path_decides_even_about_methods() {
        let mut read = rule(None, prefix("/crm"), "read");
        read.methods = vec![Method::GET, Method::HEAD];
        let mut write = rule(None, prefix("/crm"), "write");
        write.methods = vec![Method::POST];
        let mut inner = rule(None, prefix("/hr"), "post-hr");
        inner.methods = vec![Method::POST];
        let rules = vec![
            read,
            write,
            inner,
            rule(None, prefix("/hr"), "hr"),
            rule(None, prefix("/"), "any"),
        ];
        let table = Routes::new(rules, None);
        for (method, path, resource) in [
            ("GET", "/crm/x", "read"),
            ("POST", "/crm/x", "write"),
            ("DELETE", "/crm/x", "only [GET, HEAD, POST]"),
            ("POST", "/hr", "post-hr"),
            ("GET", "/hr", "hr"),
            ("DELETE", "/", "any"),
        ] {
            assert_eq!(found(&table, method, "a", path), resource, "{method} {path}");
        }
    }

    #[test]
    fn a_path_that_another_reading_puts_on_another_route_is_on_none() {
        let table = Routes::new(
            vec![
                rule(None, prefix("/"), "any"),
                rule(None, prefix("/admin"), "admin"),
                rule(None, prefix("/a%20b"), "escaped"),
            ],
            None,
        );
        for (path, resource) in [
            ("/%61dmin/x", "ambiguous"),
            ("//admin", "ambiguous"),
            ("/x%2F..", "any"),
            ("/%2Fadmin", "ambiguous"),
            ("/admin;x=1/y", "ambiguous"),
            ("/admin%2Fx", "ambiguous"),
            ("/admin/a%2Fb//c;d", "admin"),
            ("/other/a%2Fb//c", "any"),
            ("/a%20b/c", "escaped"),
        ] {
            assert_eq!(found(&table, "GET", "a", path), resource, "{path}");
        }
    }

    #[test]
    fn what_is_protected_is_not_public_in_another_spelling() {
        let mut site = rule(None, prefix("/"), "");
        site.destination = Destination::Public {
            pool: Pool::new(vec!["http://site".parse().unwrap()], None).unwrap(),
            keeps_authorization: false,
        };
        let exact = PathRule::Exact("/admin".to_owned());
        let encoded = rule(None, prefix("/users/%40me"), "me");
        let mut for_get = rule(None, PathRule::Exact("/report".to_owned()), "report");
        for_get.methods = vec![Method::GET];
        let rules = vec![site, rule(None, exact, "admin"), encoded, for_get];
        let table = Routes::new(rules, None);
        assert_eq!(found(&table, "POST", "a", "/Report"), "ambiguous");
        assert_eq!(found(&table, "POST", "a", "/report"), "only [GET]");
        for (path, resource) in [
            ("/", "public"),
            ("/administrators", "public"),
            ("/admin/users", "public"),
            ("/admin", "admin"),
            ("/admin/", "ambiguous"),
            ("/ADMIN", "ambiguous"),
            ("/Admin/", "ambiguous"),
            ("/admin%2F", "ambiguous"),
            ("/users/%40me", "me"),
            ("/users/@me", "ambiguous"),
            ("/Users/@me/x", "ambiguous"),
        ] {
            assert_eq!(found(&table, "GET", "a", path), resource, "{path}");
        }
    }

    #[test]
    fn a_public_route_does_not_hide_a_protected_one_of_another_spelling() {
        let public = |path: PathRule| {
            let mut rule = rule(None, path, "");
            rule.destination = Destination::Public {
                pool: Pool::new(vec!["http://site".parse().unwrap()], None).unwrap(),
                keeps_authorization: false,
            };
            rule
        };
        let exact = |path: &str| PathRule::Exact(path.to_owned());
        let mut to_read = public(exact("/report"));
        to_read.methods = vec![Method::GET];
        for is_first in [true, false] {
            let mut rules = vec![
                public(exact("/Admin")),
                rule(None, exact("/admin"), "admin"),
                public(prefix("/")),
                rule(None, exact("/report"), "report"),
                to_read.clone(),
            ];
            if is_first {
                rules.reverse();
            }
            let table = Routes::new(rules, None);
            for (method, path, resource) in [
                ("GET", "/admin", "admin"),
                ("GET", "/Admin", "ambiguous"),
                ("GET", "/ADMIN", "ambiguous"),
                ("GET", "/report", "public"),
                ("POST", "/report", "report"),
                ("POST", "/Report", "ambiguous"),
            ] {
                assert_eq!(found(&table, method, "a", path), resource, "{method} {path}");
            }
        }
    }

    #[test]
    fn a_redirect_to_https_comes_before_everything_that_came_without_it() {
        let mut redirect = rule(None, prefix("/"), "");
        redirect.destination = Destination::Redirect(Redirect {
            status: 308,
            to: RedirectTo::Https,
        });
        let table = Routes::new(vec![redirect, rule(None, prefix("/crm"), "crm")], None);
        let find = |is_https| {
            let asked = Asked {
                host: Some("a"),
                path: "/crm/x",
                method: &Method::GET,
                is_https,
            };
            match table.find(asked) {
                Found::Line(line) => line.rule.leads_to_https(),
                other => panic!("{other:?}"),
            }
        };
        assert!(find(false));
        assert!(!find(true));
    }

    #[test]
    fn a_reload_keeps_the_count_of_a_route_that_stays_as_it_is() {
        let limited = |path: &str, burst: f64| {
            let mut limited = rule(None, prefix(path), "crm");
            limited.limits.rate = Some(Rate { burst, per_s: 0.001 });
            limited
        };
        let enter = |table: &Routes, path: &str| {
            let asked = Asked {
                host: None,
                path,
                method: &Method::GET,
                is_https: true,
            };
            match table.find(asked) {
                Found::Line(line) => line.gate().enter([127, 0, 0, 1].into(), false).is_ok(),
                other => panic!("{other:?}"),
            }
        };
        let before = Routes::new(vec![limited("/a", 1.0), limited("/b", 1.0)], None);
        assert!(enter(&before, "/a") && enter(&before, "/b"));
        let after = Routes::new(vec![limited("/a", 1.0), limited("/b", 2.0)], Some(&before));
        assert!(!enter(&after, "/a"), "its budget is spent");
        assert!(enter(&after, "/b"), "its limit is another one now");
    }
}
