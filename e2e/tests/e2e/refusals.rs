//! Everything that is refused: with its status and code, before the upstream hears of it, and with a record of it.

use caracal_model::KeyId;
use caracal_testing::{Mandate, Service, StackOptions};
use caracal_token::{SigningKey, Use};
use http::{HeaderMap, HeaderValue, Method};
use serde_json::json;

use crate::world::{ADMIN, Agent, Call, READ, RESOURCE, SOON, World, unique};

/// Refusals that prove no zone are kept in a ledger of their own.
const UNPROVEN: &str = "unverified";
/// Requests of one test may not look like an attack.
const BODY_BYTES_MAX: usize = 4_096;

/// Sends a call that must be refused, and checks answer, silence upstream and evidence.
async fn refused(
    world: &World,
    name: &str,
    call: Call<'_>,
    path: &str,
    ledger: &str,
    status: u16,
    code: &str,
) {
    let request_id = unique("refused");
    let answer = call.request_id(&request_id).send(path).await;
    assert_eq!(
        (answer.status, answer.text_of("error").as_str()),
        (status, code),
        "{name}: {}",
        answer.text()
    );
    assert_eq!(
        answer.text_of("requestId"),
        request_id,
        "{name}: the answer names the request"
    );
    assert!(
        world.upstream.take_requests().is_empty(),
        "{name}: the upstream was called"
    );
    world.denial_in(ledger, &request_id).await;
}

