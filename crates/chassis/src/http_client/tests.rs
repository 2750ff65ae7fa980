use axum::Router;
use axum::routing::{get, post};
use http::header;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::server::{self, Limits, Peer};
use crate::shutdown::Shutdown;

async fn start(router: Router) -> String {
    let listener = server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(server::serve(
        listener,
        router,
        Limits::default(),
        Shutdown::new(),
    ));
    url
}

async fn call(client: &Client, url: &str) -> Result<Response, ClientError> {
    client.request(Method::GET, url, HeaderMap::new(), "").await
}

#[tokio::test]
async fn method_headers_and_body_arrive_and_the_answer_comes_back() {
    let echo = |headers: HeaderMap, body: String| async move {
        let name = headers["x-name"].to_str().unwrap().to_owned();
        (StatusCode::CREATED, [("x-answer", name)], body)
    };
    let url = start(Router::new().route("/a", post(echo))).await;
    let client = Client::new(ClientLimits::default());
    let headers = HeaderMap::from_iter([(
        header::HeaderName::from_static("x-name"),
        "value".parse().unwrap(),
    )]);
    let answer = client
        .request(Method::POST, &format!("{url}/a"), headers, "the body")
        .await
        .unwrap();
    assert_eq!(
        (answer.status, &answer.body[..]),
        (StatusCode::CREATED, &b"the body"[..])
    );
    assert_eq!(answer.headers["x-answer"], "value");
}

#[tokio::test]
async fn calls_one_after_the_other_use_one_connection() {
    let port = |peer: Peer| async move { format!("{peer:?}") };
    let url = start(Router::new().route("/", get(port))).await;
    let client = Client::new(ClientLimits::default());
    let first = call(&client, &url).await.unwrap().body;
    for _ in 0..5 {
        assert_eq!(call(&client, &url).await.unwrap().body, first);
    }
    assert_ne!(
        call(&Client::new(ClientLimits::default()), &url)
            .await
            .unwrap()
            .body,
        first
    );
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let router = Router::new()
        .route(
            "/",
            get(|| async { (StatusCode::FOUND, [(header::LOCATION, "/other")]) }),
        )
        .route("/other", get(|| async { "followed" }));
    let url = start(router).await;
    let answer = call(&Client::new(ClientLimits::default()), &url).await.unwrap();
    assert_eq!((answer.status, answer.body.len()), (StatusCode::FOUND, 0));
}

#[tokio::test]
async fn an_answer_over_the_limit_is_an_error() {
    let url = start(Router::new().route(
        "/{n}",
        get(|path: axum::extract::Path<usize>| async move { "x".repeat(*path) }),
    ))
    .await;
    let client = Client::new(ClientLimits {
        response_bytes: 100,
        ..ClientLimits::default()
    });
    assert_eq!(
        call(&client, &format!("{url}/100")).await.unwrap().body.len(),
        100
    );
    let error = call(&client, &format!("{url}/101")).await.unwrap_err();
    assert!(matches!(error, ClientError::TooLarge(100)), "{error:?}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_a_timeout() {
    let url = start(Router::new().route("/", get(std::future::pending::<()>))).await;
    let client = Client::new(ClientLimits {
        timeout: Duration::from_millis(30),
        ..ClientLimits::default()
    });
    let error = call(&client, &url).await.unwrap_err();
    assert!(
        matches!(error, ClientError::Timeout(_)) && !error.is_unsent(),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_server_that_is_not_there_was_sent_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = Client::new(ClientLimits::default());
    let error = call(&client, &url).await.unwrap_err();
    assert!(
        matches!(error, ClientError::Connect(_)) && error.is_unsent(),
        "{error:?}"
    );
    for url in ["https://127.0.0.1/", "not a url", ""] {
        assert!(call(&client, url).await.is_err(), "{url:?}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _request = stream.read(&mut [0; 1_024]).await.unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
            .await
            .unwrap();
    });
    let error = call(&Client::new(ClientLimits::default()), &url)
        .await
        .unwrap_err();
    assert!(
        matches!(error, ClientError::Broken(_)) && !error.is_unsent(),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_unix_socket_is_called_like_a_port() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sts.sock");
    let listener = server::bind_unix(&path).unwrap();
    let router = Router::new().route(
        "/oauth/2/token",
        get(|peer: Peer| async move { format!("{peer:?}") }),
    );
    tokio::spawn(server::serve_unix(
        listener,
        router,
        Limits::default(),
        Shutdown::new(),
    ));
    let url = unix_url(path.to_str().unwrap(), "/oauth/2/token");
    let answer = call(&Client::new(ClientLimits::default()), &url).await.unwrap();
    assert_eq!(&answer.body[..], b"Local");
}
