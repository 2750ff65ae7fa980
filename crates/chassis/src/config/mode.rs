//! How strict is this process? `dev` allows shortcuts, everything else refuses them.

/// The value of `CARACAL_MODE`. Unset means `stable`: who configures nothing gets the strict rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Settings of a developer's machine: keys may be missing, weakening switches are allowed.
    Dev,
    /// A release candidate: as strict as stable.
    Rc,
    /// Production.
    Stable,
}

impl Mode {
    /// Whether shortcuts are allowed.
    pub fn is_dev(self) -> bool {
        self == Self::Dev
    }

    /// The word an operator writes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Rc => "rc",
            Self::Stable => "stable",
        }
    }

    /// `CARACAL_MODE` when set; else the two words of the older `CARACAL_ENV` that named a mode. Any other
    /// `CARACAL_ENV` is a label for logs and does not weaken anything.
    pub(super) fn resolve(mode: Option<&str>, environment: Option<&str>) -> Option<Self> {
        match (mode, environment) {
            (Some("dev"), _) | (None, Some("dev")) => Some(Self::Dev),
            (Some("rc"), _) => Some(Self::Rc),
            (Some("stable") | None, _) => Some(Self::Stable),
            (Some(_), _) => None,
        }
    }
}
