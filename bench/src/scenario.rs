//! The scenarios: each measures in a stack of its own, or in one that is handed to it, and adds to the report.

pub(crate) mod counts;
pub(crate) mod disturbance;
pub(crate) mod fanout;
pub(crate) mod flames;
pub(crate) mod governed;
pub(crate) mod growth;
pub(crate) mod latency;
pub(crate) mod peers;
pub(crate) mod propagation;
pub(crate) mod shapes;
pub(crate) mod soak;
pub(crate) mod streams;
pub(crate) mod sts;

/// How long to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// For a first look.
    Quick,
    /// For figures to keep.
    Full,
}

impl Length {
    /// One of two.
    pub(crate) fn pick<T>(self, quick: T, full: T) -> T {
        match self {
            Self::Quick => quick,
            Self::Full => full,
        }
    }

    /// How often a window is repeated.
    pub(crate) fn repeats(self) -> usize {
        self.pick(3, 5)
    }
}
