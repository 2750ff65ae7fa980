//! What does the form ask for? Syntax only; nothing here is proved.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use caracal_chassis::Secret;
use caracal_model::ScopeSet;
use caracal_token::{Possession, Thumbprint, TokenType};
use caracal_wire::form::{self, Form, FormError};
use caracal_wire::sts::{
    ACCESS_TOKEN_TYPE, CLIENT_ASSERTION_JWT, ID_TOKEN_TYPE, JWT_TYPE, TOKEN_EXCHANGE_GRANT, field,
};

use super::client::ClientAssertion;
use super::possession::{PresentedCertificate, Sender};
use super::refusal::Refusal;

/// A token exchange as requested.
#[derive(Debug)]
pub(crate) struct ExchangeRequest {
    /// Text of the zone's id; empty when the form names none.
    pub(crate) zone_id: String,
    /// Text of the application's id.
    pub(crate) application_id: String,
    pub(crate) client_secret: Secret,
    /// A token of the client that proves it instead of the secret.
    pub(crate) client_assertion: Option<ClientAssertion>,
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
    /// The same, proved with the secret that came with it.
    pub(crate) challenge: Option<Challenge>,
    /// 0 when the form names none.
    pub(crate) ttl_seconds: i64,
    pub(crate) requested: RequestedToken,
    /// What the sender says about the keys it holds.
    pub(crate) sender: Sender,
    /// The upstream operation; believed only when a gateway says so.
    pub(crate) unverified_method: String,
    pub(crate) unverified_path: String,
    /// The signature of the call, when a proven gateway asked for a MAC over it and the answer. A mandate that no upstream
    /// would see is not signed then.
    pub(crate) sealed: Option<String>,
}

/// The answer to a step-up challenge.
#[derive(Debug)]
pub(crate) struct Challenge {
    pub(crate) id: String,
    pub(crate) response: Secret,
}

/// A presented subject token.
#[derive(Debug)]
pub(crate) struct SubjectToken {
    pub(crate) kind: SubjectTokenKind,
    /// Where it stands: it is the longest of all fields, and not copied. Shows its values to nobody.
    form: Arc<Form>,
    /// Whether this request has used the token up, if it is good once.
    pub(crate) is_used: AtomicBool,
}

impl SubjectToken {
    /// The token.
    pub(crate) fn expose(&self) -> &str {
        self.form.get(field::SUBJECT_TOKEN).unwrap_or_default()
    }
}

/// Which kind of token the form says it is (RFC 8693 section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SubjectTokenKind {
    AccessToken,
    IdToken,
}

/// Which kind of token is wanted (RFC 8693 section 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestedToken {
    /// A mandate as it always was.
    Mandate,
    /// A mandate by the profile of RFC 9068: the header says `at+jwt`.
    AccessTokenProfile,
}

impl RequestedToken {
    /// What the answer says was issued.
    pub(crate) fn issued_type(self) -> &'static str {
        match self {
            Self::Mandate => ACCESS_TOKEN_TYPE,
            Self::AccessTokenProfile => JWT_TYPE,
        }
    }

    /// What the header of the token says.
    pub(crate) fn header_type(self) -> TokenType {
        match self {
            Self::Mandate => TokenType::Jwt,
            Self::AccessTokenProfile => TokenType::AccessToken,
        }
    }
}

/// Fields of a token request that may appear more than once.
pub(crate) const REPEATABLE: [&str; 2] = [field::RESOURCE, field::AUDIENCE];

/// Reads the body of a request, in which only fields of `repeatable` may appear more than once.
///
/// # Errors
/// [`Refusal::MalformedBody`] and [`Refusal::DuplicateField`].
pub(crate) fn parse_form(body: &[u8], repeatable: &[&str]) -> Result<Form, Refusal> {
    form::parse(body, repeatable).map_err(|error| match error {
        FormError::Malformed => Refusal::MalformedBody,
        FormError::Duplicate(name) => Refusal::DuplicateField(name),
    })
}

/// The checks that come before the gateway's signature is looked at; gives the requested lifetime.
///
/// # Errors
/// Fields of unsupported methods, whatever they hold, and a lifetime that is not a number.
pub(crate) fn check_supported(form: &Form) -> Result<i64, Refusal> {
    if form.contains(field::ACTOR_TOKEN) {
        return Err(Refusal::ActorToken);
    }
    client_assertion(form)?;
    match form.get(field::TTL_SECONDS).map(str::trim) {
        None | Some("") => Ok(0),
        Some(text) => text.parse().or(Err(Refusal::TtlSyntax)),
    }
}

