//! What every scenario works in: one zone with an application, a resource behind a credential, a policy, a control key, and
//! agents that hold delegations.

use caracal_testing::{Api, IdentityProvider, Service, Stack, StackOptions, TokenClient, test_authority};
use caracal_wire::sts::ID_TOKEN_TYPE;
use serde_json::{Value, json};

/// The resource that is called.
pub(crate) const RESOURCE: &str = "resource://crm";
/// What the agents may do with it.
pub(crate) const READ: &str = "crm:read";
/// The resource that stands for the remote control endpoint.
pub(crate) const CONTROL: &str = "caracal-control";
/// What the control key may do there.
pub(crate) const CONTROL_READ: &str = "control:app:read";

/// A running stack with one configured zone.
pub(crate) struct World {
    pub(crate) stack: Stack,
    pub(crate) zone: String,
    pub(crate) application: String,
    pub(crate) policy_set: String,
    /// The application.
    pub(crate) tokens: TokenClient,
    pub(crate) client_secret: String,
    /// The control key: application and secret.
    pub(crate) control_key: (String, String),
}

/// A session that holds a delegation.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    pub(crate) session: String,
    pub(crate) delegation: String,
}

/// The options of every scenario: no budget stands in the way of the load.
pub(crate) fn options() -> StackOptions {
    let authority = test_authority().display().to_string();
    StackOptions::default()
        .set("LOG_LEVEL", "warn")
        .set_for(Service::Sts, "STS_MINT_RATE_LIMIT_PER_MIN", "10000000")
        // The issuer of ID tokens is at this machine's own address, which only mode dev lets a service call. All keys are
        // given, so nothing else is different.
        .set_for(Service::Sts, "CARACAL_MODE", "dev")
        .set_for(Service::Sts, "INSECURE_LOOPBACK_EGRESS", "true")
        .set_for(Service::Sts, "CARACAL_TLS_EXTRA_CA_FILE", &authority)
}

impl World {
    /// Starts a stack and configures its zone. `upstream` is where the resource is.
    pub(crate) async fn start(options: StackOptions, upstream: &str) -> Self {
        let stack = Stack::start(options).await;
        let admin = stack.admin();
        let zone = create(&admin, "/v1/zones", &json!({"name": "Bench"})).await;
        let zone = text(&zone, "id");
        let base = format!("/v1/zones/{zone}");
        let application = json!({"name": "agent", "registration_method": "managed"});
        let application = create(&admin, &format!("{base}/applications"), &application).await;
        let config = json!({"auth_location": "header", "header_name": "X-Upstream-Key", "api_key": "key"});
        let provider = json!({"name": "CRM", "kind": "api_key", "config_json": config});
        let provider = create(&admin, &format!("{base}/providers"), &provider).await;
        let resource = json!({
            "name": "CRM", "identifier": RESOURCE, "upstream_url": upstream, "scopes": [READ],
            "credential_provider_id": text(&provider, "id"), "operation_enforcement": "transport_uniform",
        });
        let resource = text(
            &create(&admin, &format!("{base}/resources"), &resource).await,
            "id",
        );
        let binding = format!("{base}/resources/{resource}/gateway-binding");
        let bound = admin
            .put(&binding, &json!({"application_id": text(&application, "id")}))
            .await;
        assert!(bound.status < 300, "{}", bound.text());
        let control = json!({"name": "Control", "identifier": CONTROL, "scopes": [CONTROL_READ]});
        create(&admin, &format!("{base}/resources"), &control).await;
        let traits = [
            "control:invoke".to_owned(),
            format!("control:scope:{CONTROL_READ}"),
        ];
        let key = json!({"name": "key", "registration_method": "managed", "traits": traits});
        let key = create(&admin, &format!("{base}/applications"), &key).await;
        let set = create(&admin, &format!("{base}/policy-sets"), &json!({"name": "main"})).await;
        let application_id = text(&application, "id");
        let client_secret = text(&application, "client_secret");
        let world = Self {
            tokens: stack.token_client(&zone, &application_id, &client_secret),
            stack,
            zone,
            policy_set: text(&set, "id"),
            client_secret,
            control_key: (text(&key, "id"), text(&key, "client_secret")),
            application: application_id,
        };
        let version = world.policy_version("grants", &[READ]).await;
        world.activate(&version).await;
        world.lifecycle().await;
        world
    }

    /// Makes a version of the zone's policy in which the agents' role covers `scopes`, of a document called `name`; gives its id.
    pub(crate) async fn policy_version(&self, name: &str, scopes: &[&str]) -> String {
        let admin = self.stack.admin();
        let grants = if scopes.is_empty() {
            json!({})
        } else {
            json!({RESOURCE: {"application": "agent", "roles": {"agent": scopes}, "ambient": scopes}})
        };
        let apps = json!({"agent": self.application});
        let content = format!(
            "# caracal:data-document\npackage caracal.authz\nimport rego.v1\n\napp_ids := {apps}\ngrants := {grants}\n"
        );
        let base = format!("/v1/zones/{}", self.zone);
        let policy = json!({"name": name, "content": content});
        let policy = create(&admin, &format!("{base}/policies"), &policy).await;
        let manifest = json!({"manifest": [{"policy_version_id": text(&policy, "version_id")}]});
        let versions = format!("{base}/policy-sets/{}/versions", self.policy_set);
        text(&create(&admin, &versions, &manifest).await, "version_id")
    }

