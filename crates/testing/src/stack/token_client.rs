//! How does an application of a test get its mandates?

use bytes::Bytes;
use caracal_chassis::http_client::Client;
use form_urlencoded::Serializer;
use http::{HeaderMap, HeaderValue, Method, header};

use super::api::Answer;

/// The grant of RFC 8693 section 2.1, the only one there is.
const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// One application, with its secret, at the token service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TokenClient {
    client: Client,
    url: String,
    zone: String,
    application: String,
    client_secret: String,
}

impl TokenClient {
    /// The application `application` of `zone` at the token service `sts_url`.
    pub fn new(client: Client, sts_url: &str, zone: &str, application: &str, client_secret: &str) -> Self {
        Self {
            client,
            url: format!("{sts_url}/oauth/2/token"),
            zone: zone.to_owned(),
            application: application.to_owned(),
            client_secret: client_secret.to_owned(),
        }
    }

    /// The same application at another token service.
    #[must_use]
    pub fn at(mut self, sts_url: &str) -> Self {
        self.url = format!("{sts_url}/oauth/2/token");
        self
    }

    /// An exchange with the application's credentials and these fields.
    pub async fn exchange(&self, fields: &[(&str, &str)]) -> Answer {
        self.send(self.form(fields)).await
    }

    /// The same; a connection that breaks is no answer.
    pub async fn try_exchange(&self, fields: &[(&str, &str)]) -> Option<Answer> {
        let content_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, content_type)]);
        let answer = self
            .client
            .request(Method::POST, &self.url, headers, self.form(fields))
            .await
            .ok()?;
        Some(Answer {
            status: answer.status.as_u16(),
            headers: answer.headers,
            body: answer.body,
        })
    }

    fn form(&self, fields: &[(&str, &str)]) -> String {
        let credentials = [
            ("grant_type", GRANT),
            ("zone_id", &self.zone),
            ("application_id", &self.application),
            ("client_secret", &self.client_secret),
        ];
        let mut form = Serializer::new(String::new());
        form.extend_pairs(credentials).extend_pairs(fields);
        form.finish()
    }

    /// Any body, as a form.
    pub async fn send(&self, form: impl Into<Bytes>) -> Answer {
        let content_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, content_type)]);
        Answer::of(&self.client, Method::POST, &self.url, headers, form.into()).await
    }

    /// A reusable mandate with the scope that opens governed sessions.
    ///
    /// # Panics
    /// When it is refused, with the answer.
    pub async fn session_mandate(&self, resource: &str) -> String {
        let answer = self
            .exchange(&[("resource", resource), ("scope", "agent:lifecycle")])
            .await;
        answer.expect(200);
        answer.text_of("access_token")
    }

    /// A mandate for one call through the gateway, within a governed session and a delegation.
    ///
    /// # Panics
    /// When it is refused, with the answer.
    pub async fn gateway_mandate(
        &self,
        resource: &str,
        scope: &str,
        session: &str,
        delegation: &str,
    ) -> String {
        let fields = [
            ("resource", resource),
            ("scope", scope),
            ("agent_session_id", session),
            ("delegation_edge_id", delegation),
        ];
        let answer = self.exchange(&fields).await;
        answer.expect(200);
        answer.text_of("access_token")
    }
}
