//! Which certificate is for the name a client asks for? (RFC 6066 section 3)

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::pair::Pair;

/// The certificates shown to clients. Replaced as a whole; connections that are open keep what they began with.
#[derive(Debug, Default)]
pub(crate) struct Certificates(ArcSwap<Table>);

/// Certificates by the names they are for.
#[derive(Debug, Default)]
struct Table {
    pairs: Vec<Arc<Pair>>,
    by_name: HashMap<String, Vec<Arc<Pair>>>,
}

impl Certificates {
    /// Shows these from now on. Where several are for one name, the first that the client can check is shown; the first
    /// of all is for clients that ask for no name, or for one nobody has.
    pub(crate) fn replace(&self, pairs: Vec<Arc<Pair>>) {
        self.0.store(Arc::new(Table::new(pairs)));
    }

    /// Those that are shown.
    pub(crate) fn shown(&self) -> Vec<Arc<Pair>> {
        self.0.load().pairs.clone()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let table = self.0.load();
        let pair = table.find(hello.server_name(), hello.signature_schemes())?;
        Some(Arc::clone(pair.certified()))
    }
}

impl Table {
    fn new(pairs: Vec<Arc<Pair>>) -> Self {
        let mut by_name: HashMap<_, Vec<_>> = HashMap::new();
        for pair in &pairs {
            for name in pair.names() {
                by_name.entry(name.clone()).or_default().push(Arc::clone(pair));
            }
        }
        Self { pairs, by_name }
    }

    /// The exact name, else a certificate for all names beside it, else the first of all.
    fn find(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&Arc<Pair>> {
        let named = name.and_then(|name| {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            self.by_name.get(&name).or_else(|| {
                let (_label, parent) = name.split_once('.')?;
                self.by_name.get(&format!("*.{parent}"))
            })
        });
        let candidates = named.map_or_else(|| self.pairs.get(..1).unwrap_or_default(), Vec::as_slice);
        candidates
            .iter()
            .find(|pair| pair.suits(schemes))
            .or_else(|| candidates.first())
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SignatureAlgorithm};

    use super::*;

    fn pair(names: &[&str], algorithm: &'static SignatureAlgorithm) -> Arc<Pair> {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = rcgen::CertificateParams::new(names)
            .unwrap()
            .self_signed(&key)
            .unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let (chain, key) = (certificate.pem(), key.serialize_pem());
        Arc::new(Pair::from_pem(chain.as_bytes(), key.as_bytes(), &provider).unwrap())
    }

    #[test]
    fn a_name_finds_its_certificate() {
        let p256 = &PKCS_ECDSA_P256_SHA256;
        let table = Table::new(vec![
            pair(&["default.example"], p256),
            pair(&["a.example", "B.Example"], p256),
            pair(&["*.wild.example"], p256),
            pair(&["exact.wild.example"], p256),
            pair(&["a.example"], &PKCS_ED25519),
        ]);
        let first = |name| {
            let found = table.find(name, &[SignatureScheme::ECDSA_NISTP256_SHA256]);
            found.unwrap().name().to_owned()
        };
        for (asked, shown) in [
            (Some("a.example"), "a.example"),
            (Some("A.EXAMPLE"), "a.example"),
            (Some("a.example."), "a.example"),
            (Some("b.example"), "a.example"),
            (Some("x.wild.example"), "*.wild.example"),
            (Some("exact.wild.example"), "exact.wild.example"),
            (Some("x.y.wild.example"), "default.example"),
            (Some("wild.example"), "default.example"),
            (Some("nobody"), "default.example"),
            (Some(""), "default.example"),
            (Some("*.wild.example"), "*.wild.example"),
            (None, "default.example"),
        ] {
            assert_eq!(first(asked), shown, "{asked:?}");
        }
        let of = |schemes: &[SignatureScheme]| Arc::clone(table.find(Some("a.example"), schemes).unwrap());
        let (ecdsa, ed25519) = (SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519);
        assert!(
            !Arc::ptr_eq(&of(&[ecdsa]), &of(&[ed25519])),
            "the one the client can check"
        );
        assert!(
            Arc::ptr_eq(&of(&[ecdsa, ed25519]), &of(&[ecdsa])),
            "the first of those"
        );
        assert!(Table::default().find(None, &[]).is_none());
    }
}