fn now() -> i64 {
    std::time::UNIX_EPOCH
        .elapsed()
        .map_or(0, |since| i64::try_from(since.as_secs()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bad_mandate_path_and_body_is_refused_and_recorded() {
    let options = StackOptions::default().set_for(Service::Gateway, "MAX_REQUEST_BYTES", "4096");
    let world = World::start(options).await;
    let agent = world.agent().await;
    let good = world.one_shot(&agent).await;
    let stranger = SigningKey::generate("stranger-key".parse::<KeyId>().unwrap()).unwrap();
    let issuer = world.stack.sts_url().to_owned();
    let of_zone = |mandate: Mandate| mandate.issuer(&issuer).scope(READ).target(RESOURCE);
    let forged = of_zone(Mandate::gateway(&world.zone, &world.application, now()));

    let call = || world.call();
    let zone = world.zone.clone();
    refused(&world, "no bearer", call(), "/", UNPROVEN, 401, "invalid_token").await;
    refused(
        &world,
        "malformed",
        call().mandate("not.a.mandate"),
        "/",
        UNPROVEN,
        401,
        "invalid_token",
    )
    .await;
    let expired =
        of_zone(Mandate::gateway(&world.zone, &world.application, now())).issued(now() - 1_000, 500);
    let expired = stranger.sign(expired.claims()).unwrap();
    refused(
        &world,
        "expired",
        call().mandate(&expired),
        "/",
        UNPROVEN,
        401,
        "credential_expired_not_renewable",
    )
    .await;
    let expiring = of_zone(Mandate::gateway(&world.zone, &world.application, now())).issued(now() - 470, 500);
    let expiring = stranger.sign(expiring.claims()).unwrap();
    refused(
        &world,
        "expiring within 35 s",
        call().mandate(&expiring),
        "/",
        UNPROVEN,
        401,
        "credential_expired_not_renewable",
    )
    .await;
    let short = world
        .until_minted(&[
            ("resource", RESOURCE),
            ("scope", READ),
            ("agent_session_id", &agent.session),
            ("delegation_edge_id", &agent.delegation),
            ("ttl_seconds", "20"),
        ])
        .await;
    refused(
        &world,
        "our own, expiring within 35 s",
        call().mandate(&short),
        "/",
        UNPROVEN,
        401,
        "credential_expired_not_renewable",
    )
    .await;
    refused(
        &world,
        "unknown key",
        call().mandate(&stranger.sign(forged.claims()).unwrap()),
        "/",
        UNPROVEN,
        401,
        "invalid_token",
    )
    .await;
    // Its MAC says whose it is; that the signature is another, the token service finds. It burns nothing.
    let wrong_signature = tampered(&good);
    refused(
        &world,
        "wrong signature",
        call().mandate(&wrong_signature),
        "/",
        &zone,
        401,
        "invalid_token",
    )
    .await;
    let unknown = of_zone(Mandate::gateway("another-zone", &world.application, now()));
    refused(
        &world,
        "unknown zone",
        call().mandate(&stranger.sign(unknown.claims()).unwrap()),
        "/",
        UNPROVEN,
        401,
        "invalid_token",
    )
    .await;
    for path in [
        "/../secrets",
        "/a/%2e%2e/secrets",
        "/a/%252e%252e/secrets",
        "/a\\..\\b",
    ] {
        refused(
            &world,
            path,
            call().mandate(&good),
            path,
            UNPROVEN,
            400,
            "invalid_token",
        )
        .await;
    }
    let elsewhere = call()
        .mandate(&good)
        .header("x-caracal-resource", "resource://unknown");
    refused(
        &world,
        "unknown resource",
        elsewhere,
        "/",
        &zone,
        403,
        "access_denied",
    )
    .await;
    let named = call()
        .mandate(&good)
        .header("x-caracal-client-id", &world.application);
    refused(
        &world,
        "client names itself",
        named,
        "/",
        UNPROVEN,
        400,
        "invalid_token",
    )
    .await;
    let large = call()
        .mandate(&world.one_shot(&agent).await)
        .post(vec![b'x'; BODY_BYTES_MAX + 1]);
    refused(
        &world,
        "oversized body",
        large,
        "/",
        &zone,
        413,
        "payload_too_large",
    )
    .await;
    assert_eq!(
        world
            .call()
            .mandate(&world.one_shot(&agent).await)
            .send("/fine")
            .await
            .status,
        200,
        "and a good call still passes"
    );
}

/// The mandate with the first character of its signature changed.
fn tampered(mandate: &str) -> String {
    let mut parts: Vec<String> = mandate.split('.').map(ToOwned::to_owned).collect();
    let flipped = if parts[2].starts_with('A') { "B" } else { "A" };
    parts[2].replace_range(0..1, flipped);
    parts.join(".")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resource_mandate_is_not_accepted_at_the_gateway() {
    let world = World::start(StackOptions::default()).await;
    let resource = json!({"upstream_url": world.upstream.url(), "credential_provider_id": mandate_provider(&world).await});
    world
        .stack
        .admin()
        .patch(&world.path(&format!("/resources/{}", world.resource)), &resource)
        .await
        .expect(200);
    let agent = world.agent().await;
    // With this provider the credential is the resource mandate itself, so the upstream has seen one.
    let seen = caracal_testing::wait_for(SOON, async || {
        let answer = world
            .call()
            .mandate(&world.one_shot(&agent).await)
            .send("/")
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let seen = world.upstream.take_requests();
        seen[0]
            .header("authorization")
            .and_then(|value| value.strip_prefix("Bearer "))
            .map(ToOwned::to_owned)
    })
    .await;
    let claims = caracal_token::UnverifiedToken::parse(&seen)
        .unwrap()
        .unverified_claims()
        .clone();
    assert_eq!(
        claims.r#use,
        Use::Resource,
        "the upstream gets a resource mandate"
    );
    refused(
        &world,
        "wrong use",
        world.call().mandate(&seen),
        "/",
        UNPROVEN,
        401,
        "invalid_token",
    )
    .await;
}

async fn mandate_provider(world: &World) -> String {
    let body = json!({"name": "Mandate", "kind": "caracal_mandate"});
    let answer = world.stack.admin().post(&world.path("/providers"), &body).await;
    answer.expect(201);
    answer.text_of("id")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_policy_does_not_grant_is_refused_at_the_mint_and_at_the_call() {
    let world = World::start(StackOptions::default()).await;
    let agent = world.agent().await;
    let lifecycle = world.stack.coordinator_as(&agent.lifecycle);
    let wide = world
        .delegation(&lifecycle, &agent.source, &agent.session, ADMIN)
        .await;
    let mint = |edge: &str, scope: &str| {
        let fields = [
            ("resource", RESOURCE),
            ("scope", scope),
            ("agent_session_id", &agent.session),
            ("delegation_edge_id", edge),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        async move { fields }
    };
    let fields = mint(&wide, ADMIN).await;
    let fields: Vec<(&str, &str)> = fields
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let denied = world.tokens.exchange(&fields).await;
    assert_eq!(
        (denied.status, denied.text_of("error").as_str()),
        (403, "access_denied"),
        "{}",
        denied.text()
    );
    assert!(denied.text().contains("role_scope_mismatch"), "{}", denied.text());
    world.denial_in(&world.zone, &denied.text_of("requestId")).await;
    let beyond_edge = mint(&agent.delegation, ADMIN).await;
    let beyond_edge: Vec<(&str, &str)> = beyond_edge
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let denied = world.tokens.exchange(&beyond_edge).await;
    assert_eq!(
        (denied.status, denied.text_of("error").as_str()),
        (403, "access_denied"),
        "{}",
        denied.text()
    );
    world.denial_in(&world.zone, &denied.text_of("requestId")).await;

    // A mandate minted while policy allowed it stops when policy no longer does.
    let mandates = [world.one_shot(&agent).await, world.one_shot(&agent).await];
    let path = world.path(&format!("/policy-sets/{}", world.policy_set));
    assert_eq!(world.stack.admin().delete(&path).await.status, 204);
    caracal_testing::wait_until(SOON, async || {
        world
            .tokens
            .exchange(&[("resource", RESOURCE), ("scope", "agent:lifecycle")])
            .await
            .status
            == 403
    })
    .await;
    refused(
        &world,
        "no active policy set",
        world.call().mandate(&mandates[0]),
        "/",
        &world.zone,
        403,
        "access_denied",
    )
    .await;
    let answer = world.call().mandate(&mandates[1]).send("/").await;
    assert!(
        answer.text().contains("no_active_policy_set"),
        "{}",
        answer.text()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_in_a_blocked_range_is_never_dialled() {
    let world = World::start(StackOptions::default()).await;
    let agent = world.agent().await;
    for address in [
        "http://169.254.169.254/latest",
        "http://0.0.0.0:80",
        "http://[fe80::1]/",
        "http://[::ffff:169.254.169.254]/",
    ] {
        let body = json!({"upstream_url": address});
        world
            .stack
            .admin()
            .patch(&world.path(&format!("/resources/{}", world.resource)), &body)
            .await
            .expect(200);
        caracal_testing::wait_until(SOON, async || {
            world
                .call()
                .mandate(&world.one_shot(&agent).await)
                .send("/")
                .await
                .status
                == 502
        })
        .await;
        drop(world.upstream.take_requests());
        let call = world.call().mandate(&world.one_shot(&agent).await);
        refused(&world, address, call, "/", &world.zone, 502, "internal_error").await;
    }
}

/// An agent of a world whose upstream is a name.
async fn renamed(world: &World, host: &str) -> Agent {
    let port = world.upstream.address().port();
    let body = json!({"upstream_url": format!("http://{host}:{port}")});
    world
        .stack
        .admin()
        .patch(&world.path(&format!("/resources/{}", world.resource)), &body)
        .await
        .expect(200);
    world.agent().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_changes_between_check_and_dial_cannot_lead_elsewhere() {
    let dns = crate::lying_dns::LyingDns::start([[127, 0, 0, 1], [169, 254, 169, 254]]).await;
    let options =
        StackOptions::default().set_for(Service::Gateway, "GATEWAY_DNS_SERVER", &dns.address().to_string());
    let world = World::start(options).await;
    let agent = renamed(&world, "rebound.test").await;
    // The first answer is harmless, every later one is not: a gateway that asked again before dialling would go there.
    let mut statuses = Vec::new();
    caracal_testing::wait_until(SOON, async || {
        let answer = world
            .call()
            .mandate(&world.one_shot(&agent).await)
            .send("/")
            .await;
        statuses.push(answer.status);
        dns.asked() > 1 && answer.status == 502
    })
    .await;
    let reached = world.upstream.take_requests().len();
    let passed = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!(
        reached, passed,
        "every 200 went to the checked address, and nothing else was dialled: {statuses:?}"
    );
    assert!(passed >= 1, "the harmless answer was used: {statuses:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_client_secret_is_refused_and_recorded() {
    let world = World::start(StackOptions::default()).await;
    let request_id = unique("secret");
    let form = format!(
        "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&zone_id={}&application_id={}&client_secret=wrong&resource={RESOURCE}&scope={READ}",
        world.zone, world.application
    );
    let headers = HeaderMap::from_iter([
        (
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        ),
        (
            http::HeaderName::from_static("x-request-id"),
            HeaderValue::try_from(&request_id).unwrap(),
        ),
    ]);
    let url = format!("{}/oauth/2/token", world.stack.sts_url());
    let answer = world
        .stack
        .http()
        .request(Method::POST, &url, headers, form)
        .await
        .unwrap();
    assert_eq!(answer.status.as_u16(), 401);
    assert_eq!(answer.headers["cache-control"], "no-store");
    world.denial_in(&world.zone, &request_id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_genuine_mandate_of_another_zone_opens_nothing_here() {
    let mut world = World::start(StackOptions::default()).await;
    let home = world.zone.clone();
    // The same resource identifier, application name and policy, in a zone of its own.
    world.configure_another_zone().await;
    let foreign_agent = world.agent().await;
    let foreign = world.one_shot(&foreign_agent).await;
    let claims = caracal_token::UnverifiedToken::parse(&foreign)
        .unwrap()
        .unverified_claims()
        .clone();
    assert_ne!(claims.zone_id.as_str(), home, "the mandate is of the other zone");
    // Relabelled for the first zone, its signature is none of that zone's keys.
    let mut parts: Vec<&str> = foreign.split('.').collect();
    let relabelled = relabel(parts[1], claims.zone_id.as_str(), &home);
    parts[1] = &relabelled;
    refused(
        &world,
        "foreign zone",
        world.call().mandate(&parts.join(".")),
        "/",
        UNPROVEN,
        401,
        "invalid_token",
    )
    .await;
    // As it is, it reaches its own zone's resource only.
    let answer = world.call().mandate(&foreign).send("/").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = world.upstream.take_requests();
    assert_eq!(
        seen[0].header("x-upstream-key"),
        Some(crate::world::OTHER_CREDENTIAL),
        "the other zone's credential, not the first one's"
    );
}

/// Claims with another zone id in them.
fn relabel(claims: &str, from: &str, to: &str) -> String {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let json = String::from_utf8(URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    URL_SAFE_NO_PAD.encode(json.replace(from, to))
}
