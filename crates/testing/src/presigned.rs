//! A storage service that believes nothing but the signature of a URL (AWS Signature Version 4, query parameters), and
//! who makes such URLs.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;

use crate::upstream::RecordedRequest;

/// The key pair and region of the examples in Amazon's documentation of Signature Version 4.
const ACCESS_KEY: &str = "AKIAIOSFODNN7EXAMPLE";
const SECRET_KEY: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const DAY: &str = "20130524";
const REGION: &str = "us-east-1";
const SIGNATURE: &str = "X-Amz-Signature=";

/// A URL whose query proves that it may be used: path and query, for one method at one host.
#[derive(Clone, Debug)]
pub struct Presigned {
    /// What the client asks for.
    pub target: String,
}

impl Presigned {
    /// Signs `path`, which is in its canonical form (RFC 3986 section 2.1, encoded once, in capitals), with `parameters` of the
    /// caller's, sorted by name and encoded.
    pub fn new(method: &str, host: &str, path: &str, parameters: &str) -> Self {
        let query = format!(
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={ACCESS_KEY}%2F{DAY}%2F{REGION}%2Fs3%2Faws4_request\
             &X-Amz-Date={DAY}T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host{parameters}"
        );
        let signature = signature(method, host, path, &query);
        Self {
            target: format!("{path}?{query}&{SIGNATURE}{signature}"),
        }
    }

    /// Whether the request that reached a storage service is one that somebody signed: the method, the `Host`, the path and the
    /// query as they arrived, byte for byte.
    pub fn verifies(request: &RecordedRequest) -> bool {
        let Some((path, query)) = request.target.split_once('?') else {
            return false;
        };
        let (mut signed, mut presented) = (Vec::new(), None);
        for pair in query.split('&') {
            match pair.strip_prefix(SIGNATURE) {
                Some(value) => presented = Some(value),
                None => signed.push(pair),
            }
        }
        signed.sort_unstable();
        let host = request.header("host").unwrap_or_default();
        let expected = signature(request.method.as_str(), host, path, &signed.join("&"));
        presented == Some(expected.as_str())
    }
}

fn signature(method: &str, host: &str, path: &str, query: &str) -> String {
    let canonical = format!("{method}\n{path}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD");
    let scope = format!("{DAY}/{REGION}/s3/aws4_request");
    let hashed = hex::encode(digest(&SHA256, canonical.as_bytes()).as_ref());
    let text = format!("AWS4-HMAC-SHA256\n{DAY}T000000Z\n{scope}\n{hashed}");
    let mut key = format!("AWS4{SECRET_KEY}").into_bytes();
    for part in [DAY, REGION, "s3", "aws4_request", &text] {
        let signing = hmac::Key::new(hmac::HMAC_SHA256, &key);
        key = hmac::sign(&signing, part.as_bytes()).as_ref().to_vec();
    }
    hex::encode(&key)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Amazon S3 API reference, "Authenticating Requests: Using Query Parameters", the example.
    #[test]
    fn the_example_of_the_documentation_has_its_signature() {
        let url = Presigned::new("GET", "examplebucket.s3.amazonaws.com", "/test.txt", "");
        let expected = "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
        assert!(url.target.ends_with(expected), "{}", url.target);
    }
}
