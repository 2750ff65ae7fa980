//! Which certificate did a client show to the TLS terminator before us? (RFC 9440, RFC 8705 section 3)
//!
//! The terminator has checked that the client holds the key of the certificate, and whatever else it checks. Here the
//! certificate is a name: it is hashed, and not read. Whether the sender of the header is a terminator is for the caller to
//! decide, before it asks here.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::Thumbprint;

/// Name of the header a terminator puts the certificate in, in lower case.
pub const CLIENT_CERT_HEADER: &str = "client-cert";

/// Longest field that is looked at, in bytes.
const FIELD_BYTES_MAX: usize = 16 << 10;

/// Padding may be left out, and bits that say nothing may be set (RFC 9651 section 4.2.7).
const BYTE_SEQUENCE: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Why there is no certificate to count on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// None was shown, or by somebody who is no terminator.
    #[error("a client certificate is required")]
    Missing,
    /// The field holds no certificate, or there are several fields.
    #[error("the client certificate cannot be read")]
    Unreadable,
    /// It is not the certificate the token is bound to.
    #[error("the token is bound to another client certificate")]
    Other,
}

/// The thumbprint of the certificate in the values of `Client-Cert`. One hash of about 1 KiB.
///
/// # Errors
/// [`CertificateFault::Missing`] without a value; [`CertificateFault::Unreadable`] for several, and for one that is longer than
/// 16 KiB, is no byte sequence (RFC 9651 section 3.3.5) or holds no DER.
pub fn presented<'h>(values: impl IntoIterator<Item = &'h [u8]>) -> Result<Thumbprint, CertificateFault> {
    let mut values = values.into_iter();
    let only = values.next().ok_or(CertificateFault::Missing)?;
    if values.next().is_some() {
        return Err(CertificateFault::Unreadable);
    }
    let der = read(only).ok_or(CertificateFault::Unreadable)?;
    Ok(Thumbprint::of_certificate(&der))
}

/// The bytes between the colons, if they are one DER sequence. Parameters are not taken: RFC 9440 defines none.
fn read(field: &[u8]) -> Option<Vec<u8>> {
    if field.len() > FIELD_BYTES_MAX {
        return None;
    }
    let encoded = field
        .trim_ascii()
        .strip_prefix(b":")
        .and_then(|rest| rest.strip_suffix(b":"))?;
    let der = BYTE_SEQUENCE.decode(encoded).ok()?;
    is_one_sequence(&der).then_some(der)
}

/// Whether the bytes begin as a certificate does, a DER sequence, and end where it says (X.690 section 8.1.3, 10.1): PEM, or a
/// chain, would be another thumbprint than the client's.
fn is_one_sequence(der: &[u8]) -> bool {
    let Some((0x30, rest)) = der.split_first().map(|(tag, rest)| (*tag, rest)) else {
        return false;
    };
    let Some((first, rest)) = rest.split_first() else {
        return false;
    };
    let length_bytes = usize::from(first & 0x7f);
    let (length, contents) = match first {
        0..=0x7f => (usize::from(*first), rest),
        // A certificate of the longest field has a length of two bytes.
        0x81 | 0x82 => {
            let Some((length, contents)) = rest.split_at_checked(length_bytes) else {
                return false;
            };
            let value = length
                .iter()
                .fold(0, |value: usize, byte| (value << 8) | usize::from(*byte));
            let is_shortest = value >= 0x80 && length.first() != Some(&0);
            if !is_shortest {
                return false;
            }
            (value, contents)
        }
        _ => return false,
    };
    contents.len() == length && length > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::STANDARD as PADDED;

    /// The certificate of RFC 9440 appendix A, figure 5.
    const EXAMPLE: &str = ":MIIBqDCCAU6gAwIBAgIBBzAKBggqhkjOPQQDAjA6MRswGQYDVQQKDBJMZXQncyBBdXRoZW50aWNhdGUxGzAZBgNVBAMMEkxBIEludGVybWVkaWF0ZSBDQTAeFw0yMDAxMTQyMjU1MzNaFw0yMTAxMjMyMjU1MzNaMA0xCzAJBgNVBAMMAkJDMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE8YnXXfaUgmnMtOXU/IncWalRhebrXmckC8vdgJ1p5Be5F/3YC8OthxM4+k1M6aEAEFcGzkJiNy6J84y7uzo9M6NyMHAwCQYDVR0TBAIwADAfBgNVHSMEGDAWgBRm3WjLa38lbEYCuiCPct0ZaSED2DAOBgNVHQ8BAf8EBAMCBsAwEwYDVR0lBAwwCgYIKwYBBQUHAwIwHQYDVR0RAQH/BBMwEYEPYmRjQGV4YW1wbGUuY29tMAoGCCqGSM49BAMCA0gAMEUCIBHda/r1vaL6G3VliL4/Di6YK0Q6bMjeSkC3dFCOOB8TAiEAx/kHSB4urmiZ0NX5r5XarmPk0wmuydBVoU4hBVZ1yhk=:";

    fn of(field: &str) -> Result<Thumbprint, CertificateFault> {
        presented([field.as_bytes()])
    }

    #[test]
    fn the_example_of_the_standard_is_read() {
        let der = PADDED.decode(EXAMPLE.trim_matches(':')).unwrap();
        assert_eq!(of(EXAMPLE), Ok(Thumbprint::of_certificate(&der)));
        assert_eq!(
            of(&format!(" {EXAMPLE} ")),
            of(EXAMPLE),
            "spaces around do not count"
        );
        let unpadded = EXAMPLE.replace('=', "");
        assert_eq!(of(&unpadded), of(EXAMPLE), "padding may be left out");
    }

    #[test]
    fn what_is_no_certificate_has_no_thumbprint() {
        let with = |der: &[u8]| format!(":{}:", PADDED.encode(der));
        let pem = format!("-----BEGIN CERTIFICATE-----\n{}", EXAMPLE.trim_matches(':'));
        let example = PADDED.decode(EXAMPLE.trim_matches(':')).unwrap();
        let twice = [example.as_slice(), example.as_slice()].concat();
        let cut = &example[..example.len() - 1];
        let mut long = vec![0x30, 0x82, 0x40, 0x00];
        long.extend([0; 0x4000]);
        for field in [
            String::new(),
            ":".to_owned(),
            "::".to_owned(),
            EXAMPLE.trim_matches(':').to_owned(),
            format!("{EXAMPLE};a=1"),
            format!("{EXAMPLE}, {EXAMPLE}"),
            EXAMPLE.replace('+', "-"),
            EXAMPLE.replacen('M', "M ", 1),
            with(pem.as_bytes()),
            with(&twice),
            with(cut),
            with(&[0x30, 0x00]),
            with(&[0x30, 0x80, 0x00, 0x00]),
            with(&[0x30, 0x81, 0x01, 0x00]),
            with(&[0x30, 0x82, 0x00, 0x01, 0x00]),
            with(&[0x31, 0x01, 0x00]),
            with(&[0x30]),
            with(&long),
        ] {
            assert_eq!(of(&field), Err(CertificateFault::Unreadable), "{field}");
        }
    }

    #[test]
    fn one_field_is_one_certificate() {
        assert_eq!(presented([]), Err(CertificateFault::Missing));
        let twice = [EXAMPLE.as_bytes(), EXAMPLE.as_bytes()];
        assert_eq!(presented(twice), Err(CertificateFault::Unreadable));
    }
}
