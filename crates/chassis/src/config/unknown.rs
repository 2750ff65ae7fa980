//! Which keys of the file did nobody read, and what was probably meant?

use std::collections::BTreeSet;

use super::errors::Problem;
use super::source::{Section, Source};

/// A typing error changes up to a third of a name's letters; more is another word.
const CLOSE: usize = 3;

/// The names that were read, in capitals, each with the section it belongs to.
pub(super) type KnownKeys = BTreeSet<(String, Section)>;

/// A problem for every key of the file that nobody read.
pub(super) fn unknown_keys(source: &Source, known: &KnownKeys) -> Vec<Problem> {
    let has_switches = known.iter().any(|(_, section)| *section == Section::Insecure);
    [Section::Plain, Section::Insecure]
        .into_iter()
        .flat_map(|section| {
            source
                .section(section)
                .into_iter()
                .flat_map(toml::Table::keys)
                .map(move |key| (section, key))
        })
        .filter(|(section, key)| !(has_switches && *section == Section::Plain && *key == "insecure"))
        .filter(|(section, key)| !is_known(key, *section, known))
        .map(|(section, key)| {
            let path = format!("{}{}{key}", source.prefix, table_of(section));
            Problem::new(path, "is not a known setting", suggest(key, section, known))
        })
        .collect()
}

/// A key must be written in lower case: two spellings of one setting in one file could disagree.
fn is_known(key: &str, section: Section, known: &KnownKeys) -> bool {
    !key.chars().any(|c| c.is_ascii_uppercase()) && known.contains(&(key.to_ascii_uppercase(), section))
}

fn table_of(section: Section) -> &'static str {
    match section {
        Section::Plain => "",
        Section::Insecure => "insecure.",
    }
}

fn suggest(key: &str, section: Section, known: &KnownKeys) -> String {
    let key = key.to_ascii_lowercase();
    let nearest = known
        .iter()
        .map(|(name, home)| (name.to_ascii_lowercase(), *home))
        .map(|(name, home)| (distance(&key, &name), home != section, name, home))
        .min()
        .filter(|(distance, _, name, _)| *distance <= CLOSE.min(name.len().div_ceil(3)));
    match nearest {
        Some((0, true, name, Section::Insecure)) => format!("write {name} under [insecure]"),
        Some((0, true, name, Section::Plain)) => format!("write {name} at the top, outside of [insecure]"),
        Some((_, _, name, home)) => format!("did you mean {}{name}?", table_of(home)),
        None => "remove it, or see docs/operating/configuration.md for the names".to_owned(),
    }
}

/// Levenshtein distance in bytes; names are ASCII and short.
fn distance(one: &str, other: &str) -> usize {
    let other = other.as_bytes();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, byte) in one.bytes().enumerate() {
        let mut diagonal = index;
        let mut left = index + 1;
        let mut next = vec![left];
        for (candidate, &above) in other.iter().zip(row.iter().skip(1)) {
            let substituted = diagonal + usize::from(*candidate != byte);
            left = substituted.min(above + 1).min(left + 1);
            diagonal = above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_single_edits() {
        for (one, other, edits) in [
            ("", "", 0),
            ("sts_url", "sts_url", 0),
            ("sts_ur", "sts_url", 1),
            ("stss_url", "sts_url", 1),
            ("st_surl", "sts_url", 2),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(one, other), edits, "{one} {other}");
            assert_eq!(distance(other, one), edits, "{other} {one}");
        }
    }

    #[test]
    fn only_a_near_name_is_suggested() {
        let known: KnownKeys = [
            ("STS_URL".to_owned(), Section::Plain),
            ("PORT".to_owned(), Section::Plain),
            ("JTI_FAIL_OPEN".to_owned(), Section::Insecure),
        ]
        .into();
        assert_eq!(
            suggest("sts_ulr", Section::Plain, &known),
            "did you mean sts_url?"
        );
        assert_eq!(
            suggest("STS_URL", Section::Plain, &known),
            "did you mean sts_url?"
        );
        assert_eq!(
            suggest("jti_fail_opem", Section::Insecure, &known),
            "did you mean insecure.jti_fail_open?"
        );
        assert_eq!(
            suggest("jti_fail_open", Section::Plain, &known),
            "write jti_fail_open under [insecure]"
        );
        assert!(suggest("colour", Section::Plain, &known).starts_with("remove it"));
    }
}
