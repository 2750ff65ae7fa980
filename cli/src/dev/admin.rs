//! How does `caracal dev` speak to the control plane? Like anybody else: over its API, with the admin token.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use caracal_chassis::http_client::{Client, ClientLimits};
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::Value;

/// A small client of the admin API.
#[derive(Debug)]
pub(crate) struct Admin {
    client: Client,
    base: String,
    token: String,
}

impl Admin {
    /// A client of the control plane at `base`.
    pub(crate) fn new(base: String, token: String) -> Self {
        Self {
            client: Client::new(ClientLimits {
                timeout: Duration::from_secs(30),
                response_bytes: 4 << 20,
                ..ClientLimits::default()
            }),
            base,
            token,
        }
    }

    /// `GET`, expecting success.
    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        self.send(Method::GET, path, None).await
    }

    /// `POST`, expecting success.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.send(Method::POST, path, Some(body)).await
    }

    /// `PATCH`, expecting success.
    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Result<Value> {
        self.send(Method::PATCH, path, Some(body)).await
    }

    /// `PUT`, expecting success.
    pub(crate) async fn put(&self, path: &str, body: &Value) -> Result<Value> {
        self.send(Method::PUT, path, Some(body)).await
    }

    /// The item of a list whose `field` is `value`.
    pub(crate) async fn find(&self, path: &str, field: &str, value: &str) -> Result<Option<Value>> {
        let list = self.get(path).await?;
        let items = list
            .get("items")
            .and_then(Value::as_array)
            .with_context(|| format!("GET {path}: no items"))?;
        Ok(items
            .iter()
            .find(|item| item.get(field).and_then(Value::as_str) == Some(value))
            .cloned())
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let url = format!("{}{path}", self.base);
        let mut headers = HeaderMap::new();
        headers.insert(
            header::AUTHORIZATION,
            HeaderValue::try_from(format!("Bearer {}", self.token))?,
        );
        let body = match body {
            Some(body) => {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                serde_json::to_vec(body)?
            }
            None => Vec::new(),
        };
        let response = self
            .client
            .request(method.clone(), &url, headers, body)
            .await
            .with_context(|| format!("{method} {path}"))?;
        if !response.status.is_success() {
            bail!(
                "{method} {path} answered {}: {}",
                response.status,
                String::from_utf8_lossy(&response.body)
            );
        }
        if response.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&response.body)
            .with_context(|| format!("{method} {path}: the answer is not JSON"))
    }
}

/// A string member of an answer.
pub(crate) fn text(value: &Value, field: &str) -> Result<String> {
    value
        .get(field)
        .and_then(Value::as_str)
        .map(ToOwned::to_owned)
        .with_context(|| format!("the answer has no {field}"))
}
