//! The event bus on Redis 7 Streams.
//!
//! Three kinds of connections, so that one kind of work never waits for another: one for claims (the request path),
//! one for every other command, and a pool for reads that wait for news. Connections are made when first needed and
//! made again after an outage; while Redis is out of reach every call fails within the connect timeout.

mod link;
mod memory;
mod readers;
mod reply;
mod trim;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use caracal_wire::stream::Fields;
use redis::{Cmd, Pipeline, Value, cmd};

use crate::bus::{Bus, Claim, Extent, GroupStart, Pending};
use crate::entry::{Entry, EntryId};
use crate::error::BusError;
use crate::length::StreamLengths;
use link::Link;
use readers::Readers;

/// Deletes a key that has this value.
const DELETE_OWN: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

/// How a [`RedisBus`] treats Redis.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// How long making a connection may take. Default 1 s.
    pub connect_timeout: Duration,
    /// How long one answer may take. Default 2 s.
    pub response_timeout: Duration,
    /// How many entries each stream keeps.
    pub lengths: StreamLengths,
}

impl Default for RedisSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_secs(2),
            lengths: StreamLengths::default(),
        }
    }
}

/// The bus on Redis.
#[derive(Debug)]
pub struct RedisBus {
    claims: Link,
    commands: Link,
    readers: Readers,
    lengths: StreamLengths,
    round_trips: AtomicU64,
}

impl RedisBus {
    /// The bus at `url` (`redis://[user:password@]host[:port][/database]` or `redis+unix://path`), with the usual
    /// settings. Connects when first used, so that a service can start, and say that it is not ready, before Redis does.
    ///
    /// # Errors
    /// [`BusError::Address`] when `url` cannot be used. The error does not repeat it: it may hold a password.
    pub fn connect(url: &str) -> Result<Self, BusError> {
        Self::connect_with(url, RedisSettings::default())
    }

    /// As [`RedisBus::connect`], with settings of one's own.
    ///
    /// # Errors
    /// [`BusError::Address`] when `url` cannot be used.
    pub fn connect_with(url: &str, settings: RedisSettings) -> Result<Self, BusError> {
        let client = redis::Client::open(url).map_err(|error| BusError::Address(Box::new(error)))?;
        Ok(Self {
            claims: Link::new(
                client.clone(),
                settings.connect_timeout,
                settings.response_timeout,
            )
            .introduced_by(memory::begin),
            commands: Link::new(
                client.clone(),
                settings.connect_timeout,
                settings.response_timeout,
            ),
            readers: Readers::new(client, settings.connect_timeout, settings.response_timeout),
            lengths: settings.lengths,
            round_trips: AtomicU64::new(0),
        })
    }

    async fn command(&self, command: &Cmd) -> Result<Value, BusError> {
        self.count();
        self.commands.send(command).await
    }

    async fn pipeline(&self, pipeline: &Pipeline) -> Result<Vec<Value>, BusError> {
        self.count();
        self.commands.send_all(pipeline).await
    }

    fn count(&self) {
        self.round_trips.fetch_add(1, Ordering::Relaxed);
    }

    fn append(&self, stream: &str, fields: &Fields) -> Cmd {
        // Room for all of it at once; a length is written in a few digits more.
        let written = |text: &str| text.len() + 8;
        let bytes: usize = fields
            .iter()
            .map(|(name, value)| written(name) + written(value))
            .sum();
        let mut append = Cmd::with_capacity(6 + 2 * fields.len(), bytes + 128);
        append.arg("XADD").arg(stream);
        if let Some(length) = self.lengths.of(stream) {
            append.arg("MAXLEN").arg("~").arg(length);
        }
        append.arg("*");
        for (name, value) in fields {
            append.arg(name).arg(value);
        }
        append
    }
}

