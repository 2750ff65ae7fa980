//! What do the mandates of a test say? A complete claim set, with only what matters spelled out in the test.

use caracal_model::{ApplicationId, AuthorityRecordId, DelegationId, SessionId, SubjectId, TokenId, ZoneId};
use caracal_token::{Claims, SubjectType, Use};
use uuid::Uuid;

use crate::keys::TestKeys;

/// The issuer of a test's mandates, unless it says otherwise.
const ISSUER: &str = "http://sts.test";

/// How long they live, in seconds: the default of the token service.
const LIFETIME: i64 = 900;

/// Builds the claims of a mandate. Begin with the class, change what the test is about, end with [`Mandate::sign`] or
/// [`Mandate::claims`].
#[derive(Clone, Debug)]
pub struct Mandate {
    claims: Claims,
}

impl Mandate {
    /// A reusable mandate of an application, as it opens governed sessions with (`use` = session).
    pub fn session(zone: &str, application: &str, now: i64) -> Self {
        Self {
            claims: base(Use::Session, zone, application, now),
        }
    }

    /// A mandate for one call through the gateway, bound to a governed session and a delegation (`use` = gateway).
    pub fn gateway(zone: &str, application: &str, now: i64) -> Self {
        Self {
            claims: base(Use::Gateway, zone, application, now),
        }
        .bound_to("session-target", "delegation-1")
    }

    /// A mandate for one resource, as upstreams verify it (`use` = resource).
    pub fn resource(zone: &str, application: &str, resource: &str, now: i64) -> Self {
        let mut mandate = Self {
            claims: base(Use::Resource, zone, application, now),
        };
        mandate.claims.aud = vec![resource.to_owned()];
        mandate.target(resource)
    }

    /// The scopes, separated by blanks.
    #[must_use]
    pub fn scope(mut self, scope: &str) -> Self {
        self.claims.scope = Some(scope.to_owned());
        self
    }

    /// One more resource it was granted for.
    #[must_use]
    pub fn target(mut self, resource: &str) -> Self {
        self.claims.target.push(resource.to_owned());
        self
    }

    /// The governed session and the delegation it is bound to.
    #[must_use]
    pub fn bound_to(mut self, session: &str, delegation: &str) -> Self {
        let session = SessionId::try_from(session).expect("a session id");
        let delegation = DelegationId::try_from(delegation).expect("a delegation id");
        self.claims.agent_session_id = Some(session.clone());
        self.claims.target_session_id = Some(session);
        self.claims.delegation_edge_id = Some(delegation.clone());
        self.claims.delegation_path = vec![delegation];
        self.claims.hop_count = 1;
        self
    }

    /// The authority record it is anchored in, and the root of that record's chain.
    #[must_use]
    pub fn anchored_in(mut self, record: &str, root: &str) -> Self {
        self.claims.sid = AuthorityRecordId::try_from(record).expect("a record id");
        self.claims.root_sid = AuthorityRecordId::try_from(root).expect("a record id");
        self
    }

    /// When it was issued and how long it lives, both in seconds.
    #[must_use]
    pub fn issued(mut self, at: i64, lifetime: i64) -> Self {
        self.claims.iat = at;
        self.claims.exp = at + lifetime;
        self
    }

    /// Who issued it; the audience of mandates that go back to the issuer.
    #[must_use]
    pub fn issuer(mut self, issuer: &str) -> Self {
        if self.claims.r#use != Use::Resource {
            self.claims.aud = vec![issuer.to_owned()];
        }
        issuer.clone_into(&mut self.claims.iss);
        self
    }

    /// Any other change.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Claims)) -> Self {
        change(&mut self.claims);
        self
    }

    /// The claims.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The compact mandate.
    pub fn sign(&self, keys: &TestKeys) -> String {
        keys.sign(&self.claims)
    }
}

fn base(class: Use, zone: &str, application: &str, now: i64) -> Claims {
    let record = AuthorityRecordId::try_from(Uuid::new_v4().to_string()).expect("a UUID is an id");
    Claims {
        iss: ISSUER.to_owned(),
        sub: SubjectId::try_from(application).expect("a subject"),
        aud: vec![ISSUER.to_owned()],
        exp: now + LIFETIME,
        iat: now,
        jti: TokenId::try_from(Uuid::new_v4().to_string()).expect("a UUID is an id"),
        zone_id: ZoneId::try_from(zone).expect("a zone id"),
        client_id: ApplicationId::try_from(application).expect("an application id"),
        scope: None,
        sid: record.clone(),
        root_sid: record,
        r#use: class,
        sub_type: SubjectType::Application,
        target: Vec::new(),
        agent_session_id: None,
        delegation_edge_id: None,
        source_session_id: None,
        target_session_id: None,
        delegation_path: Vec::new(),
        delegation_chain: Vec::new(),
        act: None,
        cnf: None,
        hop_count: 0,
        delegation_graph_epoch: 0,
    }
}

#[cfg(test)]
mod tests {
    use caracal_model::UnixSeconds;
    use caracal_token::{Rules, UnverifiedToken, verify};

    use super::*;

    #[test]
    fn every_class_of_mandate_verifies() {
        let keys = TestKeys::new();
        let now = 1_700_000_000;
        for (mandate, audience) in [
            (
                Mandate::session("z1", "app-1", now).scope("agent:lifecycle"),
                ISSUER,
            ),
            (
                Mandate::gateway("z1", "app-1", now)
                    .target("resource://crm")
                    .scope("crm:read"),
                ISSUER,
            ),
            (
                Mandate::resource("z1", "app-1", "resource://crm", now),
                "resource://crm",
            ),
        ] {
            let text = mandate.sign(&keys);
            let rules = Rules {
                issuer: ISSUER,
                audience,
                leeway_seconds: 0,
                uses: &[Use::Session, Use::Gateway, Use::Resource],
            };
            let token = UnverifiedToken::parse(&text).unwrap();
            let claims = verify(token, &keys.key_set(), &rules, UnixSeconds(now)).unwrap();
            assert_eq!(&claims, mandate.claims());
        }
    }
}
