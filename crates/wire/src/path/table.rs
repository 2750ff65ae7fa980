//! Which of many rules is a path for? The longest one, found in the length of the path, however many rules there are.

use std::collections::HashMap;

/// How a path is compared: byte for byte. The text begins with a slash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathRule {
    /// The whole path.
    Exact(String),
    /// The path up to the end of a segment: `/a` stands for `/a` and `/a/b`, not for `/ab`; `/a/` for `/a/b`, not for `/a`.
    Prefix(String),
}

impl PathRule {
    /// The path, or the prefix.
    pub fn text(&self) -> &str {
        match self {
            Self::Exact(path) | Self::Prefix(path) => path,
        }
    }

    /// Whether it is for this path.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            Self::Prefix(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/')),
        }
    }

    /// The rule in the words of another reading of paths.
    #[must_use]
    pub fn map(&self, read: impl FnOnce(&str) -> String) -> Self {
        match self {
            Self::Exact(path) => Self::Exact(read(path)),
            Self::Prefix(path) => Self::Prefix(read(path)),
        }
    }
}

/// Values by path. Exact paths win over prefixes, and longer prefixes over shorter ones.
#[derive(Clone, Debug)]
pub struct PathTable<T> {
    root: Node<T>,
}

/// One segment of the paths of a table.
#[derive(Clone, Debug)]
struct Node<T> {
    /// Of the path that ends here.
    exact: Vec<T>,
    /// Of the prefix that ends with this segment.
    from_here: Vec<T>,
    /// Of the prefix that ends with the slash after it.
    below: Vec<T>,
    children: HashMap<Box<str>, Self>,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self {
            exact: Vec::new(),
            from_here: Vec::new(),
            below: Vec::new(),
            children: HashMap::new(),
        }
    }
}

impl<T> Default for PathTable<T> {
    fn default() -> Self {
        Self {
            root: Node::default(),
        }
    }
}

impl<T> PathTable<T> {
    /// Adds a value; those of equal rules stay together, in the order in which they were added.
    pub fn insert(&mut self, rule: &PathRule, value: T) {
        let text = rule.text();
        let text = text.strip_prefix('/').unwrap_or(text);
        match rule {
            PathRule::Exact(_) => self.root.descend(text.split('/')).exact.push(value),
            PathRule::Prefix(_) if text.is_empty() => self.root.below.push(value),
            PathRule::Prefix(_) => match text.strip_suffix('/') {
                Some(text) => self.root.descend(text.split('/')).below.push(value),
                None => self.root.descend(text.split('/')).from_here.push(value),
            },
        }
    }

    /// The values of the longest rule for `path`; none when no rule is. One map read for each segment that rules know.
    pub fn find(&self, path: &str) -> &[T] {
        let Some(path) = path.strip_prefix('/') else {
            return &[];
        };
        let mut best = self.root.below.as_slice();
        let mut node = &self.root;
        let mut segments = path.split('/').peekable();
        while let Some(segment) = segments.next() {
            let Some(child) = node.children.get(segment) else {
                break;
            };
            node = child;
            let is_last = segments.peek().is_none();
            let longer = if is_last { &node.exact } else { &node.below };
            for values in [&node.from_here, longer] {
                if !values.is_empty() {
                    best = values;
                }
            }
        }
        best
    }
}

impl<T> Node<T> {
    fn descend<'p>(&mut self, segments: impl Iterator<Item = &'p str>) -> &mut Self {
        segments.fold(self, |node, segment| {
            node.children.entry(segment.into()).or_default()
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_longest_rule_is_found_and_a_prefix_ends_at_a_segment() {
        let mut table = PathTable::default();
        for (number, rule) in [
            PathRule::Prefix("/".into()),
            PathRule::Prefix("/crm".into()),
            PathRule::Prefix("/crm/".into()),
            PathRule::Prefix("/crm/v2".into()),
            PathRule::Exact("/crm/v2/x".into()),
            PathRule::Exact("/hr/".into()),
            PathRule::Exact("/".into()),
        ]
        .iter()
        .enumerate()
        {
            table.insert(rule, number);
        }
        for (path, number) in [
            ("/", 6),
            ("/crmx", 0),
            ("/crm", 1),
            ("/crm/", 2),
            ("/crm/a", 2),
            ("/crm/v2", 3),
            ("/crm/v2/x", 4),
            ("/crm/v2/x/", 3),
            ("/hr", 0),
            ("/hr/", 5),
            ("//crm", 0),
        ] {
            assert_eq!(table.find(path), [number], "{path}");
        }
        assert!(table.find("crm").is_empty());
        assert!(PathTable::<()>::default().find("/").is_empty());
    }

    fn path() -> impl Strategy<Value = String> {
        prop::collection::vec("[ab/]{0,2}", 0..5).prop_map(|parts| format!("/{}", parts.join("/")))
    }

    fn rule() -> impl Strategy<Value = PathRule> {
        let exact = path().prop_map(PathRule::Exact);
        prop_oneof![exact, path().prop_map(PathRule::Prefix)]
    }

    proptest! {
        /// The table finds what comparing with every rule in order of precedence finds.
        #[test]
        fn the_table_finds_what_a_search_through_all_rules_finds(
            rules in prop::collection::vec(rule(), 0..12), path in path()
        ) {
            let mut table = PathTable::default();
            for rule in &rules {
                table.insert(rule, rule.clone());
            }
            let key = |rule: &&PathRule| (matches!(rule, PathRule::Exact(_)), rule.text().len());
            let best = rules.iter().filter(|rule| rule.matches(&path)).max_by_key(key);
            prop_assert_eq!(table.find(&path).first(), best);
        }
    }
}
