//! Which kinds of upstream credential are there?

/// How the gateway authenticates to an upstream: `docs/contract/admin-api.md` section 6.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No credential.
    None,
    /// The mandate itself is the credential.
    CaracalMandate,
    /// A static key in a header or a query parameter.
    ApiKey,
    /// A static bearer token.
    BearerToken,
    /// RFC 7617.
    HttpBasic,
    /// RFC 6749 section 4.4, or an RFC 7523 assertion.
    ClientCredentials,
    /// RFC 6749 section 4.1: one stored connection per subject.
    AuthorizationCode,
    /// AWS Signature Version 4, made by the gateway.
    AwsSigv4,
}

impl Kind {
    /// The wire names, in the order of the contract.
    pub(crate) const NAMES: [&'static str; 8] = [
        "none",
        "caracal_mandate",
        "api_key",
        "bearer_token",
        "http_basic",
        "oauth2_client_credentials",
        "oauth2_authorization_code",
        "aws_sigv4",
    ];

    /// Reads a wire name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "none" => Self::None,
            "caracal_mandate" => Self::CaracalMandate,
            "api_key" => Self::ApiKey,
            "bearer_token" => Self::BearerToken,
            "http_basic" => Self::HttpBasic,
            "oauth2_client_credentials" => Self::ClientCredentials,
            "oauth2_authorization_code" => Self::AuthorizationCode,
            "aws_sigv4" => Self::AwsSigv4,
            _ => return None,
        })
    }

    /// The wire name.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::CaracalMandate => "caracal_mandate",
            Self::ApiKey => "api_key",
            Self::BearerToken => "bearer_token",
            Self::HttpBasic => "http_basic",
            Self::ClientCredentials => "oauth2_client_credentials",
            Self::AuthorizationCode => "oauth2_authorization_code",
            Self::AwsSigv4 => "aws_sigv4",
        }
    }

    /// Whether an OAuth server is behind it, whose reachability has not been shown when the provider is created.
    pub(crate) const fn is_oauth(self) -> bool {
        matches!(self, Self::ClientCredentials | Self::AuthorizationCode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back() {
        for name in Kind::NAMES {
            assert_eq!(Kind::parse(name).map(Kind::as_str), Some(name));
        }
        assert_eq!(Kind::parse("oauth2"), None);
    }
}
