//! What most promises start from: a zone with one application, one resource behind a real credential, a policy, and an agent
//! with a session and a delegation.

use std::time::Duration;

use caracal_testing::{
    Answer, Api, Behaviour, Stack, StackOptions, TokenClient, Upstream, wait_for, wait_until,
};
use caracal_wire::stream::{AUDIT_EVENTS, GROUP_AUDIT_INGESTOR};
use futures_util::StreamExt as _;
use futures_util::stream::iter;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use redis::AsyncCommands as _;
use redis::streams::{StreamInfoGroupsReply, StreamInfoStreamReply};
use serde_json::{Value, json};

/// The resource of the world.
pub(crate) const RESOURCE: &str = "resource://crm";
/// A scope of it that the agent holds.
pub(crate) const READ: &str = "crm:read";
/// A scope of it that the agent's role does not cover.
pub(crate) const ADMIN: &str = "crm:admin";
/// The credential that only the gateway may show the upstream.
pub(crate) const CREDENTIAL: &str = "the-real-upstream-key";
/// The same for a second zone.
pub(crate) const OTHER_CREDENTIAL: &str = "the-other-zone's-key";
/// How long anything that follows a change may take.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A stack with one configured zone.
pub(crate) struct World {
    pub(crate) stack: Stack,
    pub(crate) upstream: Upstream,
    pub(crate) zone: String,
    pub(crate) application: String,
    pub(crate) resource: String,
    pub(crate) policy_set: String,
    pub(crate) tokens: TokenClient,
}

/// An agent that may call: two sessions and the delegation between them.
#[derive(Clone)]
pub(crate) struct Agent {
    /// The application's lifecycle mandate.
    pub(crate) lifecycle: String,
    pub(crate) source: String,
    pub(crate) session: String,
    pub(crate) delegation: String,
}

impl World {
    /// Starts a stack and configures it.
    pub(crate) async fn start(options: StackOptions) -> Self {
        let stack = Stack::start(options).await;
        let upstream = Upstream::start(Behaviour::Echo).await;
        let tokens = stack.token_client("", "", "");
        let mut world = Self {
            stack,
            upstream,
            zone: String::new(),
            application: String::new(),
            resource: String::new(),
            policy_set: String::new(),
            tokens,
        };
        world.configure(CREDENTIAL).await;
        world
    }

    /// Makes a second zone that looks like the first and goes on in it.
    pub(crate) async fn configure_another_zone(&mut self) {
        self.configure(OTHER_CREDENTIAL).await;
    }

    async fn configure(&mut self, credential: &str) {
        let admin = self.stack.admin();
        let create = async |path: String, body: Value| admin.post(&path, &body).await.expect(201);
        self.zone = text(
            &create("/v1/zones".to_owned(), json!({"name": "World"})).await,
            "id",
        );
        let base = format!("/v1/zones/{}", self.zone);
        let application = json!({"name": "agent", "registration_method": "managed"});
        let application = create(format!("{base}/applications"), application).await;
        self.application = text(&application, "id");
        let config =
            json!({"auth_location": "header", "header_name": "X-Upstream-Key", "api_key": credential});
        let provider = json!({"name": "CRM", "kind": "api_key", "config_json": config});
        let provider = text(&create(format!("{base}/providers"), provider).await, "id");
        let resource = json!({
            "name": "CRM", "identifier": RESOURCE, "upstream_url": self.upstream.url(), "scopes": [READ, ADMIN],
            "credential_provider_id": provider, "operation_enforcement": "transport_uniform",
        });
        self.resource = text(&create(format!("{base}/resources"), resource).await, "id");
        self.policy_set = activate(&admin, &base, &document(&self.application)).await;
        let secret = text(&application, "client_secret");
        self.tokens = self.stack.token_client(&self.zone, &self.application, &secret);
        self.until_minted(&[("resource", RESOURCE), ("scope", "agent:lifecycle")])
            .await;
    }

