//! How does a test call a JSON API and look at the answer?

use bytes::Bytes;
use caracal_chassis::http_client::Client;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use serde_json::Value;

/// A JSON API as one caller sees it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Api {
    client: Client,
    base_url: String,
    headers: HeaderMap,
}

/// An answer of any status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Api {
    /// The API at `base_url`, as the holder of `bearer`.
    pub fn new(client: Client, base_url: &str, bearer: Option<&str>) -> Self {
        let api = Self {
            client,
            base_url: base_url.trim_end_matches('/').to_owned(),
            headers: HeaderMap::new(),
        };
        match bearer {
            Some(bearer) => api.with_header("authorization", &format!("Bearer {bearer}")),
            None => api,
        }
    }

    /// The same with one more header on every request.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        let name = HeaderName::try_from(name).expect("a header's name");
        self.headers
            .insert(name, HeaderValue::try_from(value).expect("a header's value"));
        self
    }

    /// GET `path`, which begins with a slash and may have a query.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await
    }

    /// POST a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, Some(body)).await
    }

    /// PUT a JSON body.
    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PUT, path, Some(body)).await
    }

    /// PATCH a JSON body.
    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PATCH, path, Some(body)).await
    }

    /// DELETE `path`.
    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None).await
    }

    /// Any request with a JSON body.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let mut headers = self.headers.clone();
        let body = match body {
            Some(body) => {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                Bytes::from(body.to_string())
            }
            None => Bytes::new(),
        };
        let url = format!("{}{path}", self.base_url);
        Answer::of(&self.client, method, &url, headers, body).await
    }
}

impl Answer {
    /// Sends a request and waits for the whole answer.
    ///
    /// # Panics
    /// When there is none, with the URL and the reason.
    pub(super) async fn of(
        client: &Client,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Self {
        match client.request(method.clone(), url, headers, body).await {
            Ok(answer) => Self {
                status: answer.status.as_u16(),
                headers: answer.headers,
                body: answer.body,
            },
            Err(error) => panic!("{method} {url}: {error}: {:?}", std::error::Error::source(&error)),
        }
    }

    /// The body as JSON; null when it is not.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON, after checking the status.
    ///
    /// # Panics
    /// When the status is another one, with the body.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        self.json()
    }

    /// The text of a member of the body.
    ///
    /// # Panics
    /// When there is no such text, with the body.
    #[track_caller]
    pub fn text_of(&self, member: &str) -> String {
        match self.json().get(member).and_then(Value::as_str) {
            Some(text) => text.to_owned(),
            None => panic!("no text {member:?} in {} {}", self.status, self.text()),
        }
    }
}