#[async_trait]
impl Bus for RedisBus {
    async fn publish(&self, stream: &str, batch: &[Fields]) -> Result<Vec<EntryId>, BusError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        // Redis would notice only while it carries out the transaction, and take the rest of the batch.
        if batch.iter().any(Fields::is_empty) {
            return Err(BusError::Refused("an entry needs a field".into()));
        }
        let mut pipeline = Pipeline::with_capacity(batch.len());
        // A transaction: the batch is taken as a whole or, out of memory for instance, not at all.
        pipeline.atomic();
        for fields in batch {
            pipeline.add_command(self.append(stream, fields));
        }
        let ids = self.pipeline(&pipeline).await?;
        ids.iter().map(reply::id).collect()
    }

    async fn read(
        &self,
        from: &[(&str, EntryId)],
        count: usize,
        block: Duration,
    ) -> Result<Vec<(String, Vec<Entry>)>, BusError> {
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(count);
        wait(&mut read, block);
        read.arg("STREAMS");
        for (stream, _position) in from {
            read.arg(*stream);
        }
        for (_stream, position) in from {
            read.arg(position.to_string());
        }
        reply::streams(self.readers.send(&read, block).await?)
    }

    async fn extents(&self, streams: &[&str]) -> Result<Vec<Extent>, BusError> {
        let mut pipeline = Pipeline::with_capacity(streams.len());
        pipeline.ignore_errors();
        for stream in streams {
            pipeline.cmd("XINFO").arg("STREAM").arg(*stream);
        }
        let answers = self.pipeline(&pipeline).await?;
        answers.into_iter().map(reply::extent).collect()
    }

    async fn incarnation(&self) -> Result<String, BusError> {
        reply::run_id(&self.command(cmd("INFO").arg("server")).await?)
    }

    async fn ensure_group(&self, stream: &str, group: &str, from: GroupStart) -> Result<bool, BusError> {
        let start = match from {
            GroupStart::Beginning => "0",
            GroupStart::End => "$",
        };
        let mut create = cmd("XGROUP");
        create
            .arg("CREATE")
            .arg(stream)
            .arg(group)
            .arg(start)
            .arg("MKSTREAM");
        match self.command(&create).await {
            Ok(_created) => Ok(true),
            Err(error) if link::has_code(&error, "BUSYGROUP") => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn read_group(
        &self,
        stream: &str,
        group: &str,
        consumer: &str,
        count: usize,
        block: Duration,
    ) -> Result<Vec<Entry>, BusError> {
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(group).arg(consumer).arg("COUNT").arg(count);
        wait(&mut read, block);
        read.arg("STREAMS").arg(stream).arg(">");
        let answer = self
            .readers
            .send(&read, block)
            .await
            .map_err(|error| link::group_missing(error, stream, group))?;
        let streams = reply::streams(answer)?;
        Ok(streams
            .into_iter()
            .flat_map(|(_stream, entries)| entries)
            .collect())
    }

    async fn ack(&self, stream: &str, group: &str, ids: &[EntryId]) -> Result<(), BusError> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut ack = cmd("XACK");
        ack.arg(stream).arg(group);
        for id in ids {
            ack.arg(id.to_string());
        }
        self.command(&ack).await.map(drop)
    }

    async fn reclaim(
        &self,
        stream: &str,
        group: &str,
        consumer: &str,
        min_idle: Duration,
        count: usize,
    ) -> Result<Vec<(Entry, u64)>, BusError> {
        let mut claimed: Vec<Entry> = Vec::new();
        let mut start = String::from("0-0");
        // Redis looks at ten times `count` pending entries at a time; go on until the list ends.
        loop {
            let mut claim = cmd("XAUTOCLAIM");
            claim
                .arg(stream)
                .arg(group)
                .arg(consumer)
                .arg(millis(min_idle))
                .arg(&start);
            claim.arg("COUNT").arg(count.saturating_sub(claimed.len()).max(1));
            let answer = self
                .command(&claim)
                .await
                .map_err(|error| link::group_missing(error, stream, group))?;
            let (next, entries) = reply::claimed(answer)?;
            claimed.extend(entries);
            if next == "0-0" || claimed.len() >= count {
                break;
            }
            start = next;
        }
        if claimed.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = Pipeline::with_capacity(claimed.len());
        for entry in &claimed {
            let id = entry.id.to_string();
            pipeline
                .cmd("XPENDING")
                .arg(stream)
                .arg(group)
                .arg(&id)
                .arg(&id)
                .arg(1);
        }
        let deliveries = self.pipeline(&pipeline).await?;
        Ok(claimed
            .into_iter()
            .zip(deliveries)
            .map(|(entry, pending)| {
                (
                    entry,
                    reply::pending_entry(pending).map_or(1, |pending| pending.deliveries),
                )
            })
            .collect())
    }

    async fn pending(&self, stream: &str, group: &str) -> Result<Pending, BusError> {
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.cmd("XPENDING").arg(stream).arg(group);
        pipeline
            .cmd("XPENDING")
            .arg(stream)
            .arg(group)
            .arg("-")
            .arg("+")
            .arg(1);
        let answers = self
            .pipeline(&pipeline)
            .await
            .map_err(|error| link::group_missing(error, stream, group))?;
        let mut answers = answers.into_iter();
        let (count, _lowest) = reply::pending_summary(answers.next())?;
        let oldest = answers.next().and_then(reply::pending_entry);
        Ok(Pending {
            count,
            oldest_idle: oldest.map(|pending| pending.idle),
        })
    }

    async fn trim_consumed(&self, stream: &str) -> Result<u64, BusError> {
        trim::consumed(self, stream).await
    }

    async fn claim_once(&self, key: &str, value: &str, expires_at_unix_ms: i64) -> Result<Claim, BusError> {
        if expires_at_unix_ms <= 0 {
            return Err(BusError::NotRemembered);
        }
        let mut pipeline = Pipeline::with_capacity(3);
        pipeline
            .cmd("SET")
            .arg(key)
            .arg(value)
            .arg("NX")
            .arg("PXAT")
            .arg(expires_at_unix_ms);
        // Redis says OK to an expiry it holds for past, and remembers nothing.
        pipeline.cmd("EXISTS").arg(key);
        pipeline.cmd("HGET").arg(memory::KEY).arg(memory::SINCE);
        self.count();
        let answers = self.claims.send_all(&pipeline).await?;
        match answers.as_slice() {
            [_, _, Value::Nil] => {
                // Emptied under our hands: the next connection writes down that memory begins now.
                self.claims.reconnect();
                Err(BusError::Forgotten)
            }
            [_, Value::Int(0), _] => Err(BusError::NotRemembered),
            [Value::Okay, Value::Int(_), since] => Ok(Claim::First {
                remembers_since_unix_ms: memory::since(since)?,
            }),
            [Value::Nil, Value::Int(_), _] => Ok(Claim::Repeated),
            _ => Err(BusError::Unexpected("answer to a claim")),
        }
    }

    async fn give_back(&self, key: &str, value: &str) -> Result<(), BusError> {
        let mut delete = cmd("EVAL");
        delete.arg(DELETE_OWN).arg(1).arg(key).arg(value);
        self.count();
        self.claims.send(&delete).await.map(drop)
    }

    async fn remembers_since(&self) -> Result<i64, BusError> {
        let mut read = cmd("HGET");
        read.arg(memory::KEY).arg(memory::SINCE);
        self.count();
        match self.claims.send(&read).await? {
            Value::Nil => {
                self.claims.reconnect();
                Err(BusError::Forgotten)
            }
            since => memory::since(&since),
        }
    }

    async fn ping(&self) -> Result<(), BusError> {
        self.count();
        self.claims.send(&cmd("PING")).await.map(drop)
    }

    fn round_trips(&self) -> u64 {
        self.round_trips.load(Ordering::Relaxed)
    }
}

fn wait(read: &mut Cmd, block: Duration) {
    if !block.is_zero() {
        // Zero would mean for ever.
        read.arg("BLOCK").arg(millis(block).max(1));
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
