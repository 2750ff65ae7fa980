//! Which short name follows from a display name when none is given?

/// Lower case, with one hyphen for each run of anything that is not a letter or digit of ASCII; `fallback` when nothing
/// is left.
pub(crate) fn slug(name: &str, fallback: &str) -> String {
    let mut slug = String::with_capacity(name.len());
    for c in name.to_lowercase().chars() {
        if c.is_ascii_alphanumeric() {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    let slug = slug.trim_end_matches('-');
    if slug.is_empty() {
        fallback.to_owned()
    } else {
        slug.to_owned()
    }
}

/// `base`, `base-2`, ... `base-999`.
pub(crate) fn candidates(base: &str) -> Vec<String> {
    std::iter::once(base.to_owned())
        .chain((2..=999).map(|n| format!("{base}-{n}")))
        .collect()
}

/// The first candidate that is not taken.
pub(crate) fn first_free(candidates: Vec<String>, taken: &[String]) -> Option<String> {
    candidates
        .into_iter()
        .find(|candidate| !taken.contains(candidate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_plain() {
        assert_eq!(slug("  My  Zone (prod)! ", "zone"), "my-zone-prod");
        assert_eq!(slug("Ünïcode Zone", "zone"), "n-code-zone");
        assert_eq!(slug("---", "zone"), "zone");
        assert_eq!(slug("", "zone"), "zone");
    }

    #[test]
    fn the_first_free_candidate_wins() {
        let taken = ["a".to_owned(), "a-2".to_owned()];
        assert_eq!(first_free(candidates("a"), &taken), Some("a-3".to_owned()));
        assert_eq!(candidates("a").len(), 999);
    }
}
