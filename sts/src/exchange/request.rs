//! What does the form ask for? Syntax only; nothing here is proved.

use caracal_chassis::Secret;
use caracal_model::ScopeSet;
use caracal_wire::form::{self, Form, FormError};
use caracal_wire::sts::{ACCESS_TOKEN_TYPE, ID_TOKEN_TYPE, TOKEN_EXCHANGE_GRANT, field};

use super::refusal::Refusal;

/// A token exchange as requested.
#[derive(Debug)]
pub(crate) struct ExchangeRequest {
    /// Text of the zone's id; empty when the form names none.
    pub(crate) zone_id: String,
    /// Text of the application's id.
    pub(crate) application_id: String,
    pub(crate) client_secret: Secret,
    pub(crate) subject_token: Option<SubjectToken>,
    /// Identifiers or row ids: trimmed, each once, sorted by bytes.
    pub(crate) resources: Vec<String>,
    /// The scope field as it came: it is minted as it came.
    pub(crate) scope: String,
    pub(crate) scopes: ScopeSet,
    /// The authority record to bind to.
    pub(crate) session_id: Option<String>,
    /// The governed session.
    pub(crate) agent_session_id: Option<String>,
    pub(crate) delegation_edge_id: Option<String>,
    pub(crate) approval_id: Option<String>,
    /// 0 when the form names none.
    pub(crate) ttl_seconds: i64,
    /// The upstream operation; believed only when a gateway says so.
    pub(crate) unverified_method: String,
    pub(crate) unverified_path: String,
}

/// A presented subject token.
#[derive(Debug)]
pub(crate) struct SubjectToken {
    pub(crate) kind: SubjectTokenKind,
    pub(crate) token: Secret,
}

/// Which kind of token the form says it is (RFC 8693 section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SubjectTokenKind {
    AccessToken,
    IdToken,
}

/// The field that may appear more than once.
const REPEATABLE: [&str; 1] = [field::RESOURCE];

/// Reads the body of a token request.
///
/// # Errors
/// [`Refusal::MalformedBody`] and [`Refusal::DuplicateField`].
pub(crate) fn parse_form(body: &[u8]) -> Result<Form, Refusal> {
    form::parse(body, &REPEATABLE).map_err(|error| match error {
        FormError::Malformed => Refusal::MalformedBody,
        FormError::Duplicate(name) => Refusal::DuplicateField(name),
    })
}

/// The checks that come before the gateway's signature is looked at; gives the requested lifetime.
///
/// # Errors
/// Fields of unsupported methods, whatever they hold, and a lifetime that is not a number.
pub(crate) fn check_supported(form: &Form) -> Result<i64, Refusal> {
    let unsupported = [
        (field::ACTOR_TOKEN, Refusal::ActorToken),
        (field::CLIENT_ASSERTION, Refusal::ClientAssertion),
        (field::CLIENT_ASSERTION_TYPE, Refusal::ClientAssertionType),
    ];
    for (name, refusal) in unsupported {
        if form.contains(name) {
            return Err(refusal);
        }
    }
    match form.get(field::TTL_SECONDS).map(str::trim) {
        None | Some("") => Ok(0),
        Some(text) => text.parse().or(Err(Refusal::TtlSyntax)),
    }
}

impl ExchangeRequest {
    /// Reads the rest of the form.
    ///
    /// # Errors
    /// The first rule it breaks, in the order of the contract.
    pub(crate) fn read(form: &Form, ttl_seconds: i64) -> Result<Self, Refusal> {
        let resources = resources(form)?;
        if form.get(field::GRANT_TYPE) != Some(TOKEN_EXCHANGE_GRANT) {
            return Err(Refusal::GrantType);
        }
        let subject_token = subject_token(form)?;
        let scope = form.get(field::SCOPE).unwrap_or_default().to_owned();
        Ok(Self {
            zone_id: text(form, field::ZONE_ID).unwrap_or_default(),
            application_id: form
                .get(field::APPLICATION_ID)
                .unwrap_or_default()
                .trim()
                .to_owned(),
            client_secret: Secret::from(form.get(field::CLIENT_SECRET).unwrap_or_default()),
            subject_token,
            resources,
            scopes: ScopeSet::parse(&scope),
            scope,
            session_id: text(form, field::SESSION_ID),
            agent_session_id: text(form, field::AGENT_SESSION_ID),
            delegation_edge_id: text(form, field::DELEGATION_EDGE_ID),
            approval_id: text(form, field::APPROVAL_ID),
            ttl_seconds,
            unverified_method: form
                .get(field::REQUEST_METHOD)
                .unwrap_or_default()
                .to_ascii_uppercase(),
            unverified_path: form.get(field::REQUEST_PATH).unwrap_or_default().to_owned(),
        })
    }
}

