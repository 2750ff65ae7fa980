//! Which operations of which resources are declared? Asked of the STS once for each zone, behind the requests.
//!
//! Only a *no* counts here: the STS decides every call that is not refused. So knowledge never has to be fresh for a request to
//! go on; and before one is refused, the STS is asked whether that is still right, once for all who wait. What is not known, or
//! cannot be asked for, is left to the STS.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use caracal_model::{ApplicationId, Operation, Operations, ZoneId};
use caracal_token::{Claims, Use};
use caracal_wire::gateway_operations::EnforcedResource;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::sts_client::{StsClient, StsError};

/// Pause between questions that nobody waits for.
const PAUSE: Duration = Duration::from_secs(1);
/// How much is remembered of all zones together, in bytes.
const BYTES_MAX: u64 = 128 << 20;
/// How much of one zone; resources that do not fit are not known.
const ZONE_BYTES_MAX: usize = 32 << 20;
/// A zone that nobody calls is forgotten.
const FORGET_AFTER: Duration = Duration::from_mins(15);
/// Questions at the same time that nobody waits for.
const BEHIND_MAX: usize = 32;
/// Zones of which is remembered when they were last asked about.
const FLIGHTS_MAX: u64 = 16_384;
/// What a zone takes even when it enforces nothing, and a resource without operations, in bytes.
const ENTRY_BYTES: usize = 512;
/// What a segment of a declared path takes at most, beside its text, in bytes.
const SEGMENT_BYTES: usize = 512;

/// What this gateway knows of operations.
#[derive(Debug)]
pub(crate) struct ZoneOperations {
    sts: Arc<StsClient>,
    zones: Cache<ZoneId, Arc<Known>>,
    flights: Cache<ZoneId, Flight>,
    behind: Arc<Semaphore>,
}

/// One question about a zone at a time, and what became of the last one.
type Flight = Arc<tokio::sync::Mutex<Option<Landing>>>;

/// What became of a question.
#[derive(Clone, Copy, Debug)]
struct Landing {
    /// Who came up to then need not ask again: when it was asked, or, after a failure, when that was known, so that those who
    /// waited behind it do not try one after the other.
    covers: Instant,
    is_answered: bool,
}

/// The enforced resources of a zone, by every name they have.
#[derive(Debug)]
struct Known {
    version: i64,
    resources: HashMap<String, Arc<Enforced>>,
    bytes: usize,
}

#[derive(Debug)]
struct Enforced {
    identifier: Box<str>,
    reusable_by: Option<ApplicationId>,
    operations: Operations,
}

/// One call, as operations see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    /// What the request calls the resource.
    pub(crate) resource: &'a str,
    /// Its method.
    pub(crate) method: &'a str,
    /// Its path as it was sent.
    pub(crate) raw_path: &'a str,
    /// The proven mandate.
    pub(crate) claims: &'a Claims,
}

impl Known {
    fn new(version: i64, resources: Vec<EnforcedResource>) -> Self {
        let mut named = HashMap::new();
        let mut bytes = ENTRY_BYTES;
        for resource in resources {
            let with_it = bytes.saturating_add(weight(&resource));
            if with_it > ZONE_BYTES_MAX {
                continue;
            }
            bytes = with_it;
            let enforced = Arc::new(Enforced {
                identifier: resource.identifier.as_str().into(),
                reusable_by: resource.reusable_by,
                operations: Operations::compile(&resource.operations),
            });
            let names = resource.names.into_iter();
            named.extend(names.map(|name| (name, Arc::clone(&enforced))));
        }
        Self {
            version,
            resources: named,
            bytes,
        }
    }

    /// Whether the STS would come to refuse the call for its operation. A mandate that is not for this resource is not told what
    /// the resource allows: the STS says no to it by its own rules.
    fn refuses(&self, call: Call<'_>) -> bool {
        let Some(resource) = self.resources.get(call.resource) else {
            return false;
        };
        let claims = call.claims;
        let is_usable = claims.allows_target(&resource.identifier)
            && (claims.r#use == Use::Gateway || resource.reusable_by.as_ref() == Some(&claims.client_id));
        let carries = |scope: &str| claims.carries_scope(scope);
        is_usable
            && !resource
                .operations
                .permits(call.method, &declared_path(call.raw_path), carries)
    }
}

impl ZoneOperations {
    /// Knows nothing yet.
    pub(crate) fn new(sts: Arc<StsClient>) -> Self {
        let weigh = |_zone: &ZoneId, known: &Arc<Known>| u32::try_from(known.bytes).unwrap_or(u32::MAX);
        Self {
            sts,
            zones: Cache::builder()
                .weigher(weigh)
                .max_capacity(BYTES_MAX)
                .eviction_policy(EvictionPolicy::lru())
                .time_to_idle(FORGET_AFTER)
                .build(),
            flights: Cache::builder()
                .max_capacity(FLIGHTS_MAX)
                .time_to_idle(FORGET_AFTER)
                .build(),
            behind: Arc::new(Semaphore::new(BEHIND_MAX)),
        }
    }

