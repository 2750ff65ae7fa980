//! Upstreams of public routes are asked whether they are well: those that are not take no requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use caracal_testing::{LiveBody, LiveUpstream, Speaks, test_authority, wait_until};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;

use crate::reload::File;
use crate::rig::{CONFIG_FILE, METRICS, Rig, SOON};

/// How often the tests' upstreams are asked: often, so that the tests need not wait.
const OFTEN: &str =
    r#""health_path":"/live?x","health_interval":"50ms","health_timeout":"10s","unhealthy_after":2"#;

/// A site that counts, and says how it is.
struct Site {
    upstream: LiveUpstream,
    is_ill: Arc<AtomicBool>,
    visits: Arc<AtomicUsize>,
    checks: Arc<AtomicUsize>,
    hosts: Arc<std::sync::Mutex<Vec<String>>>,
}

impl Site {
    async fn start(speaks: Speaks) -> Self {
        let (is_ill, visits, checks): (Arc<AtomicBool>, Arc<AtomicUsize>, Arc<AtomicUsize>) =
            Default::default();
        let hosts: Arc<std::sync::Mutex<Vec<String>>> = Arc::default();
        let state = (
            Arc::clone(&is_ill),
            Arc::clone(&visits),
            Arc::clone(&checks),
            Arc::clone(&hosts),
        );
        let upstream = LiveUpstream::start(speaks, move |request: Request<Incoming>| {
            let (is_ill, visits, checks, hosts) = &state;
            let is_check = request.uri().path() == "/live";
            if is_check {
                assert_eq!(request.uri().query(), Some("x"));
                checks.fetch_add(1, Ordering::SeqCst);
            } else {
                visits.fetch_add(1, Ordering::SeqCst);
            }
            let host = request.headers().get("host").map(|host| host.to_str().unwrap());
            let host = host.or_else(|| request.uri().authority().map(http::uri::Authority::as_str));
            hosts.lock().unwrap().extend(host.map(str::to_owned));
            let status = if is_check && is_ill.load(Ordering::SeqCst) {
                500
            } else {
                200
            };
            async move { Response::builder().status(status).body(nothing()).unwrap() }
        })
        .await;
        Self {
            upstream,
            is_ill,
            visits,
            checks,
            hosts,
        }
    }

    fn set_ill(&self, is_ill: bool) {
        self.is_ill.store(is_ill, Ordering::SeqCst);
    }

    /// Visits since the last look.
    fn visits(&self) -> usize {
        self.visits.swap(0, Ordering::SeqCst)
    }

    fn checks(&self) -> usize {
        self.checks.load(Ordering::SeqCst)
    }
}

fn nothing() -> LiveBody {
    Full::new(Bytes::new()).map_err(|never| match never {}).boxed()
}

fn pool(sites: &[&Site]) -> String {
    let urls: Vec<_> = sites
        .iter()
        .map(|site| format!("{:?}", site.upstream.url()))
        .collect();
    format!(
        r#"[{{"path_prefix":"/","public":true,"upstreams":[{}],{OFTEN}}}]"#,
        urls.join(",")
    )
}

async fn visit(rig: &Rig) -> u16 {
    let request = Request::get("/page").header("host", "a.test");
    rig.send(request).await.status
}

async fn unhealthy(rig: &Rig, count: u64) {
    wait_until(SOON, async || {
        rig.metric("upstream_addresses_unhealthy").await == count
    })
    .await;
}

