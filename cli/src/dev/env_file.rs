//! What does `caracal dev` tell the shell? `dev.env`, and the commands of a first protected call.

use std::fmt::Write;
use std::path::Path;

use super::demo;
use super::ports::Ports;
use super::state::{DemoCredential, Keys};

/// The contents of `dev.env` in shell syntax. It holds secrets: write it for the owner only.
pub(crate) fn render(ports: &Ports, keys: &Keys, demo: &DemoCredential, redis_url: &str) -> String {
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let values = [
        ("CARACAL_API_URL", url(ports.control)),
        ("CARACAL_STS_URL", url(ports.sts)),
        ("CARACAL_ISSUER_URL", url(ports.sts)),
        ("CARACAL_GATEWAY_URL", url(ports.gateway)),
        ("CARACAL_COORDINATOR_URL", url(ports.coordinator)),
        ("CARACAL_AUDIT_URL", url(ports.audit)),
        ("CARACAL_REDIS_URL", redis_url.to_owned()),
        ("CARACAL_ADMIN_TOKEN", keys.admin_token.clone()),
        ("CARACAL_COORDINATOR_TOKEN", keys.coordinator_token.clone()),
        ("CARACAL_STREAMS_HMAC_KEY", keys.streams_hmac_key.clone()),
        ("CARACAL_ZONE_ID", demo.zone_id.clone()),
        ("CARACAL_APPLICATION_ID", demo.application_id.clone()),
        ("CARACAL_APP_CLIENT_SECRET", demo.client_secret.clone()),
        ("CARACAL_E2E_RESOURCE", demo::RESOURCE.to_owned()),
        ("CARACAL_E2E_SCOPE", demo::SCOPE.to_owned()),
        ("CARACAL_E2E_UPSTREAM_URL", url(ports.upstream)),
    ];
    values.iter().fold(String::new(), |mut text, (name, value)| {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "export {name}={}", shell_quote(value));
        text
    })
}

/// What is printed once everything is ready.
pub(crate) fn first_call(env_file: &Path) -> String {
    format!(
        r#"
Caracal is ready. In another shell:

  . {env}

  # 1. mint a reusable mandate for the demo resource
  MANDATE=$(curl -s "$CARACAL_STS_URL/oauth/2/token" \
    -d grant_type=urn:ietf:params:oauth:grant-type:token-exchange -d zone_id="$CARACAL_ZONE_ID" \
    -d application_id="$CARACAL_APPLICATION_ID" -d client_secret="$CARACAL_APP_CLIENT_SECRET" \
    -d resource="$CARACAL_E2E_RESOURCE" -d scope="$CARACAL_E2E_SCOPE" | sed 's/.*"access_token":"\([^"]*\)".*/\1/')

  # 2. call through the gateway: the upstream sees its own credential, never the mandate
  curl -s "$CARACAL_GATEWAY_URL/hello" -H "Authorization: Bearer $MANDATE" \
    -H "X-Caracal-Resource: $CARACAL_E2E_RESOURCE" -H "X-Request-Id: my-first-call"

  # 3. read what was recorded about it
  curl -s "$CARACAL_API_URL/v1/zones/$CARACAL_ZONE_ID/audit/by-request/my-first-call" \
    -H "Authorization: Bearer $CARACAL_ADMIN_TOKEN"

Ctrl-C stops everything.
"#,
        env = env_file.display()
    )
}

fn shell_quote(value: &str) -> String {
    if !value.is_empty()
        && value
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-.:/".contains(&byte))
    {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', r"'\''"))
}
