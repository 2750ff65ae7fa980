//! Who is calling, and what may that token do?

use caracal_model::{AdminTokenId, ZoneId};

/// What a token may do: `docs/contract/admin-api.md` section 2.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Capability {
    /// Look only.
    Read,
    /// Look and change, but not decide approvals.
    Write,
    /// Look and decide approvals.
    Approve,
}

impl Capability {
    /// The stored word.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Approve => "approve",
        }
    }

    /// Reads the stored word.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        [Self::Read, Self::Write, Self::Approve]
            .into_iter()
            .find(|capability| capability.as_str() == word)
    }
}

/// Where a token comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Origin {
    /// The environment value itself: break-glass.
    Bootstrap,
    /// Derived from it for reading consoles.
    ConsoleRead,
    /// Derived from it for writing consoles.
    ConsoleWrite,
    /// Derived from it for deciding consoles.
    ConsoleApprove,
    /// Made through the API by the named actor.
    Issued(String),
}

impl Origin {
    /// The stored value of `created_by`.
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Bootstrap => "env-bootstrap",
            Self::ConsoleRead => "env-derived",
            Self::ConsoleWrite => "env-derived-write",
            Self::ConsoleApprove => "env-derived-approve",
            Self::Issued(by) => by,
        }
    }

    /// Reads the stored value.
    pub(crate) fn parse(created_by: &str) -> Self {
        let seeded = [
            Self::Bootstrap,
            Self::ConsoleRead,
            Self::ConsoleWrite,
            Self::ConsoleApprove,
        ];
        let found = seeded.into_iter().find(|origin| origin.as_str() == created_by);
        found.unwrap_or_else(|| Self::Issued(created_by.to_owned()))
    }

    /// Whether the token speaks for console accounts, which must then be named by an assertion.
    ///
    /// Any value that starts like a derived one counts, so that a row of an unknown later version never gets more
    /// authority than a known one.
    pub(crate) fn is_derived_console(&self) -> bool {
        self.as_str().starts_with("env-derived")
    }
}

/// Which zones a token reaches.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Reach {
    /// Every zone, and the routes without one.
    Global,
    /// One zone.
    Zone(ZoneId),
}

/// An authenticated admin token.
#[derive(Debug, Clone)]
pub(crate) struct Actor {
    /// Row id of the token.
    pub(crate) id: AdminTokenId,
    /// Its name.
    pub(crate) name: String,
    /// Which zones it reaches.
    pub(crate) reach: Reach,
    /// What it may do.
    pub(crate) capability: Capability,
    /// Where it comes from.
    pub(crate) origin: Origin,
}

impl Actor {
    /// `global` or `zone`, as the admin audit records it.
    pub(crate) const fn scope(&self) -> &'static str {
        match self.reach {
            Reach::Global => "global",
            Reach::Zone(_) => "zone",
        }
    }

    /// Whether it reaches every zone.
    pub(crate) const fn is_global(&self) -> bool {
        matches!(self.reach, Reach::Global)
    }

    /// Whether it is the environment's own token, the only one that may touch reserved names.
    pub(crate) fn is_bootstrap(&self) -> bool {
        self.origin == Origin::Bootstrap
    }
}