#[tokio::test]
async fn an_address_that_fails_its_check_takes_no_requests_until_it_is_well_again() {
    let (well, ill) = (Site::start(Speaks::Http1).await, Site::start(Speaks::Http1).await);
    ill.set_ill(true);
    let routes = pool(&[&well, &ill]);
    let rig = Rig::with(&[("ROUTE", &routes), METRICS]).await;
    unhealthy(&rig, 1).await;
    ill.visits();
    for _visit in 0..6 {
        assert_eq!(visit(&rig).await, 200);
    }
    assert_eq!((well.visits(), ill.visits()), (6, 0));

    ill.set_ill(false);
    unhealthy(&rig, 0).await;
    for _visit in 0..6 {
        assert_eq!(visit(&rig).await, 200);
    }
    assert_eq!((well.visits(), ill.visits()), (3, 3), "both take their turns");
    let hosts = ill.hosts.lock().unwrap().clone();
    let own = ill.upstream.address().to_string();
    assert!(hosts.iter().all(|host| *host == own), "{hosts:?}");

    for site in [&well, &ill] {
        site.set_ill(true);
    }
    unhealthy(&rig, 2).await;
    for _visit in 0..6 {
        assert_eq!(visit(&rig).await, 200, "when all are ill, all are tried");
    }
    assert_eq!((well.visits(), ill.visits()), (3, 3));
}

#[tokio::test]
async fn an_upstream_that_nobody_serves_is_found_out_by_nobody_but_its_check() {
    let well = Site::start(Speaks::Tls(&["h2"])).await;
    let gone = Site::start(Speaks::Tls(&["http/1.1"])).await;
    let routes = pool(&[&gone, &well]);
    drop(gone);
    let authority = test_authority();
    let settings = [
        ("ROUTE", routes.as_str()),
        ("CARACAL_TLS_EXTRA_CA_FILE", authority.to_str().unwrap()),
        METRICS,
    ];
    let rig = Rig::with(&settings).await;
    unhealthy(&rig, 1).await;
    for _visit in 0..4 {
        assert_eq!(visit(&rig).await, 200);
    }
    assert_eq!(
        rig.metric("upstream_retries").await,
        0,
        "nobody was sent there first"
    );
}

#[tokio::test]
async fn an_upstream_in_clear_that_speaks_http2_only_is_asked_in_http2() {
    let site = Site::start(Speaks::H2c).await;
    let routes = pool(&[&site]);
    let settings = [
        ("ROUTE", routes.as_str()),
        ("UPSTREAM_H2C_HOSTS", "127.0.0.1"),
        METRICS,
    ];
    let rig = Rig::with(&settings).await;
    wait_until(SOON, async || site.checks() > 3).await;
    assert_eq!(rig.metric("upstream_addresses_unhealthy").await, 0);
    let host = site.hosts.lock().unwrap()[0].clone();
    assert_eq!(host, site.upstream.address().to_string());
    assert!(
        site.upstream.connections() > 3,
        "each check makes a connection of its own"
    );
}

#[tokio::test]
async fn routes_share_the_checks_of_an_upstream_and_a_reload_ends_those_nobody_needs() {
    let (kept, dropped) = (Site::start(Speaks::Http1).await, Site::start(Speaks::Http1).await);
    let route = |path: &str, site: &Site| {
        format!(
            "[[route]]\npath_prefix = \"{path}\"\npublic = true\nupstream = \"{}\"\nhealth_path = \"/live?x\"\nhealth_interval = \"50ms\"\nhealth_timeout = \"10s\"\n",
            site.upstream.url()
        )
    };
    let many = |site: &Site| {
        (0..20)
            .map(|number| route(&format!("/{number}"), site))
            .collect::<String>()
    };
    let file = File::new(&(many(&kept) + &route("/gone", &dropped)));
    let settings = [(CONFIG_FILE, file.path()), ("RELOAD_INTERVAL", "10ms"), METRICS];
    let rig = Rig::with(&settings).await;
    dropped.set_ill(true);
    unhealthy(&rig, 1).await;
    let (of_kept, of_dropped) = (kept.checks(), dropped.checks());
    assert!(
        of_kept <= 3 * of_dropped + 3,
        "20 routes ask once: {of_kept} to {of_dropped}"
    );

    file.replace(&many(&kept));
    wait_until(SOON, async || rig.metric("config_reloads").await == 1).await;
    unhealthy(&rig, 0).await;
    // What was under way when the table changed may still arrive, once.
    let (at_most, of_kept) = (dropped.checks() + 1, kept.checks());
    wait_until(SOON, async || kept.checks() > of_kept + 5).await;
    assert!(dropped.checks() <= at_most, "its check has ended");
}
