//! How does a test hold very many open responses and upgraded connections, and see exactly when each ends?

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Time for anything that must come on an open stream, on a busy machine.
const SOON: Duration = Duration::from_mins(1);

/// A connection with an open response on it. It costs a socket and what was received and not yet looked at.
#[derive(Debug)]
pub struct OpenStream {
    stream: TcpStream,
    received: Vec<u8>,
}

impl OpenStream {
    /// Asks the service at `url` for `path` and waits for the first event.
    ///
    /// # Panics
    /// When no event comes.
    pub async fn events(url: &str, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut open = Self::ask(url, path, headers).await;
        open.until("\n\n").await;
        open
    }

    /// Upgrades a connection to a WebSocket and waits for the service's consent.
    ///
    /// # Panics
    /// When it is not given.
    pub async fn web_socket(url: &str, path: &str, headers: &[(&str, &str)]) -> Self {
        let handshake = [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
        ];
        let mut open = Self::ask(url, path, &[headers, &handshake].concat()).await;
        let head = open.until("\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        open
    }

    async fn ask(url: &str, path: &str, headers: &[(&str, &str)]) -> Self {
        let address = url.trim_start_matches("http://");
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        let mut request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n");
        for (name, value) in headers {
            request.extend([name, ": ", value, "\r\n"]);
        }
        request.push_str("\r\n");
        let mut open = Self {
            stream,
            received: Vec::new(),
        };
        open.send(&request).await;
        open
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, text: &str) {
        self.stream
            .write_all(text.as_bytes())
            .await
            .expect("an open stream");
    }

    /// Waits for `text`, and gives everything up to its end. What came behind it is kept for the next call.
    ///
    /// # Panics
    /// When the stream ends, or `text` does not come.
    pub async fn until(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = find(&self.received, text.as_bytes()) {
                let rest = self.received.split_off(at + text.len());
                let found = std::mem::replace(&mut self.received, rest);
                return String::from_utf8_lossy(&found).into_owned();
            }
            let more = timeout(SOON, self.more()).await.expect("something comes");
            assert!(
                more,
                "ended before {text:?}: {}",
                String::from_utf8_lossy(&self.received)
            );
        }
    }

    /// Waits for the end, and gives everything before it. However long that takes: callers have deadlines.
    pub async fn ended(&mut self) -> String {
        while self.more().await {}
        String::from_utf8_lossy(&std::mem::take(&mut self.received)).into_owned()
    }

    /// Reads what is there; false at the end.
    async fn more(&mut self) -> bool {
        self.stream
            .read_buf(&mut self.received)
            .await
            .is_ok_and(|read| read > 0)
    }
}

fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Behaviour, Upstream};
    use crate::wait::wait_until;

    #[tokio::test]
    async fn an_event_comes_with_each_release_and_the_end_is_seen() {
        let upstream = Upstream::start(Behaviour::SseOnRelease).await;
        let mut open = OpenStream::events(&upstream.url(), "/", &[]).await;
        upstream.release();
        open.until("id: 2\n").await;
        drop(upstream);
        assert!(!open.ended().await.contains("id: 3"));
    }

    #[tokio::test]
    async fn a_web_socket_echoes() {
        let upstream = Upstream::start(Behaviour::Upgrade).await;
        let mut open = OpenStream::web_socket(&upstream.url(), "/", &[]).await;
        for word in ["one", "two"] {
            open.send(word).await;
            assert_eq!(open.until(word).await, word);
        }
        assert_eq!(upstream.open_streams(), 1);
        drop(open);
        wait_until(SOON, async || upstream.open_streams() == 0).await;
    }
}
