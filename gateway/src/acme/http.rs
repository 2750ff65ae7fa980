//! How is the authority called? By the client of providers: TLS, limits on everything, and no other host than the authority's.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caracal_egress::{Client, Request, Resolve, Settings, TrustError};
use http_body_util::BodyExt;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use url::Url;

/// Longest wait for an answer. An authority may be slow, and nobody waits for it but its own task.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Longest answer: a chain of certificates.
const ANSWER_BYTES_MAX: usize = 256 << 10;

/// Calls one authority.
#[derive(Clone, Debug)]
pub(super) struct AuthorityClient {
    client: Client,
    /// The host of the directory; what the directory names on others is not called.
    hosts: Arc<[String]>,
}

impl AuthorityClient {
    /// A client for the authority of this directory. The operator has named its host, so it may have any address.
    ///
    /// # Errors
    /// [`TrustError`] when `ca_file` cannot be used.
    pub(super) fn new(
        directory: &Url,
        ca_file: Option<PathBuf>,
        resolver: Arc<dyn Resolve>,
    ) -> Result<Self, TrustError> {
        let hosts: Vec<_> = directory.host_str().map(str::to_owned).into_iter().collect();
        let settings = Settings {
            private_hosts: hosts.clone(),
            allow_loopback: true,
            extra_ca_file: ca_file,
        };
        Ok(Self {
            client: Client::new(resolver, &settings)?,
            hosts: hosts.into(),
        })
    }

    async fn send(self, request: http::Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Error> {
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await;
        let url = Url::parse(&head.uri.to_string()).map_err(other)?;
        let mut call = Request::new(head.method, &url, body.to_bytes())
            .only_to(&self.hosts)
            .within(TIMEOUT)
            .at_most(ANSWER_BYTES_MAX);
        for (name, value) in &head.headers {
            call = call.header(name.clone(), value.clone());
        }
        let answer = self.client.send(call).await.map_err(other)?;
        let (mut parts, ()) = http::Response::new(()).into_parts();
        parts.status = answer.status;
        parts.headers = answer.headers;
        Ok(BytesResponse {
            parts,
            body: Box::new(answer.body),
        })
    }
}

impl HttpClient for AuthorityClient {
    fn request(
        &self,
        request: http::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        Box::pin(self.clone().send(request))
    }
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Other(Box::new(error))
}
