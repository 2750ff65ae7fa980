//! How is a secret read from Vault? By its HTTP API: from a KV store of version 2, or decrypted by the transit engine.
//!
//! `VAULT_ADDR`, `VAULT_TOKEN`, `VAULT_NAMESPACE` and `VAULT_CACERT` mean what they mean to Vault's own client.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use caracal_chassis::Secret;
use caracal_chassis::config::Reader;
use caracal_chassis::http_client::{Client as LocalClient, ClientLimits};
use caracal_egress::{Client, Request, Settings, SystemResolver};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use url::Url;

use super::{KeySource, Unreadable};

const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
/// Vault's own clients send it, and its agent may demand it.
const REQUEST: HeaderName = HeaderName::from_static("x-vault-request");

/// Where Vault is and who we are to it.
pub(super) struct Vault {
    address: Url,
    token: Secret,
    namespace: Option<String>,
    authorities: Option<PathBuf>,
}

impl Vault {
    /// Reads the settings; `None` when `VAULT_ADDR` is not set.
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let address = reader.optional_text("VAULT_ADDR")?;
        let token = reader.secret("VAULT_TOKEN");
        let namespace = reader.optional_text("VAULT_NAMESPACE");
        let authorities = reader.optional_path("VAULT_CACERT");
        let parsed = Url::parse(&address).ok().filter(|url| match url.scheme() {
            "https" => true,
            "http" => is_loopback(url),
            _ => false,
        });
        reader.check(
            parsed.is_some(),
            "VAULT_ADDR",
            "is not an https address, nor an http address of this machine",
            "write https://vault.example.com:8200",
        );
        Some(Self {
            address: parsed?,
            token,
            namespace,
            authorities,
        })
    }

    /// A client for it.
    ///
    /// # Errors
    /// When the certificate authorities cannot be used.
    pub(super) fn connect(self) -> Result<Arc<Connected>> {
        let settings = Settings {
            // The operator named the host himself.
            private_hosts: self.address.host_str().map(str::to_owned).into_iter().collect(),
            allow_loopback: is_loopback(&self.address),
            extra_ca_file: self.authorities.clone(),
        };
        let client = Client::new(Arc::new(SystemResolver), &settings).context("VAULT_CACERT")?;
        Ok(Arc::new(Connected { vault: self, client }))
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Vault, ready to be asked.
pub(super) struct Connected {
    vault: Vault,
    client: Client,
}

impl Connected {
    /// The `data` of Vault's answer.
    async fn ask(&self, path: &str, question: Option<Value>) -> Result<Value, Unreadable> {
        let address = self.vault.address.as_str().trim_end_matches('/');
        let url = Url::parse(&format!("{address}/v1/{path}"))
            .map_err(|error| Unreadable::new(error, "write <mount>/<path>"))?;
        let unreachable = |error: &dyn std::error::Error| {
            Unreadable::new(
                format!("Vault cannot be asked: {error}"),
                "check VAULT_ADDR and VAULT_CACERT",
            )
        };
        let (status, body) = if url.scheme() == "http" {
            let method = question.as_ref().map_or(Method::GET, |_| Method::POST);
            let body = question.map(|question| question.to_string()).unwrap_or_default();
            let client = LocalClient::new(ClientLimits::default());
            let answer = client.request(method, url.as_str(), self.headers()?, body).await;
            let answer = answer.map_err(|error| unreachable(&error))?;
            (answer.status, answer.body)
        } else {
            let mut request = match question {
                None => Request::get(&url),
                Some(question) => Request::post_json(&url, question.to_string()),
            };
            for (name, value) in &self.headers()? {
                request = request.header(name.clone(), value.clone());
            }
            let answer = self.client.send(request).await;
            let answer = answer.map_err(|error| unreachable(&error))?;
            (answer.status, answer.body)
        };
        match status {
            StatusCode::OK => {}
            StatusCode::FORBIDDEN => {
                return Err(Unreadable::new(
                    "Vault refuses: the token is unknown, over, or not allowed to read this",
                    "give VAULT_TOKEN a policy that allows it",
                ));
            }
            StatusCode::NOT_FOUND => {
                return Err(Unreadable::new(
                    "Vault has nothing there",
                    "check mount, path and name",
                ));
            }
            status => {
                return Err(Unreadable::new(
                    format!("Vault answered {status}"),
                    "look at Vault's log",
                ));
            }
        }
        serde_json::from_slice::<Value>(&body)
            .ok()
            .and_then(|mut answer| answer.get_mut("data").map(Value::take))
            .ok_or_else(|| Unreadable::new("the answer is not Vault's", "check VAULT_ADDR"))
    }

    fn headers(&self) -> Result<HeaderMap, Unreadable> {
        let mut headers = HeaderMap::new();
        let mut token = HeaderValue::from_str(self.vault.token.expose()).map_err(|_not_shown| {
            Unreadable::new("VAULT_TOKEN is no token", "write it without line breaks")
        })?;
        token.set_sensitive(true);
        headers.insert(TOKEN, token);
        headers.insert(REQUEST, HeaderValue::from_static("true"));
        if let Some(namespace) = &self.vault.namespace {
            let namespace = HeaderValue::from_str(namespace)
                .map_err(|error| Unreadable::new(format!("VAULT_NAMESPACE: {error}"), "write its path"))?;
            headers.insert(NAMESPACE, namespace);
        }
        Ok(headers)
    }
}

/// `<mount>/<rest>#<name>`.
fn parts<'p>(place: &'p str, form: &'static str) -> Result<(&'p str, &'p str, &'p str), Unreadable> {
    let malformed = || Unreadable::new("the reference is malformed", form);
    let (path, name) = place.split_once('#').ok_or_else(malformed)?;
    let (mount, rest) = path.split_once('/').ok_or_else(malformed)?;
    let is_plain = |text: &str| !text.is_empty() && !text.contains(['?', '%', '\\']) && !text.contains("..");
    if is_plain(mount) && is_plain(rest) && !name.is_empty() {
        Ok((mount, rest, name))
    } else {
        Err(malformed())
    }
}

