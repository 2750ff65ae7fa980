//! How is one certificate obtained? One order for one name (RFC 8555 section 7.4), so that a name that cannot be had holds up no other.

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Identifier, NewAccount, NewOrder, Order, OrderStatus,
    RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use super::document::{Issued, PendingChallenge};
use super::store::{Kept, StoreError};
use super::{Acme, PairFault};
use crate::config::Challenge;
use crate::tls::Pair;

/// How long the authority may take to look at the proof, and then to issue.
const POLL: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .backoff(1.5)
    .timeout(Duration::from_mins(1));
/// What an authority says to an account that it does not know, or that was deactivated (RFC 8555 sections 6.7 and 7.3.6).
const NO_ACCOUNT: [&str; 2] = [
    "urn:ietf:params:acme:error:accountDoesNotExist",
    "urn:ietf:params:acme:error:unauthorized",
];

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum OrderError {
    /// The authority cannot be reached, or says no.
    #[error("the certificate authority does not give it")]
    Authority(#[from] instant_acme::Error),
    /// The authority does not believe that the name is ours.
    #[error("the certificate authority does not believe the proof: {0}")]
    Disbelieved(String),
    /// The authority does not take this kind of proof.
    #[error("the certificate authority does not take a proof by {0:?}")]
    NoChallenge(Challenge),
    /// What must be known to all replicas could not be written.
    #[error("the order cannot be shared with the other gateways")]
    Store(#[from] StoreError),
    /// The account cannot be written down or read.
    #[error("the account cannot be read")]
    Account(#[from] serde_json::Error),
    /// There is no key or request.
    #[error("the request cannot be made")]
    Request(#[from] rcgen::Error),
    /// What was issued cannot be shown.
    #[error("what the certificate authority issued cannot be used")]
    Unusable(#[source] PairFault),
    /// It takes too long.
    #[error("the order takes too long")]
    Timeout,
}

impl OrderError {
    /// Whether the account is no longer one to the authority, so that the next order must begin with another one.
    pub(super) fn is_without_account(&self) -> bool {
        let Self::Authority(instant_acme::Error::Api(problem)) = self else {
            return false;
        };
        let kind = problem.r#type.as_deref();
        kind.is_some_and(|kind| NO_ACCOUNT.contains(&kind))
    }
}

impl Acme {
    /// Obtains a certificate for `domain`. What the other replicas must know meanwhile is written to the store.
    ///
    /// # Errors
    /// [`OrderError`].
    pub(super) async fn order(&self, kept: &mut Kept, domain: &str) -> Result<Issued, OrderError> {
        let account = self.account(kept).await?;
        let names = [Identifier::Dns(domain.to_owned())];
        let mut order = account.new_order(&NewOrder::new(&names)).await?;
        self.prove(&mut order, kept, domain).await?;
        if order.poll_ready(&POLL).await? != OrderStatus::Ready {
            return Err(OrderError::Disbelieved(reason(&mut order).await));
        }
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new([domain.to_owned()])?;
        params.distinguished_name = DistinguishedName::new();
        order.finalize_csr(params.serialize_request(&key)?.der()).await?;
        let issued = Issued {
            chain: order.poll_certificate(&POLL).await?,
            key: key.serialize_pem(),
        };
        let pair = self.pair(&issued).map_err(OrderError::Unusable)?;
        if !pair.names().iter().any(|name| name == domain) {
            return Err(OrderError::Unusable(PairFault::OtherName));
        }
        Ok(issued)
    }

    /// Opens the challenges of an order at all replicas, and then tells the authority.
    async fn prove(&self, order: &mut Order, kept: &mut Kept, domain: &str) -> Result<(), OrderError> {
        let kind = match self.settings.challenge {
            Challenge::Http01 => ChallengeType::Http01,
            Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
        };
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            match authorization.status {
                AuthorizationStatus::Pending => {}
                // Proved a short while ago.
                AuthorizationStatus::Valid => continue,
                status => return Err(OrderError::Disbelieved(format!("{status:?}"))),
            }
            let mut challenge = authorization
                .challenge(kind.clone())
                .ok_or(OrderError::NoChallenge(self.settings.challenge))?;
            kept.document.challenges = vec![PendingChallenge {
                domain: domain.to_owned(),
                token: challenge.token.clone(),
                key_authorization: challenge.key_authorization().as_str().to_owned(),
            }];
            self.store.write(kept).await?;
            self.challenges.replace(&kept.document.challenges);
            challenge.set_ready().await?;
        }
        Ok(())
    }

    /// The account of this installation; a new one when there is none.
    async fn account(&self, kept: &mut Kept) -> Result<Account, OrderError> {
        let builder = Account::builder_with_http(Box::new(self.authority.clone()));
        if let Some(account) = &kept.document.account {
            let credentials = serde_json::from_value(account.clone())?;
            return Ok(builder.from_credentials(credentials).await?);
        }
        let contact: Vec<&str> = self.settings.contacts.iter().map(String::as_str).collect();
        let terms = NewAccount {
            contact: &contact,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let directory = self.settings.directory.to_string();
        let (account, credentials) = builder.create(&terms, directory, None).await?;
        kept.document.account = Some(serde_json::to_value(credentials)?);
        self.store.write(kept).await?;
        Ok(account)
    }

    /// What was issued, ready to be shown.
    pub(super) fn pair(&self, issued: &Issued) -> Result<Pair, PairFault> {
        Ok(Pair::from_pem(
            issued.chain.as_bytes(),
            issued.key.as_bytes(),
            &self.provider,
        )?)
    }
}

/// Why an authority does not believe, in its own words.
async fn reason(order: &mut Order) -> String {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else {
            continue;
        };
        if let Some(problem) = state.challenges.iter().find_map(|tried| tried.error.as_ref()) {
            return problem.to_string();
        }
    }
    "it does not say why".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_that_is_gone_or_deactivated_is_replaced_and_no_other() {
        for (kind, is_gone) in [
            ("accountDoesNotExist", true),
            ("unauthorized", true),
            ("rateLimited", false),
            ("rejectedIdentifier", false),
            ("serverInternal", false),
        ] {
            let problem =
                format!(r#"{{"type":"urn:ietf:params:acme:error:{kind}","detail":"x","status":403}}"#);
            let problem = instant_acme::Error::Api(serde_json::from_str(&problem).unwrap());
            assert_eq!(
                OrderError::Authority(problem).is_without_account(),
                is_gone,
                "{kind}"
            );
        }
        assert!(!OrderError::Timeout.is_without_account());
    }
}
