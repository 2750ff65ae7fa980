//! "So many mints were counted here": stream `caracal.mints.counted`.

use caracal_model::id::{ApplicationId, ResourceId, ZoneId};
use serde::{Deserialize, Serialize};

use super::fields::{EventError, Writer, required};
use crate::stream::Fields;

/// Most buckets one message may carry; a longer list is refused.
pub const BUCKETS_MAX: usize = 1_000;

/// What one replica of the token service counted since its last message. An empty list says that the replica exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MintsCounted {
    /// Which process says so: it does not read its own messages.
    pub replica: String,
    /// Whether the buckets tell how full they are, for a replica that is new, rather than what was added.
    pub is_standing: bool,
    /// One element for each (zone, resource, application) that was counted.
    pub buckets: Vec<CountedBucket>,
}

/// The mints of one (zone, resource, application).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CountedBucket {
    /// The zone.
    pub zone_id: ZoneId,
    /// The id of the resource's row.
    pub resource_id: ResourceId,
    /// The application.
    pub application_id: ApplicationId,
    /// How much of the window they use up, in microseconds.
    pub spent_us: u64,
    /// The window of the budget, in microseconds.
    pub window_us: u64,
}

impl MintsCounted {
    /// The message as fields; `buckets` is one field with a JSON list.
    pub fn to_fields(&self) -> Fields {
        // Ids and numbers always serialise; an empty list counts nothing.
        let buckets = serde_json::to_string(&self.buckets).unwrap_or_else(|_| "[]".to_owned());
        Writer::new()
            .put("replica", &self.replica)
            .put("standing", &self.is_standing)
            .put("buckets", &buckets)
            .finish()
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`EventError`] when a field is missing or malformed, or the list is longer than [`BUCKETS_MAX`].
    pub fn from_fields(fields: &Fields) -> Result<Self, EventError> {
        let buckets: Vec<CountedBucket> = serde_json::from_str(required(fields, "buckets")?)
            .map_err(|_malformed| EventError::Invalid("buckets"))?;
        if buckets.len() > BUCKETS_MAX {
            return Err(EventError::Invalid("buckets"));
        }
        Ok(Self {
            replica: required(fields, "replica")?.to_owned(),
            is_standing: required(fields, "standing")?
                .parse()
                .map_err(|_neither| EventError::Invalid("standing"))?,
            buckets,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket() -> CountedBucket {
        CountedBucket {
            zone_id: "z".parse().unwrap(),
            resource_id: "r".parse().unwrap(),
            application_id: "a".parse().unwrap(),
            spent_us: 60_000,
            window_us: 60_000_000,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let counted = MintsCounted {
            replica: "sts-1".to_owned(),
            is_standing: false,
            buckets: vec![bucket()],
        };
        assert_eq!(MintsCounted::from_fields(&counted.to_fields()), Ok(counted));
    }

    #[test]
    fn what_is_too_long_or_malformed_is_refused() {
        let counted = MintsCounted {
            replica: "sts-1".to_owned(),
            is_standing: false,
            buckets: vec![bucket(); BUCKETS_MAX + 1],
        };
        let refused = Err(EventError::Invalid("buckets"));
        assert_eq!(MintsCounted::from_fields(&counted.to_fields()), refused);
        let mut fields = counted.to_fields();
        fields.insert("buckets".to_owned(), r#"[{"zone_id":"z"}]"#.to_owned());
        assert_eq!(MintsCounted::from_fields(&fields), refused);
    }
}