    /// Puts a version in force.
    pub(crate) async fn activate(&self, version: &str) {
        let path = format!("/v1/zones/{}/policy-sets/{}/activate", self.zone, self.policy_set);
        let answer = self
            .stack
            .admin()
            .post(&path, &json!({"version_id": version}))
            .await;
        answer.expect(202);
    }

    /// A mandate that opens sessions, once the token service has heard of the configuration.
    pub(crate) async fn lifecycle(&self) -> String {
        let fields = [("resource", RESOURCE), ("scope", "agent:lifecycle")];
        let attempt = async || {
            let answer = self.tokens.exchange(&fields).await;
            (answer.status == 200).then(|| answer.text_of("access_token"))
        };
        caracal_testing::wait_for(std::time::Duration::from_secs(20), attempt).await
    }

    /// A chain of sessions, each of which holds a delegation of the one before it; gives the last.
    pub(crate) async fn agent(&self, coordinator: &Api, hops: usize) -> Agent {
        let source = self.session(coordinator).await;
        self.agent_below(coordinator, &source, hops).await
    }

    /// The same, beginning with a session that exists.
    pub(crate) async fn agent_below(&self, coordinator: &Api, source: &str, hops: usize) -> Agent {
        let mut session = source.to_owned();
        let mut delegation = String::new();
        for left in (1..=hops).rev() {
            let next = self.session(coordinator).await;
            delegation = self.delegation(coordinator, &session, &next, left).await;
            session = next;
        }
        Agent { session, delegation }
    }

    /// A new session.
    pub(crate) async fn session(&self, coordinator: &Api) -> String {
        let body = json!({"application_id": self.application, "labels": ["agent"], "ttl_seconds": 3_600});
        let session = create(coordinator, &format!("/zones/{}/agents", self.zone), &body).await;
        text(&session, "agent_session_id")
    }

    /// A new delegation of the resource, which `hops` more may follow.
    pub(crate) async fn delegation(&self, coordinator: &Api, from: &str, to: &str, hops: usize) -> String {
        let body = json!({
            "source_session_id": from, "target_session_id": to, "issuer_application_id": self.application,
            "receiver_application_id": self.application, "scopes": [READ],
            "constraints": {"resources": [RESOURCE], "max_hops": hops},
            // A child ends before its parent, however long it took to make.
            "ttl_seconds": 3_000 + 60 * hops,
        });
        let edge = create(coordinator, &format!("/zones/{}/delegations", self.zone), &body).await;
        text(&edge, "delegation_edge_id")
    }

    /// A reusable mandate for the resource.
    pub(crate) async fn reusable(&self) -> String {
        let fields = [("resource", RESOURCE), ("scope", READ)];
        let answer = self.tokens.exchange(&fields).await;
        answer.expect(200);
        answer.text_of("access_token")
    }

    /// An issuer whose ID tokens the zone takes, and the token service has heard of it.
    pub(crate) async fn believed_issuer(&self) -> IdentityProvider {
        let issuer = IdentityProvider::start().await;
        let body = json!({
            "issuer": IdentityProvider::ISSUER, "jwks_url": issuer.url("/keys"), "audience": IdentityProvider::AUDIENCE,
        });
        let list = format!("/v1/zones/{}/subject-issuers", self.zone);
        create(&self.stack.admin(), &list, &body).await;
        if let Some(redis) = &self.stack.redis {
            // Else no ID token is taken in the first minute of a Redis, which may have forgotten uses.
            redis.remember_for_long().await;
        }
        caracal_testing::wait_until(std::time::Duration::from_secs(20), async || {
            let token = issuer.token("user-1");
            let fields = [
                ("subject_token", token.as_str()),
                ("subject_token_type", ID_TOKEN_TYPE),
            ];
            self.tokens.exchange(&fields).await.status == 200
        })
        .await;
        issuer
    }

    /// A mandate for one call of an agent.
    pub(crate) async fn one_shot(&self, agent: &Agent) -> String {
        let (session, delegation) = (&agent.session, &agent.delegation);
        self.tokens
            .gateway_mandate(RESOURCE, READ, session, delegation)
            .await
    }
}

async fn create(api: &Api, path: &str, body: &Value) -> Value {
    let answer = api.post(path, body).await;
    assert!(
        (200..300).contains(&answer.status),
        "POST {path}: {} {}",
        answer.status,
        answer.text()
    );
    answer.json()
}

/// A text member of an answer.
fn text(value: &Value, member: &str) -> String {
    let found = value.get(member).and_then(Value::as_str);
    assert!(found.is_some(), "no {member} in {value}");
    found.unwrap_or_default().to_owned()
}
