//! To which keys is a token bound, and has its sender shown them? (RFC 7800, RFC 9449 section 6.1, RFC 8705 section 3.1)

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// SHA-256 of a public key or of a certificate, written in base64url without padding.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Thumbprint([u8; 32]);

impl Thumbprint {
    /// Of what was hashed already.
    pub const fn of_digest(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// Of a certificate in DER (RFC 8705 section 3.1).
    pub fn of_certificate(der: &[u8]) -> Self {
        Self(crate::digest(der))
    }

    /// Reads the text of one; `None` for anything but 43 characters of base64url that are 32 bytes.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for Thumbprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Thumbprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Thumbprint({self})")
    }
}

impl Serialize for Thumbprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Thumbprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom("not a SHA-256 thumbprint"))
    }
}

/// Claim `cnf`: the keys a sender of the token must hold, all of them.
///
/// Reading refuses a claim without a key and one with a member it does not know: what cannot be checked must not look
/// unbound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawConfirmation")]
pub struct Confirmation(Possession);

/// The keys somebody has shown to hold. Default: none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Possession {
    /// The key of a DPoP proof (RFC 7638 thumbprint).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jkt: Option<Thumbprint>,
    /// The client certificate of the TLS connection.
    #[serde(rename = "x5t#S256", skip_serializing_if = "Option::is_none")]
    pub x5t_s256: Option<Thumbprint>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfirmation {
    #[serde(default)]
    jkt: Option<Thumbprint>,
    #[serde(default, rename = "x5t#S256")]
    x5t_s256: Option<Thumbprint>,
}

impl TryFrom<RawConfirmation> for Confirmation {
    type Error = &'static str;

    fn try_from(raw: RawConfirmation) -> Result<Self, Self::Error> {
        let keys = Possession {
            jkt: raw.jkt,
            x5t_s256: raw.x5t_s256,
        };
        keys.confirmation().ok_or("a confirmation names no key")
    }
}

impl Confirmation {
    /// The key of DPoP proofs, if it is bound to one.
    pub fn jkt(&self) -> Option<&Thumbprint> {
        self.0.jkt.as_ref()
    }

    /// The client certificate, if it is bound to one.
    pub fn x5t_s256(&self) -> Option<&Thumbprint> {
        self.0.x5t_s256.as_ref()
    }

    /// Whether `shown` are all the keys it asks for.
    pub fn is_met_by(&self, shown: &Possession) -> bool {
        let met = |asked: Option<Thumbprint>, shown: Option<Thumbprint>| asked.is_none() || asked == shown;
        met(self.0.jkt, shown.jkt) && met(self.0.x5t_s256, shown.x5t_s256)
    }
}

impl Possession {
    /// The claim that binds a token to these keys; `None` when there is none.
    pub fn confirmation(self) -> Option<Confirmation> {
        (self.jkt.is_some() || self.x5t_s256.is_some()).then_some(Confirmation(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(byte: u8) -> Thumbprint {
        Thumbprint::of_digest([byte; 32])
    }

    #[test]
    fn every_key_a_token_is_bound_to_must_be_shown() {
        let keys = |jkt: Option<u8>, x5t: Option<u8>| Possession {
            jkt: jkt.map(print),
            x5t_s256: x5t.map(print),
        };
        assert_eq!(keys(None, None).confirmation(), None, "nothing binds to nothing");
        for (bound, shown, is_met) in [
            (keys(Some(1), None), keys(Some(1), None), true),
            (keys(Some(1), None), keys(Some(1), Some(9)), true),
            (keys(Some(1), None), keys(Some(2), None), false),
            (keys(Some(1), None), keys(None, Some(1)), false),
            (keys(Some(1), None), keys(None, None), false),
            (keys(None, Some(1)), keys(None, Some(1)), true),
            (keys(None, Some(1)), keys(Some(1), None), false),
            (keys(Some(1), Some(2)), keys(Some(1), Some(2)), true),
            (keys(Some(1), Some(2)), keys(Some(1), None), false),
            (keys(Some(1), Some(2)), keys(None, Some(2)), false),
        ] {
            let confirmation = bound.confirmation().unwrap();
            assert_eq!(confirmation.is_met_by(&shown), is_met, "{bound:?} {shown:?}");
        }
    }

    #[test]
    fn a_claim_that_cannot_be_checked_is_not_read() {
        let print = print(7).to_string();
        assert_eq!(print.len(), 43);
        let read = |json: String| serde_json::from_str::<Confirmation>(&json);
        let both = format!(r#"{{"jkt":"{print}","x5t#S256":"{print}"}}"#);
        assert_eq!(serde_json::to_string(&read(both.clone()).unwrap()).unwrap(), both);
        assert!(read(format!(r#"{{"jkt":"{print}"}}"#)).is_ok());
        for json in [
            "{}".to_owned(),
            r#"{"jkt":null}"#.to_owned(),
            r#"{"jkt":""}"#.to_owned(),
            format!(r#"{{"jkt":"{print}="}}"#),
            format!(r#"{{"jkt":"{}"}}"#, &print[1..]),
            format!(r#"{{"kid":"{print}"}}"#),
            format!(r#"{{"jkt":"{print}","jwk":{{}}}}"#),
            format!(r#"{{"jkt":"{print}","jkt":"{print}"}}"#),
            format!(r#""{print}""#),
        ] {
            assert!(read(json.clone()).is_err(), "{json}");
        }
    }
}