/// The client assertion, if there is one: of the one kind that is taken, and instead of a secret (RFC 6749 section 2.3: a
/// client uses one method).
///
/// # Errors
/// [`Refusal::ClientAssertion`] and [`Refusal::ClientAssertionType`].
pub(crate) fn client_assertion(form: &Form) -> Result<Option<ClientAssertion>, Refusal> {
    let assertion = form.get(field::CLIENT_ASSERTION);
    let kind = form.get(field::CLIENT_ASSERTION_TYPE);
    match (assertion, kind) {
        (None, None) => Ok(None),
        (None | Some(""), _) => Err(Refusal::ClientAssertion),
        (Some(_), kind) if kind != Some(CLIENT_ASSERTION_JWT) => Err(Refusal::ClientAssertionType),
        (Some(_), _) if form.contains(field::CLIENT_SECRET) => Err(Refusal::ClientAssertion),
        (Some(assertion), _) => Ok(Some(ClientAssertion::new(assertion))),
    }
}

impl ExchangeRequest {
    /// Reads the rest of the form.
    ///
    /// # Errors
    /// The first rule it breaks, in the order of the contract.
    pub(crate) fn read(form: &Arc<Form>, ttl_seconds: i64) -> Result<Self, Refusal> {
        let resources = resources(form)?;
        if form.get(field::GRANT_TYPE) != Some(TOKEN_EXCHANGE_GRANT) {
            return Err(Refusal::GrantType);
        }
        let subject_token = subject_token(form)?;
        let requested = requested(form)?;
        let scope = form.get(field::SCOPE).unwrap_or_default().to_owned();
        Ok(Self {
            zone_id: text(form, field::ZONE_ID).unwrap_or_default(),
            application_id: form
                .get(field::APPLICATION_ID)
                .unwrap_or_default()
                .trim()
                .to_owned(),
            client_secret: Secret::from(form.get(field::CLIENT_SECRET).unwrap_or_default()),
            client_assertion: client_assertion(form)?,
            subject_token,
            resources,
            scopes: ScopeSet::parse(&scope),
            scope,
            session_id: text(form, field::SESSION_ID),
            agent_session_id: text(form, field::AGENT_SESSION_ID),
            delegation_edge_id: text(form, field::DELEGATION_EDGE_ID),
            approval_id: text(form, field::APPROVAL_ID),
            challenge: text(form, field::CHALLENGE_ID).map(|id| Challenge {
                id,
                response: Secret::from(form.get(field::CHALLENGE_RESPONSE).unwrap_or_default()),
            }),
            ttl_seconds,
            requested,
            sender: Sender {
                proof: None,
                certificate: PresentedCertificate::default(),
                unverified_shown: Possession {
                    jkt: form.get(field::SENDER_JKT).and_then(Thumbprint::parse),
                    x5t_s256: form.get(field::SENDER_X5T).and_then(Thumbprint::parse),
                },
            },
            unverified_method: form
                .get(field::REQUEST_METHOD)
                .unwrap_or_default()
                .to_ascii_uppercase(),
            unverified_path: form.get(field::REQUEST_PATH).unwrap_or_default().to_owned(),
            sealed: None,
        })
    }
}

/// An empty field counts as absent.
fn text(form: &Form, name: &str) -> Option<String> {
    form.get(name).filter(|text| !text.is_empty()).map(str::to_owned)
}

/// What `resource` and `audience` name, together. An empty audience was always passed over.
fn resources(form: &Form) -> Result<Vec<String>, Refusal> {
    let named = |field: &str| -> Vec<String> {
        let values = form.all(field).into_iter();
        values.map(|text| text.trim().to_owned()).collect()
    };
    let mut resources = named(field::RESOURCE);
    if resources.iter().any(String::is_empty) {
        return Err(Refusal::EmptyResource);
    }
    let audiences = named(field::AUDIENCE).into_iter();
    resources.extend(audiences.filter(|audience| !audience.is_empty()));
    // Names are joined by line feeds in what an approval is bound to.
    if resources.iter().any(|name| name.chars().any(char::is_control)) {
        return Err(Refusal::MalformedBody);
    }
    resources.sort_unstable();
    resources.dedup();
    Ok(resources)
}

