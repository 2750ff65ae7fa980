//! What is in the demo zone? One application, one resource behind a real credential, and the policy that joins them.

use anyhow::Result;
use serde_json::{Value, json};

use super::admin::{Admin, text};
use super::state::{DemoCredential, Home};

/// The demo resource.
pub(crate) const RESOURCE: &str = "resource://demo";
/// The scope that the printed commands ask for.
pub(crate) const SCOPE: &str = "demo:read";
const WRITE_SCOPE: &str = "demo:write";
/// The header in which the upstream wants its credential.
const CREDENTIAL_HEADER: &str = "X-Demo-Key";
/// Where the demo application's secret is remembered.
const CREDENTIAL_FILE: &str = "demo.json";

/// Makes whatever of the demo is missing, and points the resource to `upstream`. Safe to repeat.
///
/// # Errors
/// When the control plane refuses a step.
pub(crate) async fn ensure(admin: &Admin, home: &Home, upstream: &str) -> Result<DemoCredential> {
    let zone = ensure_zone(admin).await?;
    let base = format!("/v1/zones/{zone}");
    let credential = ensure_application(admin, home, &zone, &base).await?;
    let provider = ensure_provider(admin, &base).await?;
    let resource = ensure_resource(admin, &base, &provider, upstream).await?;
    admin
        .put(
            &format!("{base}/resources/{resource}/gateway-binding"),
            &json!({"application_id": credential.application_id}),
        )
        .await?;
    ensure_policy(admin, &base, &policy_document(&credential.application_id)).await?;
    Ok(credential)
}

async fn ensure_zone(admin: &Admin) -> Result<String> {
    let zone = match admin.find("/v1/zones?limit=500", "slug", "demo").await? {
        Some(zone) => zone,
        None => {
            admin
                .post("/v1/zones", &json!({"name": "Demo", "slug": "demo"}))
                .await?
        }
    };
    text(&zone, "id")
}

/// The secret is shown once, at creation; when it is not remembered here, a new one is made.
async fn ensure_application(admin: &Admin, home: &Home, zone: &str, base: &str) -> Result<DemoCredential> {
    let existing = admin
        .find(&format!("{base}/applications"), "name", "demo-agent")
        .await?;
    let remembered: Option<DemoCredential> = home.read(CREDENTIAL_FILE)?;
    let created = if let Some(application) = existing {
        let id = text(&application, "id")?;
        if let Some(credential) = remembered.filter(|known| known.application_id == id) {
            return Ok(credential);
        }
        admin
            .post(&format!("{base}/applications/{id}/rotate-secret"), &json!({}))
            .await?
    } else {
        let body = json!({"name": "demo-agent", "registration_method": "managed"});
        admin.post(&format!("{base}/applications"), &body).await?
    };
    let credential = DemoCredential {
        zone_id: zone.to_owned(),
        application_id: text(&created, "id")?,
        client_secret: text(&created, "client_secret")?,
    };
    home.write(CREDENTIAL_FILE, &credential)?;
    Ok(credential)
}

async fn ensure_provider(admin: &Admin, base: &str) -> Result<String> {
    let path = format!("{base}/providers");
    let identifier = "provider://demo-upstream";
    let provider = if let Some(provider) = admin.find(&path, "identifier", identifier).await? {
        provider
    } else {
        let config = json!({
            "auth_location": "header",
            "header_name": CREDENTIAL_HEADER,
            "api_key": "demo-upstream-key",
            "allowed_token_hosts": ["127.0.0.1"],
        });
        let body = json!({"name": "Demo upstream", "identifier": identifier, "kind": "api_key", "config_json": config});
        admin.post(&path, &body).await?
    };
    text(&provider, "id")
}

async fn ensure_resource(admin: &Admin, base: &str, provider: &str, upstream: &str) -> Result<String> {
    let path = format!("{base}/resources");
    let Some(resource) = admin.find(&path, "identifier", RESOURCE).await? else {
        let body = json!({
            "name": "Demo",
            "identifier": RESOURCE,
            "upstream_url": upstream,
            "scopes": [SCOPE, WRITE_SCOPE],
            "credential_provider_id": provider,
            "operation_enforcement": "transport_uniform",
        });
        return text(&admin.post(&path, &body).await?, "id");
    };
    let id = text(&resource, "id")?;
    if resource.get("upstream_url").and_then(Value::as_str) != Some(upstream) {
        admin
            .patch(&format!("{path}/{id}"), &json!({"upstream_url": upstream}))
            .await?;
    }
    Ok(id)
}

async fn ensure_policy(admin: &Admin, base: &str, document: &str) -> Result<()> {
    let policies = format!("{base}/policies");
    let sets = format!("{base}/policy-sets");
    let version = match admin.find(&policies, "name", "demo-grants").await? {
        None => text(
            &admin
                .post(&policies, &json!({"name": "demo-grants", "content": document}))
                .await?,
            "version_id",
        )?,
        Some(policy) => {
            let path = format!("{policies}/{}", text(&policy, "id")?);
            let versions = admin.get(&path).await?;
            let newest = versions
                .get("versions")
                .and_then(|all| all.get(0))
                .cloned()
                .unwrap_or_default();
            if newest.get("content").and_then(Value::as_str) == Some(document) {
                text(&newest, "id")?
            } else {
                text(
                    &admin
                        .post(&format!("{path}/versions"), &json!({"content": document}))
                        .await?,
                    "version_id",
                )?
            }
        }
    };
    let set = match admin.find(&sets, "name", "demo").await? {
        Some(set) => set,
        None => admin.post(&sets, &json!({"name": "demo"})).await?,
    };
    let path = format!("{sets}/{}", text(&set, "id")?);
    if let Some(active) = set.get("active_version_id").and_then(Value::as_str) {
        let current = admin.get(&format!("{path}/versions/{active}")).await?;
        let policies = current
            .get("policies")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        if policies == [Value::String(version.clone())] {
            return Ok(());
        }
    }
    let manifest = json!({"manifest": [{"policy_version_id": version}]});
    let set_version = text(
        &admin.post(&format!("{path}/versions"), &manifest).await?,
        "version_id",
    )?;
    admin
        .post(&format!("{path}/activate"), &json!({"version_id": set_version}))
        .await?;
    Ok(())
}

/// The demo's data document. The published clients label their sessions with the application's id unless told otherwise.
fn policy_document(application: &str) -> String {
    let scopes = json!([SCOPE, WRITE_SCOPE]);
    let grants = json!({RESOURCE: {
        "application": "demo-agent",
        "roles": {application: scopes, "demo": scopes},
        "ambient": scopes,
    }});
    let apps = json!({"demo-agent": application});
    format!(
        "# caracal:data-document\npackage caracal.authz\nimport rego.v1\n\napp_ids := {apps}\ngrants := {grants}\n"
    )
}