/// A KV store, version 2.
pub(super) struct Kv(pub(super) Arc<Connected>);

#[async_trait]
impl KeySource for Kv {
    fn scheme(&self) -> &'static str {
        "vault-kv:"
    }

    async fn read(&self, place: &str) -> Result<Secret, Unreadable> {
        let (mount, path, name) = parts(place, "write vault-kv:<mount>/<path>#<name>")?;
        let data = self.0.ask(&format!("{mount}/data/{path}"), None).await?;
        let value = data
            .get("data")
            .and_then(|data| data.get(name))
            .and_then(Value::as_str);
        value.map(Secret::from).ok_or_else(|| {
            Unreadable::new(
                format!("the secret has no text named {name}"),
                "check the name after #",
            )
        })
    }
}

/// The transit engine: the reference holds the secret, encrypted under a key that never leaves Vault.
pub(super) struct Transit(pub(super) Arc<Connected>);

#[async_trait]
impl KeySource for Transit {
    fn scheme(&self) -> &'static str {
        "vault-transit:"
    }

    async fn read(&self, place: &str) -> Result<Secret, Unreadable> {
        let (mount, key, ciphertext) = parts(place, "write vault-transit:<mount>/<key>#vault:v1:...")?;
        let question = json!({ "ciphertext": ciphertext });
        let data = self
            .0
            .ask(&format!("{mount}/decrypt/{key}"), Some(question))
            .await?;
        let plaintext = data.get("plaintext").and_then(Value::as_str);
        let decoded = plaintext.and_then(|text| STANDARD.decode(text).ok());
        decoded
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .map(Secret::from)
            .ok_or_else(|| {
                Unreadable::new(
                    "what was encrypted is no text",
                    "encrypt the text of the setting, as base64, once",
                )
            })
    }
}