    /// The zone's part of the admin API.
    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/v1/zones/{}{rest}", self.zone)
    }

    /// Lets the application use reusable mandates for the resource.
    pub(crate) async fn bind(&self) {
        let path = self.path(&format!("/resources/{}/gateway-binding", self.resource));
        let answer = self
            .stack
            .admin()
            .put(&path, &json!({"application_id": self.application}))
            .await;
        assert!(answer.status < 300, "{}", answer.text());
    }

    /// Exchanges until the STS has heard of the configuration.
    pub(crate) async fn until_minted(&self, fields: &[(&str, &str)]) -> String {
        let answer = wait_for(SOON, async || {
            let answer = self.tokens.exchange(fields).await;
            // A refusal that stays is in the log of the token service.
            (answer.status == 200).then_some(answer)
        })
        .await;
        answer.text_of("access_token")
    }

    /// A reusable mandate for the resource.
    pub(crate) async fn reusable(&self) -> String {
        self.until_minted(&[("resource", RESOURCE), ("scope", READ)])
            .await
    }

    /// Two sessions with the role's label and a delegation of the read scope between them.
    pub(crate) async fn agent(&self) -> Agent {
        let lifecycle = self.tokens.session_mandate(RESOURCE).await;
        let coordinator = self.stack.coordinator_as(&lifecycle);
        let source = self.session(&coordinator).await;
        let session = self.session(&coordinator).await;
        let delegation = self.delegation(&coordinator, &source, &session, READ).await;
        Agent {
            lifecycle,
            source,
            session,
            delegation,
        }
    }

    /// Many agents that all hold a delegation of one and the same session.
    pub(crate) async fn agents(&self, count: usize) -> Vec<Agent> {
        let first = self.agent().await;
        let (lifecycle, source) = (&first.lifecycle, &first.source);
        let coordinator = &self.stack.coordinator_as(lifecycle);
        let others = (1..count).map(async |_agent| {
            let session = self.session(coordinator).await;
            let delegation = self.delegation(coordinator, source, &session, READ).await;
            Agent {
                lifecycle: lifecycle.clone(),
                source: source.clone(),
                session,
                delegation,
            }
        });
        let others: Vec<Agent> = iter(others).buffered(8).collect().await;
        [vec![first], others].concat()
    }

    async fn session(&self, coordinator: &Api) -> String {
        let body = json!({"application_id": self.application, "labels": ["reader"], "ttl_seconds": 600});
        let answer = coordinator
            .post(&format!("/zones/{}/agents", self.zone), &body)
            .await
            .expect(201);
        text(&answer, "agent_session_id")
    }

    /// Delegates `scope` of the resource.
    pub(crate) async fn delegation(
        &self,
        coordinator: &Api,
        source: &str,
        target: &str,
        scope: &str,
    ) -> String {
        let body = json!({
            "source_session_id": source, "target_session_id": target, "issuer_application_id": self.application,
            "receiver_application_id": self.application, "scopes": [scope], "constraints": {"resources": [RESOURCE]}, "ttl_seconds": 600,
        });
        let answer = coordinator
            .post(&format!("/zones/{}/delegations", self.zone), &body)
            .await
            .expect(201);
        text(&answer, "delegation_edge_id")
    }

    /// A one-shot mandate of the agent.
    pub(crate) async fn one_shot(&self, agent: &Agent) -> String {
        let fields = [
            ("resource", RESOURCE),
            ("scope", READ),
            ("agent_session_id", &agent.session),
            ("delegation_edge_id", &agent.delegation),
        ];
        self.until_minted(&fields).await
    }

    /// A call through the first gateway.
    pub(crate) fn call(&self) -> Call<'_> {
        Call::new(self, self.stack.gateway_url())
    }

    /// A call through the gateway of this number.
    pub(crate) fn call_through(&self, gateway: usize) -> Call<'_> {
        Call::new(self, &self.stack.gateway_urls()[gateway])
    }

    /// What the ledger of `zone` holds about a request, once it holds at least `count` events.
    pub(crate) async fn evidence_in(&self, zone: &str, request_id: &str, count: usize) -> Vec<Value> {
        let path = format!("/api/audit/search?zone_id={zone}&request_id={request_id}");
        let auditor = self.stack.auditor();
        wait_for(SOON, async || {
            let found = auditor.get(&path).await.expect(200);
            let events: Vec<Value> = found["events"].as_array().cloned().unwrap_or_default();
            (events.len() >= count).then(|| events.into_iter().map(|found| found["Event"].clone()).collect())
        })
        .await
    }

    /// Waits until the ledger of `zone` holds a denial of the request.
    pub(crate) async fn denial_in(&self, zone: &str, request_id: &str) {
        self.event_in(zone, request_id, |event| event["decision"] == "deny")
            .await;
    }

    /// Waits until the ledger of `zone` holds such an event of the request.
    pub(crate) async fn event_in(&self, zone: &str, request_id: &str, is_wanted: impl Fn(&Value) -> bool) {
        wait_until(SOON, async || {
            let events = self.evidence_in(zone, request_id, 1).await;
            events.iter().any(&is_wanted)
        })
        .await;
    }

    /// The same in the world's zone.
    pub(crate) async fn evidence(&self, request_id: &str, count: usize) -> Vec<Value> {
        self.evidence_in(&self.zone, request_id, count).await
    }

    /// Checks the zone's hash chain from its first link to its head.
    pub(crate) async fn assert_chain_verifies(&self) -> Value {
        let report = self
            .stack
            .auditor()
            .get(&format!("/api/audit/verify?zone_id={}", self.zone))
            .await
            .expect(200);
        assert_eq!(report["ok"], true, "the chain is wrong: {report}");
        report
    }

    /// Waits until what the gateways and token services have recorded is delivered, and all that was delivered is in the
    /// ledger.
    pub(crate) async fn until_settled(&self) {
        wait_until(SOON, async || {
            self.recorded().await == 0 && self.is_ingested().await
        })
        .await;
        self.assert_chain_verifies().await;
    }

    /// How many revocations the first gateway knows of.
    pub(crate) async fn revocations_known(&self) -> i64 {
        count(&self.stack.metrics(&self.stack.gateways[0]).await["revocations_active"])
    }

    /// Events in the spools.
    async fn recorded(&self) -> i64 {
        let mut events = 0;
        for gateway in &self.stack.gateways {
            events += count(&self.stack.metrics(gateway).await["audit_queue_depth"]);
        }
        for sts in &self.stack.sts {
            events += count(&self.stack.metrics(sts).await["sts"]["audit_replay_pending"]);
        }
        events
    }

    /// Whether the audit service has taken and stored every event on the bus: it acknowledges what it has stored.
    async fn is_ingested(&self) -> bool {
        let redis = self.stack.redis.as_ref().expect("a stack with Redis");
        let mut connection = redis.connection().await;
        let stream: StreamInfoStreamReply = connection.xinfo_stream(AUDIT_EVENTS).await.expect("a stream");
        let groups: StreamInfoGroupsReply = connection.xinfo_groups(AUDIT_EVENTS).await.expect("its groups");
        groups
            .groups
            .iter()
            .find(|group| group.name == GROUP_AUDIT_INGESTOR)
            .is_some_and(|group| group.pending == 0 && group.last_delivered_id == stream.last_generated_id)
    }
}

