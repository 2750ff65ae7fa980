//! How does each test get an empty Redis of its own?

use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use url::Url;

use crate::environment;

/// Logical databases beside number 0, which holds the counter. `./x services` starts Redis with this many.
const DATABASES: i64 = 511;

/// The key of the counter in database 0.
const COUNTER: &str = "caracal:test:databases";

/// An empty logical database of the test server. It is not given back: after 511 others its number is used again,
/// emptied.
#[derive(Debug)]
pub struct TestRedis {
    url: String,
}

impl TestRedis {
    /// Claims a logical database of the server `CARACAL_TEST_REDIS_URL` names, and empties it.
    ///
    /// # Panics
    /// When there is no such server.
    pub async fn new() -> Self {
        let server = environment::required("CARACAL_TEST_REDIS_URL");
        let count: i64 = connect(&server)
            .await
            .incr(COUNTER, 1)
            .await
            .expect("Redis counts");
        let mut url = Url::parse(&server).expect("CARACAL_TEST_REDIS_URL is a URL");
        url.set_path(&format!("/{}", 1 + count.rem_euclid(DATABASES)));
        let redis = Self { url: url.to_string() };
        redis.empty().await;
        redis
    }

    /// The URL of the logical database.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A connection of the test's own, to look at what the code under test wrote.
    pub async fn connection(&self) -> MultiplexedConnection {
        connect(&self.url).await
    }

    /// Puts a text where a stream is: whoever reads or writes the stream fails, and everything else goes on.
    ///
    /// # Panics
    /// When Redis is out of reach.
    pub async fn spoil(&self, stream: &str) {
        self.mend(stream).await;
        let mut connection = self.connection().await;
        let set: Result<(), _> = redis::cmd("SET")
            .arg(stream)
            .arg("no stream")
            .query_async(&mut connection)
            .await;
        set.expect("Redis takes a text");
    }

    /// Takes a stream, or what stands in its place, away.
    ///
    /// # Panics
    /// When Redis is out of reach.
    pub async fn mend(&self, stream: &str) {
        let mut connection = self.connection().await;
        let deleted: Result<(), _> = redis::cmd("DEL").arg(stream).query_async(&mut connection).await;
        deleted.expect("Redis forgets a key");
    }

    /// As if it had remembered claims since long ago. Somebody must have asked it since when it does.
    ///
    /// # Panics
    /// When nobody has.
    pub async fn remember_for_long(&self) {
        let mut connection = self.connection().await;
        let added: i64 = connection
            .hset("caracal:claims", "since", 0)
            .await
            .expect("Redis writes");
        assert_eq!(added, 0, "nobody has asked since when claims are remembered");
    }

    /// Removes every key, as a Redis that lost its memory would have.
    pub async fn empty(&self) {
        let mut connection = self.connection().await;
        let _answer: String = redis::cmd("FLUSHDB")
            .query_async(&mut connection)
            .await
            .expect("Redis empties");
    }
}

async fn connect(url: &str) -> MultiplexedConnection {
    let client = redis::Client::open(url).expect("a Redis URL");
    match client.get_multiplexed_async_connection().await {
        Ok(connection) => connection,
        Err(error) => panic!(
            "no Redis at {url}: {error}. It needs `--databases 512`; run ./x test, or start it with ./x services"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_tests_do_not_see_each_others_keys() {
        let (one, two) = tokio::join!(TestRedis::new(), TestRedis::new());
        let () = one.connection().await.set("key", "value").await.unwrap();
        let seen: Option<String> = two.connection().await.get("key").await.unwrap();
        assert_eq!(seen, None);
        one.empty().await;
        let seen: Option<String> = one.connection().await.get("key").await.unwrap();
        assert_eq!(seen, None);
    }
}