    /// Whether memory speaks against the call. Two map reads, and for a resource with operations those of its table; a zone that
    /// is not known is asked about behind the request.
    pub(crate) fn doubts(self: &Arc<Self>, call: Call<'_>) -> bool {
        let zone = &call.claims.zone_id;
        let Some(known) = self.zones.get(zone) else {
            self.refresh_behind(zone);
            return false;
        };
        known.refuses(call)
    }

    /// Whether the STS would refuse the call as of now. One call to the STS for all who ask at the same time; `false` when it
    /// does not answer.
    pub(crate) async fn refuses(&self, call: Call<'_>) -> bool {
        let (zone, arrived) = (&call.claims.zone_id, Instant::now());
        !self.sts.is_circuit_open()
            && self.refresh(zone, arrived).await
            && self.zones.get(zone).is_some_and(|known| known.refuses(call))
    }

    /// Takes note that the STS has refused a call of `zone` for its operation that was not refused here.
    pub(crate) fn note_refusal(self: &Arc<Self>, zone: &ZoneId) {
        self.refresh_behind(zone);
    }

    fn refresh_behind(self: &Arc<Self>, zone: &ZoneId) {
        let Ok(place) = Arc::clone(&self.behind).try_acquire_owned() else {
            return;
        };
        match self.flight(zone).try_lock().as_deref() {
            Ok(Some(last)) if last.covers.elapsed() < PAUSE => return,
            Ok(_) => {}
            Err(_under_way) => return,
        }
        let (this, zone) = (Arc::clone(self), zone.clone());
        tokio::spawn(async move {
            let _place = place;
            // Another request may have been as quick.
            let since = Instant::now().checked_sub(PAUSE).unwrap_or_else(Instant::now);
            this.refresh(&zone, since).await;
        });
    }

    /// Asks the STS, unless somebody has done so since `wanted`; whether there was an answer.
    async fn refresh(&self, zone: &ZoneId, wanted: Instant) -> bool {
        let flight = self.flight(zone);
        let mut last = flight.lock().await;
        if let Some(last) = last.filter(|last| last.covers >= wanted) {
            return last.is_answered;
        }
        let asked = Instant::now();
        let fetched = self.fetch(zone).await;
        if let Err(error) = &fetched {
            let error = error as &dyn std::error::Error;
            tracing::warn!(zone.id = %zone, error, "the zone's operations cannot be fetched; the STS decides alone");
        }
        let is_answered = fetched.is_ok();
        let covers = if is_answered { asked } else { Instant::now() };
        *last = Some(Landing { covers, is_answered });
        is_answered
    }

    async fn fetch(&self, zone: &ZoneId) -> Result<(), StsError> {
        let known = self.zones.get(zone);
        let version = known.as_ref().map(|known| known.version);
        let answer = self.sts.operations(zone, version).await?;
        match (answer.resources, known) {
            (Some(resources), _) => {
                let known = Known::new(answer.version, resources);
                self.zones.insert(zone.clone(), Arc::new(known));
            }
            (None, Some(known)) if known.version == answer.version => {}
            (None, _) => return Err(StsError::Unreadable("no resources".into())),
        }
        Ok(())
    }

    fn flight(&self, zone: &ZoneId) -> Flight {
        self.flights.get_with_by_ref(zone, Arc::default)
    }
}

/// How much memory a resource takes, at most.
fn weight(resource: &EnforcedResource) -> usize {
    let operations = resource.operations.iter();
    let operation = |operation: &Operation| {
        let text = operation.method.len() + operation.path.len() + operation.scope.len();
        operation.path.split('/').count() * SEGMENT_BYTES + text
    };
    let names: usize = resource.names.iter().map(String::len).sum();
    operations.map(operation).sum::<usize>() + names + ENTRY_BYTES
}

/// The path operations are declared with: decoded, unless decoding would change its structure. A path whose segments
/// the upstream would see differently stays as it is, so that it cannot pass for a declared one.
pub(crate) fn declared_path(raw: &str) -> Cow<'_, str> {
    if !raw.contains('%') {
        return Cow::Borrowed(raw);
    }
    let Ok(decoded) = percent_encoding::percent_decode_str(raw).decode_utf8() else {
        return Cow::Borrowed(raw);
    };
    let structure = |text: &str| text.bytes().filter(|byte| b"/;?#%".contains(byte)).count();
    let escapes = raw.bytes().filter(|byte| *byte == b'%').count();
    if structure(&decoded) == structure(raw) - escapes {
        decoded
    } else {
        Cow::Borrowed(raw)
    }
}

#[cfg(test)]
mod tests;