fn count(metric: &Value) -> i64 {
    metric.as_i64().unwrap_or_else(|| panic!("{metric} is no count"))
}

/// A request through a gateway.
pub(crate) struct Call<'w> {
    world: &'w World,
    base: String,
    method: Method,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl<'w> Call<'w> {
    fn new(world: &'w World, base: &str) -> Self {
        let call = Self {
            world,
            base: base.to_owned(),
            method: Method::GET,
            headers: HeaderMap::new(),
            body: Vec::new(),
        };
        call.header("x-caracal-resource", RESOURCE)
    }

    pub(crate) fn mandate(self, mandate: &str) -> Self {
        self.header("authorization", &format!("Bearer {mandate}"))
    }

    pub(crate) fn request_id(self, id: &str) -> Self {
        self.header("x-request-id", id)
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.insert(
            HeaderName::try_from(name).unwrap(),
            HeaderValue::try_from(value).unwrap(),
        );
        self
    }

    pub(crate) fn post(mut self, body: Vec<u8>) -> Self {
        self.method = Method::POST;
        self.body = body;
        self
    }

    pub(crate) async fn send(self, path: &str) -> Answer {
        self.try_send(path).await.expect("an answer")
    }

    /// As `send`; a connection that breaks is no answer.
    pub(crate) async fn try_send(self, path: &str) -> Option<Answer> {
        let url = format!("{}{path}", self.base);
        let answer = self
            .world
            .stack
            .http()
            .request(self.method, &url, self.headers, self.body)
            .await
            .ok()?;
        Some(Answer {
            status: answer.status.as_u16(),
            headers: answer.headers,
            body: answer.body,
        })
    }
}

/// Creates and activates a policy set of one document; gives the set's id.
pub(crate) async fn activate(admin: &Api, base: &str, document: &str) -> String {
    let set = text(
        &admin
            .post(&format!("{base}/policy-sets"), &json!({"name": "main"}))
            .await
            .expect(201),
        "id",
    );
    activate_in(admin, base, &set, document).await;
    set
}

/// Puts a version of `set` in force that is this one document.
pub(crate) async fn activate_in(admin: &Api, base: &str, set: &str, document: &str) {
    let policy = json!({"name": unique("grants"), "content": document});
    let policy = admin.post(&format!("{base}/policies"), &policy).await.expect(201);
    let manifest = json!({"manifest": [{"policy_version_id": policy["version_id"]}]});
    let version = admin
        .post(&format!("{base}/policy-sets/{set}/versions"), &manifest)
        .await
        .expect(201);
    let activation = json!({"version_id": version["version_id"]});
    admin
        .post(&format!("{base}/policy-sets/{set}/activate"), &activation)
        .await
        .expect(202);
}

/// The data document of the world: the label `reader` covers reading, and so does the reusable mandate.
pub(crate) fn document(application: &str) -> String {
    let grants = json!({RESOURCE: {"application": "agent", "roles": {"reader": [READ]}, "ambient": [READ]}});
    let apps = json!({"agent": application});
    format!(
        "# caracal:data-document\npackage caracal.authz\nimport rego.v1\n\napp_ids := {apps}\ngrants := {grants}\n"
    )
}

/// A text member of a JSON object.
pub(crate) fn text(value: &Value, member: &str) -> String {
    value[member]
        .as_str()
        .unwrap_or_else(|| panic!("no {member} in {value}"))
        .to_owned()
}

/// A request id nobody else uses.
pub(crate) fn unique(name: &str) -> String {
    format!("{name}-{}", uuid::Uuid::new_v4())
}
