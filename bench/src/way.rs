//! One way to the origin: what does a request cost the proxy on it?

use std::time::Duration;

use anyhow::Context;

use crate::peer::Peer;
use crate::process;
use crate::site::{CONNECTIONS, Site};
use crate::world::RESOURCE;
use crate::wrk::{Load, Outcome};

/// A proxy and what is asked of it.
pub(crate) struct Way {
    pub(crate) name: String,
    /// Of its figures.
    pub(crate) key: String,
    url: String,
    pub(crate) process: u32,
    /// Whether each request needs a mandate of its own.
    is_once: bool,
    /// The most it has done so far, or is believed to do.
    most_per_second: f64,
}

/// What one window came to.
pub(crate) struct Round {
    pub(crate) outcome: Outcome,
    pub(crate) cpu_us: f64,
}

/// What is sent in a window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) connections: usize,
    pub(crate) time: Duration,
    pub(crate) body_bytes: usize,
}

impl Sent {
    /// Requests without a body over the usual number of connections.
    pub(crate) fn small(time: Duration) -> Self {
        Self {
            connections: CONNECTIONS,
            time,
            body_bytes: 0,
        }
    }
}

impl Way {
    /// Through the gateway of a site, with a mandate for each call and with a reusable one.
    pub(crate) fn through_gateway(site: &Site) -> anyhow::Result<[Self; 2]> {
        let process = site.gateway()?.id().context("a gateway")?;
        let url = site.world.stack.gateway_url();
        let kinds = [
            ("gateway, one-shot mandate", "gateway", true),
            ("gateway, reusable mandate", "reusable_gateway", false),
        ];
        Ok(kinds.map(|(name, key, is_once)| Self {
            name: name.to_owned(),
            key: key.to_owned(),
            url: url.to_owned(),
            process,
            is_once,
            most_per_second: 6_000.0,
        }))
    }

    /// Through a peer.
    pub(crate) fn through(peer: &Peer) -> anyhow::Result<Self> {
        Ok(Self {
            name: peer.kind.name.to_owned(),
            key: peer.kind.key.to_owned(),
            url: peer.url.clone(),
            process: peer.process.id().context("a peer")?,
            is_once: false,
            most_per_second: 0.0,
        })
    }

    /// Runs one window. What it leaves behind is done when this returns.
    pub(crate) async fn measure(&mut self, site: &Site, sent: &Sent) -> anyhow::Result<Round> {
        let mandates = if self.is_once {
            // Enough for a window that is half as fast again as the fastest before.
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "some thousand"
            )]
            let count = (self.most_per_second * 1.5 * sent.time.as_secs_f64()) as usize + sent.connections;
            let mandates = site.one_shot(count).await?;
            site.settle().await?;
            mandates
        } else {
            vec![site.reusable.clone()]
        };
        let load = Load {
            url: &self.url,
            connections: sent.connections,
            time: sent.time,
            mandates: &mandates,
            is_once: self.is_once,
            body_bytes: sent.body_bytes,
            headers: &[("X-Caracal-Resource", RESOURCE)],
            processors: &site.processors.rest,
        };
        let before = process::tree_time(self.process)?;
        let outcome = load.run().await.with_context(|| self.name.clone())?;
        let used = process::tree_time(self.process)?.saturating_sub(before);
        if self.is_once {
            // The evidence of so many calls is not the business of who comes next.
            site.settle().await?;
            let most = outcome.per_second().max(500.0);
            // The first was a guess.
            self.most_per_second = most.max(self.most_per_second / 2.0);
        }
        #[expect(clippy::cast_precision_loss, reason = "a count of some seconds")]
        let cpu_us = used.as_secs_f64() * 1e6 / outcome.requests as f64;
        Ok(Round { outcome, cpu_us })
    }
}
