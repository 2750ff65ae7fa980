//! Which scopes does a text name, and is one set within another?

use std::fmt;
use std::sync::Arc;

/// A set of scopes (RFC 6749 section 3.3): sorted, unique, never empty strings, never containing white space.
///
/// Membership is a binary search, the subset test one merge walk. A clone is one reference count.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScopeSet(Arc<[Box<str>]>);

impl ScopeSet {
    /// The set without scopes. It is a subset of every set.
    pub fn empty() -> Self {
        Self(Arc::from([]))
    }

    /// Splits a text at any Unicode white space. Order and repetition in the text do not matter.
    pub fn parse(text: &str) -> Self {
        text.split_whitespace().collect()
    }

    /// Whether the scope is in the set. Compared byte for byte (RFC 6749: case-sensitive).
    pub fn contains(&self, scope: &str) -> bool {
        self.0.binary_search_by(|held| held.as_ref().cmp(scope)).is_ok()
    }

    /// Whether every scope of this set is in `other`.
    pub fn is_subset(&self, other: &Self) -> bool {
        let mut rest = other.iter();
        self.iter()
            .all(|scope| rest.by_ref().find(|held| *held >= scope) == Some(scope))
    }

    /// The scopes that are in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.iter().filter(|scope| other.contains(scope)).collect()
    }

    /// Whether there is no scope in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many scopes the set has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The scopes in byte order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(AsRef::as_ref)
    }

    /// The scopes in byte order, separated by single spaces, as in a `scope` parameter.
    pub fn to_text(&self) -> String {
        self.0.join(" ")
    }
}

impl Default for ScopeSet {
    fn default() -> Self {
        Self::empty()
    }
}

impl<S: AsRef<str>> FromIterator<S> for ScopeSet {
    /// Each item is split at white space, so the set never holds a text that would read as two scopes.
    fn from_iter<I: IntoIterator<Item = S>>(items: I) -> Self {
        let mut scopes: Vec<Box<str>> = Vec::new();
        for item in items {
            scopes.extend(item.as_ref().split_whitespace().map(Box::from));
        }
        scopes.sort_unstable();
        scopes.dedup();
        Self(scopes.into())
    }
}

impl fmt::Display for ScopeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

impl fmt::Debug for ScopeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn any_unicode_white_space_separates_scopes() {
        let scopes = ScopeSet::parse("  crm:write\u{2003}crm:read\tcrm:read\n");
        assert_eq!(scopes.to_text(), "crm:read crm:write");
        assert_eq!(scopes.len(), 2);
    }

    #[test]
    fn an_item_with_white_space_is_two_scopes() {
        assert_eq!(
            ["a b", "", "b"].into_iter().collect::<ScopeSet>(),
            ScopeSet::parse("a b")
        );
    }

    #[test]
    fn scopes_are_case_sensitive() {
        assert!(!ScopeSet::parse("crm:read").contains("CRM:read"));
    }

    fn letters() -> impl Strategy<Value = BTreeSet<String>> {
        proptest::collection::btree_set("[a-f]{1,2}", 0..8)
    }

    proptest! {
        #[test]
        fn set_operations_agree_with_the_standard_set(left in letters(), right in letters()) {
            let (a, b): (ScopeSet, ScopeSet) = (left.iter().collect(), right.iter().collect());
            prop_assert_eq!(a.is_subset(&b), left.is_subset(&right));
            let both: ScopeSet = left.intersection(&right).collect();
            prop_assert_eq!(a.intersection(&b), both);
            prop_assert_eq!(a.len(), left.len());
            prop_assert_eq!(ScopeSet::parse(&a.to_text()), a);
        }
    }
}
