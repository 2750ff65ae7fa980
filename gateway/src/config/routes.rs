//! Which routes did the operator write, as tables or in the short form?

use caracal_chassis::config::Reader;
use url::Url;

use crate::snapshot::routes::{Destination, PathRule, RouteRule, Routes};

/// Reads every route; what is wrong is recorded in `reader`.
pub(super) fn read_routes(reader: &mut Reader<'_>) -> Routes {
    let mut rules = Vec::new();
    for table in reader.tables("ROUTE") {
        rules.extend(reader.table(&table, read_route));
    }
    for pair in reader.list("CARACAL_GATEWAY_ROUTES") {
        let parts = pair
            .split_once('=')
            .filter(|(prefix, resource)| prefix.starts_with('/') && !resource.is_empty());
        reader.check(
            parts.is_some(),
            "CARACAL_GATEWAY_ROUTES",
            format!("{pair:?} is not a route"),
            "write prefix=resource, e.g. /crm=resource://crm",
        );
        rules.extend(parts.map(|(prefix, resource)| RouteRule {
            host: None,
            path: PathRule::Prefix(prefix.to_owned()),
            strip_prefix: false,
            destination: Destination::Resource {
                resource: resource.to_owned(),
                zone: None,
            },
        }));
    }
    Routes::new(rules)
}

fn read_route(reader: &mut Reader<'_>) -> Option<RouteRule> {
    let host = reader
        .optional_text("HOST")
        .map(|host| host.trim_end_matches('.').to_ascii_lowercase());
    let exact = reader.optional_text("PATH");
    let prefix = reader.optional_text("PATH_PREFIX");
    let strip_prefix = reader.boolean("STRIP_PREFIX", false);
    let resource = reader.optional_text("RESOURCE");
    let zone = reader.optional_text("ZONE");
    let public = reader.boolean("PUBLIC", false);
    let upstream = reader.optional_url("UPSTREAM", &["http", "https"]);
    let path = match (exact, prefix) {
        (Some(exact), None) => Some(PathRule::Exact(exact)),
        (None, Some(prefix)) => Some(PathRule::Prefix(prefix)),
        (None, None) if host.is_some() => Some(PathRule::Prefix("/".to_owned())),
        _ => None,
    };
    let starts_well = path.as_ref().is_some_and(|path| match path {
        PathRule::Exact(path) | PathRule::Prefix(path) => path.starts_with('/'),
    });
    reader.check(
        starts_well,
        "PATH",
        "does not say which requests the route is for",
        "write path or path_prefix, beginning with a slash; with host it may be left out",
    );
    let zone = match zone.map(|zone| zone.parse()).transpose() {
        Ok(zone) => zone,
        Err(error) => {
            reader.check(
                false,
                "ZONE",
                format!("is no zone: {error}"),
                "write the id of a zone",
            );
            None
        }
    };
    let destination = match (public, resource, upstream) {
        (false, Some(resource), None) => Some(Destination::Resource { resource, zone }),
        (true, None, Some(upstream)) => Url::parse(&upstream)
            .ok()
            .map(|upstream| Destination::Public { upstream }),
        _ => None,
    };
    reader.check(
        destination.is_some(),
        "RESOURCE",
        "and the rest of the route do not fit together",
        "write resource for a protected route; public = true and upstream for one that asks for no mandate",
    );
    Some(RouteRule {
        host,
        path: path?,
        strip_prefix,
        destination: destination?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::read;

    #[test]
    fn routes_are_read_from_tables_and_from_the_short_form() {
        let tables = r#"[{"host":"Files.Example","resource":"resource://files","zone":"z1"},
            {"path":"/login","public":true,"upstream":"http://login:80"}]"#;
        let routes = read(&[
            ("ROUTE", tables),
            ("CARACAL_GATEWAY_ROUTES", "/crm=resource://crm,/hr=resource://hr"),
        ])
        .unwrap()
        .routes;
        let found =
            |host: &str, path: &str| routes.find(Some(host), path).map(|rule| rule.destination.clone());
        let crm = Destination::Resource {
            resource: "resource://crm".into(),
            zone: None,
        };
        assert_eq!(found("a", "/crm/x"), Some(crm));
        assert!(matches!(
            found("files.example", "/x"),
            Some(Destination::Resource { zone: Some(_), .. })
        ));
        assert!(matches!(found("a", "/login"), Some(Destination::Public { .. })));
        assert_eq!(found("a", "/other"), None);
        for table in [
            r#"[{"resource":"resource://x"}]"#,
            r#"[{"path":"/x"}]"#,
            r#"[{"path":"/x","path_prefix":"/y","resource":"r"}]"#,
            r#"[{"path":"/x","public":true,"resource":"r"}]"#,
            r#"[{"path":"/x","resource":"r","upstream":"http://x"}]"#,
            r#"[{"path":"/x","resource":"r","unknown":1}]"#,
        ] {
            assert!(read(&[("ROUTE", table)]).is_err(), "{table}");
        }
    }
}
