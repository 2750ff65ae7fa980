//! What remains of an exchange that was given up? Its side of the client, to be told, and what is known of its request, to be
//! recorded.
//!
//! Pingora owns both while it serves, and hears of the end of an authority only while it waits for the client. Where it waits for
//! the upstream alone, all that can be done is to drop what it does, and what it held must come back.

use std::fmt;
use std::ops::{Deref, DerefMut};

use pingora_core::protocols::http::v2::server::HttpSession;
use tokio::io::BufWriter;

use super::Socket;
use crate::context::Context;

/// What a dropped exchange held.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// Where its client is reached.
    pub(crate) client: Option<Client>,
    /// What was decided and seen.
    pub(crate) request: Option<Box<Context>>,
}

/// The client of a dropped exchange.
pub(crate) enum Client {
    /// A whole HTTP/1.1 connection. What was written of an answer is whole pieces, some of them perhaps still joined here.
    Connection(BufWriter<Socket>),
    /// One HTTP/2 stream.
    Stream(Box<HttpSession>),
}

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Connection(_) => "Connection",
            Self::Stream(_) => "Stream",
        })
    }
}

/// Something that can be taken from whoever is dropped with it.
pub(super) struct Lent<T>(Option<T>);

impl<T> Lent<T> {
    pub(super) fn new(lent: T) -> Self {
        Self(Some(lent))
    }

    /// For the end of the borrower: it cannot be used any more afterwards.
    pub(super) fn take(&mut self) -> Option<T> {
        self.0.take()
    }
}

impl<T> Deref for Lent<T> {
    type Target = T;

    #[expect(clippy::expect_used, reason = "taken only while the borrower is dropped")]
    fn deref(&self) -> &T {
        self.0.as_ref().expect("its borrower lives")
    }
}

impl<T> DerefMut for Lent<T> {
    #[expect(clippy::expect_used, reason = "taken only while the borrower is dropped")]
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("its borrower lives")
    }
}