fn requested(form: &Form) -> Result<RequestedToken, Refusal> {
    match form.get(field::REQUESTED_TOKEN_TYPE).unwrap_or_default() {
        "" | ACCESS_TOKEN_TYPE => Ok(RequestedToken::Mandate),
        JWT_TYPE => Ok(RequestedToken::AccessTokenProfile),
        _ => Err(Refusal::RequestedTokenType),
    }
}

fn subject_token(form: &Arc<Form>) -> Result<Option<SubjectToken>, Refusal> {
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
        (Some(kind), Some(_token)) => Ok(Some(SubjectToken {
            kind,
            form: Arc::clone(form),
            is_used: AtomicBool::new(false),
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRANT: &str = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange";

    fn form(body: &str) -> Arc<Form> {
        Arc::new(parse_form(body.as_bytes(), &REPEATABLE).unwrap())
    }

    fn read(rest: &str) -> Result<ExchangeRequest, Refusal> {
        ExchangeRequest::read(&form(&format!("{GRANT}&{rest}")), 0)
    }

    #[test]
    fn a_client_assertion_is_a_jwt_and_stands_alone() {
        let kind = "urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer";
        let read = |body: &str| client_assertion(&form(body));
        let both = format!("client_assertion=a&client_assertion_type={kind}");
        assert!(read(&both).unwrap().is_some());
        assert_eq!(read("").unwrap().map(|_| ()), None);
        for (body, refusal) in [
            ("client_assertion=a".to_owned(), Refusal::ClientAssertionType),
            (
                "client_assertion=a&client_assertion_type=x".to_owned(),
                Refusal::ClientAssertionType,
            ),
            (format!("client_assertion_type={kind}"), Refusal::ClientAssertion),
            (
                format!("client_assertion=&client_assertion_type={kind}"),
                Refusal::ClientAssertion,
            ),
            (format!("{both}&client_secret="), Refusal::ClientAssertion),
        ] {
            assert_eq!(read(&body).map(|_| ()).unwrap_err(), refusal, "{body}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_even_when_empty() {
        for (field, refusal) in [
            ("actor_token", Refusal::ActorToken),
            ("client_assertion", Refusal::ClientAssertion),
            ("client_assertion_type", Refusal::ClientAssertion),
        ] {
            assert_eq!(check_supported(&form(&format!("{field}="))), Err(refusal.clone()));
            assert_eq!(
                check_supported(&form(&format!("ttl_seconds=x&{field}="))),
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
    fn an_audience_is_a_resource_by_another_name() {
        let request = read("audience=b&resource=a&audience=%20a&audience=").unwrap();
        assert_eq!(request.resources, ["a", "b"]);
    }

    #[test]
    fn the_kind_of_token_is_a_mandate_in_one_of_two_shapes() {
        let kind = |name: &str| read(&format!("requested_token_type={name}")).map(|read| read.requested);
        let urn = |name: &str| format!("urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3A{name}");
        assert_eq!(read("").unwrap().requested, RequestedToken::Mandate);
        assert_eq!(kind("").unwrap(), RequestedToken::Mandate);
        assert_eq!(kind(&urn("access_token")).unwrap(), RequestedToken::Mandate);
        assert_eq!(kind(&urn("jwt")).unwrap(), RequestedToken::AccessTokenProfile);
        for other in [
            urn("id_token"),
            urn("refresh_token"),
            urn("saml2"),
            "x".to_owned(),
        ] {
            assert_eq!(kind(&other).unwrap_err(), Refusal::RequestedTokenType, "{other}");
        }
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
    fn a_request_does_not_show_the_token_it_presents() {
        let kind = "urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token";
        let request = read(&format!("subject_token_type={kind}&subject_token=hunter2")).unwrap();
        assert!(!format!("{request:?}").contains("hunter2"));
        assert_eq!(request.subject_token.unwrap().expose(), "hunter2");
    }

    #[test]
    fn the_scope_is_kept_as_it_came() {
        let request = read("scope=b%20%20a%09c").unwrap();
        assert_eq!(request.scope, "b  a\tc");
        assert_eq!(request.scopes.to_text(), "a b c");
    }
}
