//! Which traits may an application have, and who may give them?
//!
//! `docs/contract/admin-api.md` section 5.2. Traits of the namespaces `control` and `caracal.sys` give power over this API
//! itself, so only a token that reaches every zone may give them, and only with values that mean something.

use crate::refusal::{Code, Refusal};
use crate::timestamp::Timestamp;

const COUNT_MAX: usize = 64;
const CHARACTERS_MAX: usize = 128;
const MAX_TTL_SECONDS: std::ops::RangeInclusive<u32> = 60..=900;

/// What the invoke endpoint can do, and the verbs each has a scope for: `control:<command>:<verb>`.
const CONTROL_SCOPES: [(&str, &[&str]); 13] = [
    ("app", &["read", "write", "delete"]),
    ("resource", &["read", "write", "delete"]),
    ("identity-provider", &["read", "write", "delete"]),
    ("policy", &["read", "write", "delete"]),
    ("policy-set", &["read", "write", "delete"]),
    ("workload", &["read", "write", "delete"]),
    ("grant", &["read", "write", "delete"]),
    ("authority-record", &["read"]),
    ("approval", &["read"]),
    ("audit", &["read"]),
    ("explain", &["read"]),
    ("session", &["read", "write", "delete"]),
    ("delegation", &["read", "delete"]),
];

/// Checks a whole list of traits.
///
/// # Errors
/// The first fault, as one of the four `trait_...` codes.
pub(super) fn check(traits: &[String], by_global_actor: bool) -> Result<(), Refusal> {
    if traits.len() > COUNT_MAX {
        return Err(Refusal::because(
            Code::TraitCountExceeded,
            "An application has at most 64 traits",
        ));
    }
    for (at, text) in traits.iter().enumerate() {
        if !is_well_formed(text) {
            return Err(invalid(
                "A trait is a letter followed by letters, digits and . _ : -, at most 128 characters",
            ));
        }
        if traits.iter().take(at).any(|earlier| earlier == text) {
            return Err(Refusal::because(
                Code::TraitDuplicate,
                format!("The trait {text} is given twice"),
            ));
        }
        check_namespace(text, by_global_actor)?;
    }
    check_single(traits, "control:max-ttl:")?;
    check_single(traits, "control:expires:")
}

fn check_namespace(text: &str, by_global_actor: bool) -> Result<(), Refusal> {
    let namespace = text.split(':').next().unwrap_or_default();
    let is_privileged = matches!(namespace, "control" | "caracal.sys");
    if is_privileged && !by_global_actor {
        let sentence = format!("Only a token that reaches every zone may give traits of {namespace}");
        return Err(Refusal::because(Code::TraitForbidden, sentence));
    }
    if namespace == "control" && !is_control_trait(text) {
        return Err(invalid(
            "A control trait is invoke, scope:<scope>, max-ttl:<60-900> or expires:<time>",
        ));
    }
    Ok(())
}

fn check_single(traits: &[String], prefix: &str) -> Result<(), Refusal> {
    if traits.iter().filter(|text| text.starts_with(prefix)).count() > 1 {
        return Err(Refusal::because(
            Code::TraitDuplicate,
            format!("Only one trait may begin with {prefix}"),
        ));
    }
    Ok(())
}

fn is_control_trait(text: &str) -> bool {
    if text == "control:invoke" {
        return true;
    }
    if let Some(scope) = text.strip_prefix("control:scope:") {
        return is_control_scope(scope);
    }
    if let Some(seconds) = text.strip_prefix("control:max-ttl:") {
        return seconds
            .parse::<u32>()
            .is_ok_and(|seconds| MAX_TTL_SECONDS.contains(&seconds));
    }
    text.strip_prefix("control:expires:")
        .is_some_and(|time| Timestamp::parse(time).is_some())
}

fn is_control_scope(scope: &str) -> bool {
    let named = scope
        .strip_prefix("control:")
        .and_then(|rest| rest.split_once(':'));
    named.is_some_and(|(command, verb)| {
        CONTROL_SCOPES
            .iter()
            .any(|(known, verbs)| *known == command && verbs.contains(&verb))
    })
}

fn is_well_formed(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.chars().count() <= CHARACTERS_MAX
        && bytes.next().is_some_and(|first| first.is_ascii_alphabetic())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'))
}

fn invalid(sentence: &'static str) -> Refusal {
    Refusal::because(Code::TraitInvalid, sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(traits: &[&str], global: bool) -> Result<(), Code> {
        let traits: Vec<String> = traits.iter().map(|text| (*text).to_owned()).collect();
        check(&traits, global).map_err(|refusal| refusal.code())
    }

    #[test]
    fn there_are_thirty_control_scopes() {
        assert_eq!(
            CONTROL_SCOPES.iter().map(|(_, verbs)| verbs.len()).sum::<usize>(),
            30
        );
    }

    #[test]
    fn good_traits_are_accepted() {
        assert_eq!(answer(&["team:red", "A.b_c-1"], false), Ok(()));
        let control = [
            "control:invoke",
            "control:scope:control:app:write",
            "control:max-ttl:300",
            "control:expires:2027-01-01T00:00:00.000Z",
        ];
        assert_eq!(answer(&control, true), Ok(()));
    }

    #[test]
    fn bad_traits_are_refused_by_kind() {
        let long = format!("a{}", "b".repeat(128));
        let many: Vec<String> = (0..65).map(|n| format!("t{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let table: [(&[&str], bool, Code); 13] = [
            (&many, true, Code::TraitCountExceeded),
            (&["1a"], true, Code::TraitInvalid),
            (&["a b"], true, Code::TraitInvalid),
            (&[""], true, Code::TraitInvalid),
            (&[&long], true, Code::TraitInvalid),
            (&["a", "a"], true, Code::TraitDuplicate),
            (&["control:invoke"], false, Code::TraitForbidden),
            (&["caracal.sys:x"], false, Code::TraitForbidden),
            (&["control:other"], true, Code::TraitInvalid),
            (&["control:scope:control:app:list"], true, Code::TraitInvalid),
            (&["control:max-ttl:59"], true, Code::TraitInvalid),
            (&["control:expires:tomorrow"], true, Code::TraitInvalid),
            (
                &["control:max-ttl:60", "control:max-ttl:61"],
                true,
                Code::TraitDuplicate,
            ),
        ];
        for (traits, global, expected) in table {
            assert_eq!(answer(traits, global), Err(expected), "{traits:?}");
        }
    }
}
