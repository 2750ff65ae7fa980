//! Requests for tokens, answered without the router.

use std::pin::pin;
use std::sync::Arc;

use axum::response::Response;
use caracal_chassis::server::{Direct, Incoming, Peer, RequestId};
use caracal_wire::sts::TOKEN_PATH;
use http::{Method, Request};

use super::{router, token};
use crate::state::Sts;

/// The token endpoint. The router has it as well, for what is not taken here.
#[derive(Clone, Debug)]
pub(crate) struct TokenEndpoint(Arc<Sts>);

impl TokenEndpoint {
    pub(crate) fn new(sts: Arc<Sts>) -> Self {
        Self(sts)
    }
}

impl Direct for TokenEndpoint {
    fn takes(&self, request: &Request<Incoming>) -> bool {
        request.method() == Method::POST && request.uri().path() == TOKEN_PATH
    }

    async fn answer(&self, request: Request<Incoming>, peer: Peer, id: RequestId) -> Response {
        router::in_time(pin!(token::answer(&self.0, peer, &id, request))).await
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};

    use axum::Router;
    use caracal_chassis::server::{self, Limits};
    use caracal_chassis::shutdown::Shutdown;
    use caracal_wire::form;
    use caracal_wire::sts::TOKEN_EXCHANGE_GRANT;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::router as routes;
    use super::*;
    use crate::rig::{Rig, seed};

    /// What the server at `address` answers to `request`, to the end of the connection.
    async fn answer(address: SocketAddr, request: &[u8]) -> Vec<u8> {
        let mut connection = TcpStream::connect(address).await.unwrap();
        connection.write_all(request).await.unwrap();
        let mut come = Vec::new();
        connection.read_to_end(&mut come).await.unwrap();
        come
    }

    /// Head and body, without what is another each time: the moment, and in an answer with a token that.
    fn comparable(answer: &[u8]) -> (Vec<String>, String) {
        let text = String::from_utf8_lossy(answer);
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let head = head.lines().filter(|line| !line.starts_with("date: "));
        let has_token = body.contains("access_token");
        let body = if has_token { "a token" } else { body };
        (head.map(str::to_owned).collect(), body.to_owned())
    }

    fn request(method: &str, target: &str, headers: &str, body: &str) -> Vec<u8> {
        let length = body.len();
        format!(
            "{method} {target} HTTP/1.1\r\nhost: sts\r\nconnection: close\r\nx-request-id: req-1\r\n{headers}\
             content-length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }

    async fn bind() -> (TcpListener, SocketAddr) {
        let address = (IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        let listener = server::bind(address.into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    #[tokio::test]
    async fn what_is_answered_directly_is_what_the_router_answers_byte_for_byte() {
        const FORM: &str = "content-type: application/x-www-form-urlencoded\r\n";
        let rig = Rig::new().await;
        let shutdown = Shutdown::new();
        let router = || routes(Arc::clone(&rig.sts), Router::new());
        let limits = Limits {
            body_bytes: 64 << 10,
            ..Limits::default()
        };
        let (listener, routed) = bind().await;
        tokio::spawn(server::serve(
            listener,
            router(),
            limits.clone(),
            shutdown.clone(),
        ));
        let (listener, direct) = bind().await;
        let tokens = TokenEndpoint::new(Arc::clone(&rig.sts));
        tokio::spawn(server::serve_direct(
            listener,
            tokens,
            router(),
            limits,
            shutdown.clone(),
        ));

        let mint = |secret: &str| {
            form::encode(&[
                ("grant_type", TOKEN_EXCHANGE_GRANT),
                ("zone_id", "z1"),
                ("application_id", "app-1"),
                ("client_secret", secret),
                ("resource", "resource://crm"),
                ("scope", "crm:read"),
                ("agent_session_id", "s-target"),
                ("delegation_edge_id", "e-1"),
            ])
        };
        let (granted, wrong) = (mint(seed::SECRET), mint("wrong"));
        let (longest, too_long) = ("a=".to_owned() + &"x".repeat(65_534), "x".repeat(65_537));
        let path = "/oauth/2/token";
        let requests = [
            request("POST", path, FORM, &granted),
            request("POST", "http://sts/oauth/2/token", FORM, &granted),
            request("POST", path, FORM, &wrong),
            request("POST", path, FORM, ""),
            request("POST", path, FORM, "a=%"),
            request("POST", path, FORM, &longest),
            request("POST", path, FORM, &too_long),
            request("POST", path, "", &granted),
            request("POST", "/oauth/2/token?a=b", FORM, &granted),
            request("POST", path, &format!("{FORM}dpop: x\r\n"), &granted),
            request("POST", path, &format!("{FORM}upgrade: other\r\n"), &granted),
            request(
                "POST",
                path,
                &format!("{FORM}X-Caracal-Gateway-Signature: x\r\n"),
                &granted,
            ),
            request("GET", path, "", ""),
            request("HEAD", path, "", ""),
            request("PUT", path, FORM, &granted),
            request("OPTIONS", path, "origin: https://a.example\r\n", ""),
            request("POST", "/oauth/2/token/", FORM, &granted),
            request("POST", "/oauth/2/%74oken", FORM, &granted),
            request("POST", "/nothing", FORM, &granted),
        ];
        let mut statuses = Vec::new();
        for request in requests {
            let (one, other) = (answer(direct, &request).await, answer(routed, &request).await);
            let shown = String::from_utf8_lossy(&request[..request.len().min(300)]).into_owned();
            assert_eq!(comparable(&one), comparable(&other), "{shown}");
            statuses.push(String::from_utf8_lossy(&one[9..12]).parse::<u16>().unwrap());
        }
        assert_eq!(
            statuses,
            [
                200, 200, 401, 400, 400, 400, 413, 415, 400, 400, 200, 401, 405, 405, 405, 405, 404, 404, 404
            ]
        );
        shutdown.trigger();
    }
}
