//! May what is being served go on? Ends it when everything is cut, and when its authority has ended and Pingora does not hear of it.
//!
//! Pingora hears of the end of an authority while it waits for the client (`crate::connection`). While an upstream takes nothing of an
//! upload, it waits for the upstream alone. Then what it does is dropped: that lets the upstream go, and hands back what is
//! needed to tell the client and the ledger.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use caracal_chassis::shutdown::Shutdown;

use crate::Gateway;
use crate::connection::{Leash, Trip};
use crate::proxy;

/// Ends what may not go on.
#[derive(Clone)]
pub(super) struct Watch {
    gateway: Arc<Gateway>,
    /// What has not ended by now is cut.
    pub(super) cut: Shutdown,
}

impl Watch {
    /// Over what is served for `gateway`.
    pub(super) fn new(gateway: Arc<Gateway>) -> Self {
        Self {
            gateway,
            cut: Shutdown::new(),
        }
    }

    /// Serves to the end, or as long as `leash` allows. `None` when it was given up. Costs two writes in memory each time that the
    /// task is woken.
    pub(super) async fn over<T>(&self, leash: &Leash, serving: impl Future<Output = T>) -> Option<T> {
        match self.until_unheard(leash, serving).await {
            Ok(served) => Some(served),
            Err(trip) => {
                if let Some(left) = leash.take_left() {
                    proxy::given_up(&self.gateway, left, trip).await;
                }
                None
            }
        }
    }

    /// Drops `serving` when it returns, and what that held is left in `leash` if it was given up.
    async fn until_unheard<T>(&self, leash: &Leash, serving: impl Future<Output = T>) -> Result<T, Trip> {
        let mut serving = pin!(serving);
        let mut cut = pin!(self.cut.requested());
        let (mut is_cut, mut sleep) = (false, None);
        poll_fn(|context| {
            if !is_cut && cut.as_mut().poll(context).is_ready() {
                // Whoever waits for the client finds that it may not wait any longer.
                is_cut = true;
                leash.cut();
            }
            leash.look_away();
            if let Poll::Ready(served) = serving.as_mut().poll(context) {
                return Poll::Ready(Ok(served));
            }
            leash.poll_unheard(&mut sleep, context).map(|trip| {
                leash.give_up();
                Err(trip)
            })
        })
        .await
    }
}