/// An empty field counts as absent.
fn text(form: &Form, name: &str) -> Option<String> {
    form.get(name).filter(|text| !text.is_empty()).map(str::to_owned)
}

fn resources(form: &Form) -> Result<Vec<String>, Refusal> {
    let mut resources: Vec<String> = form
        .all(field::RESOURCE)
        .into_iter()
        .map(|text| text.trim().to_owned())
        .collect();
    if resources.iter().any(String::is_empty) {
        return Err(Refusal::EmptyResource);
    }
    resources.sort_unstable();
    resources.dedup();
    Ok(resources)
}

fn subject_token(form: &Form) -> Result<Option<SubjectToken>, Refusal> {
    let kind = match form
        .get(field::SUBJECT_TOKEN_TYPE)
        .filter(|text| !text.is_empty())
    {
        None => None,
        Some(ACCESS_TOKEN_TYPE) => Some(SubjectTokenKind::AccessToken),
        Some(ID_TOKEN_TYPE) => Some(SubjectTokenKind::IdToken),
        Some(_) => return Err(Refusal::SubjectTokenType),
    };
    let token = form.get(field::SUBJECT_TOKEN).filter(|text| !text.is_empty());
    match (kind, token) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(Refusal::SubjectTokenTypeMissing),
        (Some(_), None) => Err(Refusal::SubjectTokenMissing),
        (Some(kind), Some(token)) => Ok(Some(SubjectToken {
            kind,
            token: Secret::from(token),
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRANT: &str = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange";

    fn form(body: &str) -> Form {
        parse_form(body.as_bytes()).unwrap()
    }

    fn read(rest: &str) -> Result<ExchangeRequest, Refusal> {
        ExchangeRequest::read(&form(&format!("{GRANT}&{rest}")), 0)
    }

    #[test]
    fn unsupported_fields_are_refused_even_when_empty() {
        for (field, refusal) in [
            ("actor_token", Refusal::ActorToken),
            ("client_assertion", Refusal::ClientAssertion),
            ("client_assertion_type", Refusal::ClientAssertionType),
        ] {
            assert_eq!(check_supported(&form(&format!("{field}="))), Err(refusal.clone()));
            assert_eq!(
                check_supported(&form(&format!("ttl_seconds=x&{field}=y"))),
                Err(refusal),
                "before the ttl"
            );
        }
    }

    #[test]
    fn the_lifetime_is_a_whole_number_or_absent() {
        assert_eq!(check_supported(&form("")), Ok(0));
        assert_eq!(check_supported(&form("ttl_seconds=")), Ok(0));
        assert_eq!(check_supported(&form("ttl_seconds=900")), Ok(900));
        assert_eq!(
            check_supported(&form("ttl_seconds=-1")),
            Ok(-1),
            "refused later, with the caller known"
        );
        for text in ["1.5", "9e2", "abc", "99999999999999999999"] {
            assert_eq!(
                check_supported(&form(&format!("ttl_seconds={text}"))),
                Err(Refusal::TtlSyntax),
                "{text}"
            );
        }
    }

    #[test]
    fn resources_are_trimmed_sorted_and_named_once() {
        let request = read("resource=b&resource=%20a%20&resource=b").unwrap();
        assert_eq!(request.resources, ["a", "b"]);
        assert_eq!(
            read("resource=a&resource=%20").unwrap_err(),
            Refusal::EmptyResource
        );
    }

    #[test]
    fn rules_apply_in_the_order_of_the_contract() {
        let other_grant = ExchangeRequest::read(&form("grant_type=client_credentials&resource="), 0);
        assert_eq!(other_grant.unwrap_err(), Refusal::EmptyResource);
        let other_grant =
            ExchangeRequest::read(&form("grant_type=client_credentials&subject_token_type=x"), 0);
        assert_eq!(other_grant.unwrap_err(), Refusal::GrantType);
        assert_eq!(
            ExchangeRequest::read(&form(""), 0).unwrap_err(),
            Refusal::GrantType
        );
        assert_eq!(
            read("subject_token=t&subject_token_type=x").unwrap_err(),
            Refusal::SubjectTokenType
        );
        assert_eq!(
            read("subject_token=t").unwrap_err(),
            Refusal::SubjectTokenTypeMissing
        );
        let kind = "urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token";
        assert_eq!(
            read(&format!("subject_token_type={kind}")).unwrap_err(),
            Refusal::SubjectTokenMissing
        );
        let both = read(&format!("subject_token_type={kind}&subject_token=t")).unwrap();
        assert_eq!(both.subject_token.unwrap().kind, SubjectTokenKind::AccessToken);
    }

    #[test]
    fn the_scope_is_kept_as_it_came() {
        let request = read("scope=b%20%20a%09c").unwrap();
        assert_eq!(request.scope, "b  a\tc");
        assert_eq!(request.scopes.to_text(), "a b c");
    }
}
