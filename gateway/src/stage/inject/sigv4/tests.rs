use super::*;
use crate::connection::Origin;

fn aws(region: &str, service: &str, secret: &str) -> AwsSigning {
    AwsSigning {
        access_key_id: "AKIDEXAMPLE".to_owned(),
        secret_access_key: secret.to_owned(),
        session_token: None,
        region: region.to_owned(),
        service: service.to_owned(),
    }
}

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const S3_SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

fn signature(
    aws: &AwsSigning,
    at: i64,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    payload: &str,
) -> String {
    let headers: Vec<(String, String)> = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), trimmed(value)))
        .collect();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let request = Canonical {
        method,
        path,
        query,
        headers: &headers,
        payload,
    };
    let header = authorization(aws, &Date::at(at).unwrap(), &request);
    header.rsplit('=').next().unwrap().to_owned()
}

/// 2015-08-30T12:36:00Z, the moment of the AWS Signature Version 4 test suite.
const AT: i64 = 1_440_938_160;

#[test]
fn the_signing_key_is_that_of_the_documentation() {
    let key = signing_key(&aws("us-east-1", "iam", SECRET), "20150830");
    assert_eq!(
        hex::encode(key),
        "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"
    );
}

#[test]
fn the_published_test_suite_is_signed_alike() {
    let service = aws("us-east-1", "service", SECRET);
    let host = ("host", "example.amazonaws.com");
    let date = ("x-amz-date", "20150830T123600Z");
    for (method, target, expected) in [
        (
            "GET",
            "/",
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        ),
        (
            "POST",
            "/",
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
        ),
        (
            "GET",
            "/?Param2=value2&Param1=value1",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
    ] {
        let found = signature(&service, AT, method, target, &[host, date], EMPTY);
        assert_eq!(found, expected, "{method} {target}");
    }
    let form = ("content-type", "application/x-www-form-urlencoded");
    let body = hex::encode(digest(&SHA256, b"Param1=value1"));
    assert_eq!(
        signature(&service, AT, "POST", "/", &[form, host, date], &body),
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"
    );
}

#[test]
fn the_example_of_the_general_reference_is_signed_alike() {
    let headers = [
        ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
        ("host", "iam.amazonaws.com"),
        ("x-amz-date", "20150830T123600Z"),
    ];
    let target = "/?Action=ListUsers&Version=2010-05-08";
    assert_eq!(
        signature(
            &aws("us-east-1", "iam", SECRET),
            AT,
            "GET",
            target,
            &headers,
            EMPTY
        ),
        "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
    );
}

/// 2013-05-24T00:00:00Z, the moment of the examples of the S3 documentation.
const S3_AT: i64 = 1_369_353_600;

#[test]
fn the_examples_of_the_s3_documentation_are_signed_alike() {
    let s3 = aws("us-east-1", "s3", S3_SECRET);
    let host = ("host", "examplebucket.s3.amazonaws.com");
    let date = ("x-amz-date", "20130524T000000Z");
    let empty = ("x-amz-content-sha256", EMPTY);
    let range = ("range", "bytes=0-9");
    assert_eq!(
        signature(&s3, S3_AT, "GET", "/test.txt", &[host, range, empty, date], EMPTY),
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    );
    for (target, expected) in [
        (
            "/?lifecycle",
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            "/?max-keys=2&prefix=J",
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ] {
        assert_eq!(
            signature(&s3, S3_AT, "GET", target, &[host, empty, date], EMPTY),
            expected,
            "{target}"
        );
    }
    let body = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
    let headers = [
        ("date", "Fri, 24 May 2013 00:00:00 GMT"),
        host,
        ("x-amz-content-sha256", body),
        date,
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
    ];
    assert_eq!(
        signature(&s3, S3_AT, "PUT", "/test%24file.text", &headers, body),
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
    );
}

#[test]
fn paths_are_encoded_as_each_service_does() {
    for (path, once, twice) in [
        ("/", "/", "/"),
        ("/a%20b", "/a%20b", "/a%2520b"),
        ("/a!b", "/a%21b", "/a%21b"),
        ("/a//b/", "/a//b/", "/a/b/"),
        ("//", "//", "/"),
    ] {
        assert_eq!(canonical_path(path, "s3"), once, "{path}");
        assert_eq!(canonical_path(path, "execute-api"), twice, "{path}");
    }
    assert_eq!(canonical_query("b=2&a=%7E+x&a=&c"), "a=&a=~%20x&b=2&c=");
}

fn inbound(headers: &[(&'static str, &str)]) -> RequestHeader {
    let mut head = RequestHeader::build("PUT", b"/x", None).unwrap();
    for (name, value) in headers {
        head.append_header(*name, *value).unwrap();
    }
    head
}

fn planned(service: &str, is_tls: bool, headers: &[(&'static str, &str)]) -> Option<String> {
    let head = inbound(headers);
    let origin = origin();
    let request = Inbound::new(&head, &origin);
    let signing = Signing::plan(&aws("eu-west-1", service, SECRET), &request, is_tls, AT).ok()?;
    Some(signing.payload.to_str().unwrap().to_owned())
}

#[test]
fn a_body_is_signed_by_the_hash_the_client_gives_or_not_at_all() {
    let hash = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
    for (service, is_tls, headers, expected) in [
        ("sqs", true, vec![], Some(EMPTY)),
        ("sqs", true, vec![("content-length", "0")], Some(EMPTY)),
        ("sqs", true, vec![("content-length", "1")], None),
        ("sqs", true, vec![("transfer-encoding", "chunked")], None),
        ("s3", true, vec![("content-length", "1")], Some(UNSIGNED)),
        ("s3", false, vec![("content-length", "1")], None),
        (
            "sqs",
            true,
            vec![("content-length", "1"), ("x-amz-content-sha256", hash)],
            Some(hash),
        ),
        (
            "sqs",
            true,
            vec![("content-length", "1"), ("x-amz-content-sha256", UNSIGNED)],
            None,
        ),
        (
            "s3",
            true,
            vec![("content-length", "1"), ("x-amz-content-sha256", UNSIGNED)],
            Some(UNSIGNED),
        ),
        (
            "s3",
            true,
            vec![("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD")],
            None,
        ),
    ] {
        assert_eq!(
            planned(service, is_tls, &headers).as_deref(),
            expected,
            "{service} {is_tls} {headers:?}"
        );
    }
}

#[test]
fn what_the_client_signed_is_replaced_and_all_of_amazons_headers_are_signed() {
    let head = inbound(&[("host", "q.example")]);
    let origin = origin();
    let request = Inbound::new(&head, &origin);
    let mut keys = aws("eu-west-1", "sqs", SECRET);
    keys.session_token = Some("session-1".to_owned());
    let signing = Signing::plan(&keys, &request, true, AT).unwrap();
    let mut head = inbound(&[
        ("host", "q.example"),
        ("authorization", "AWS4-HMAC-SHA256 Credential=of/the/client"),
        ("x-amz-date", "19990101T000000Z"),
        ("x-amz-security-token", "of the client"),
        ("x-amz-target", "Amazon  SQS.SendMessage"),
    ]);
    signing.apply(&mut head).unwrap();
    let authorization = head.headers["authorization"].to_str().unwrap();
    assert!(
        authorization.starts_with(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/eu-west-1/sqs/aws4_request, \
             SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token;x-amz-target, Signature="
        ),
        "{authorization}"
    );
    assert_eq!(head.headers["x-amz-security-token"], "session-1");
    assert_eq!(head.headers["x-amz-date"], "20150830T123600Z");
    assert!(!format!("{signing:?} {head:?}").contains(SECRET));
    assert!(!format!("{signing:?}").contains("session-1"));
}

fn origin() -> Origin {
    let peer = "127.0.0.1:1".parse().unwrap();
    Origin {
        peer,
        is_tls: true,
        belongs_to_tls: false,
        certificate: None,
    }
}

#[test]
fn no_signature_reads_an_object_that_the_path_does_not_name() {
    let source = [("x-amz-copy-source", "/other/secret")];
    assert_eq!(planned("s3", true, &source), None);
    assert!(planned("s3", true, &[("x-amz-meta-owner", "me")]).is_some());
}
