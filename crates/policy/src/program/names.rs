//! What do the modules of a decision policy define, and at which place is it asked for?
//!
//! Read from the heads of the rules. The compiler's own list will not do: it has no rule that is only a default, and it knows
//! `limits.gold` by `limits` as well, with the value of `limits.gold`.

use std::collections::BTreeMap;

use regorus::unstable::{Expr, Module, Ref, Rule, RuleHead};

use crate::data::DECISION_PATH;
use crate::document::{BUNDLE_DATA_MARKER, is_marked};
use crate::documents::head_of;

/// The segments below `data`.
pub(super) type Place = Vec<String>;

/// What is defined, by place. No place is within another.
#[derive(Debug)]
pub(super) struct Names(BTreeMap<Place, Kind>);

/// How the value at a place comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// From one rule, or one of several.
    Value,
    /// From every rule that contains something in it.
    Set,
    /// From every rule that has a member of it, by a key in brackets.
    Members,
    /// Not to be asked for: a function, which has none, or data.
    Hidden,
    /// In ways the machine does not put together: asking one of its rules would leave out the others.
    Mixed,
}

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// A rule at the beginning of the path, and a place in its value.
    Rule(Place),
    /// A package, or several with a common beginning.
    Package(Vec<Place>),
    /// Something that cannot be told whole.
    Mixed,
}

impl Names {
    /// All that is defined but the decision, which is not the policy's alone. What a module says that came from the data of a
    /// bundle is hidden, as data documents are.
    pub(super) fn of(modules: &[Ref<Module>]) -> Self {
        let mut kinds: BTreeMap<Place, Kind> = BTreeMap::new();
        for module in modules {
            let package = segments(&module.package.refr).0;
            let text = module.package.span.source.contents();
            let is_data = is_marked(text, BUNDLE_DATA_MARKER);
            for rule in &module.policy {
                let (below, kind) = definition(rule);
                let kind = if is_data { Kind::Hidden } else { kind };
                let place: Place = package.iter().cloned().chain(below).collect();
                if !place.iter().take(DECISION_PATH.len()).eq(&DECISION_PATH) {
                    let known = kinds.entry(place).or_insert(kind);
                    if *known != kind {
                        *known = Kind::Mixed;
                    }
                }
            }
        }
        Self(without_places_in_others(kinds))
    }

    pub(super) fn find(&self, path: &[String]) -> Option<Named> {
        for depth in 1..=path.len() {
            let place = path.get(..depth)?;
            match self.0.get(place) {
                None => {}
                Some(Kind::Value | Kind::Set | Kind::Members) => return Some(Named::Rule(place.to_vec())),
                Some(Kind::Hidden) => return None,
                Some(Kind::Mixed) => return Some(Named::Mixed),
            }
        }
        let below = self.0.range(path.to_vec()..);
        let below = below.take_while(|(place, _)| place.starts_with(path));
        let mut places = Vec::new();
        for (place, kind) in below {
            match kind {
                Kind::Value | Kind::Set | Kind::Members => places.push(place.clone()),
                Kind::Hidden => {}
                Kind::Mixed => return Some(Named::Mixed),
            }
        }
        (!places.is_empty()).then_some(Named::Package(places))
    }
}

/// What is defined at a place and within it as well is put together by nobody.
fn without_places_in_others(kinds: BTreeMap<Place, Kind>) -> BTreeMap<Place, Kind> {
    let mut apart: BTreeMap<Place, Kind> = BTreeMap::new();
    for (place, kind) in kinds {
        match apart.last_entry() {
            Some(mut before) if place.starts_with(before.key()) => {
                before.insert(Kind::Mixed);
            }
            _ => {
                apart.insert(place, kind);
            }
        }
    }
    apart
}

/// The place below its package that a rule defines, wholly or in part.
fn definition(rule: &Ref<Rule>) -> (Place, Kind) {
    let (head, is_function) = head_of(rule);
    let (key, above) = match head.as_ref() {
        Expr::RefBrack { refr, index, .. } => (Some(index), refr),
        _ => (None, head),
    };
    let (place, is_whole) = segments(above);
    let kind = match rule.as_ref() {
        _ if is_function => Kind::Hidden,
        _ if !is_whole => Kind::Mixed,
        Rule::Default { .. } if key.is_none() => Kind::Value,
        Rule::Spec { head, .. } => match head {
            RuleHead::Compr { .. } if key.is_some() => Kind::Members,
            RuleHead::Set { .. } if key.is_some() => Kind::Mixed,
            RuleHead::Set { .. } => Kind::Set,
            RuleHead::Compr { .. } | RuleHead::Func { .. } => Kind::Value,
        },
        Rule::Default { .. } => Kind::Mixed,
    };
    (place, kind)
}

/// The names at the beginning of a reference, and whether it has nothing else.
fn segments(reference: &Ref<Expr>) -> (Place, bool) {
    let (above, last) = match reference.as_ref() {
        Expr::Var { span, .. } => return (vec![span.text().to_owned()], true),
        Expr::RefDot { refr, field, .. } => (refr, Some(field.0.text().to_owned())),
        Expr::RefBrack { refr, index, .. } => (refr, key(index)),
        _ => return (Vec::new(), false),
    };
    let (mut place, is_whole) = segments(above);
    match last {
        Some(last) if is_whole => {
            place.push(last);
            (place, true)
        }
        _ => (place, false),
    }
}

fn key(index: &Ref<Expr>) -> Option<String> {
    match index.as_ref() {
        Expr::String { value, .. } => Some(value.as_string().ok()?.as_ref().to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::parse;

    fn names(texts: &[&str]) -> Names {
        let modules: Vec<(&str, &str)> = texts.iter().map(|text| ("d", *text)).collect();
        Names::of(parse(&modules).unwrap().get_modules())
    }

    fn find(names: &Names, path: &str) -> Option<Named> {
        let path: Place = path.split('/').map(str::to_owned).collect();
        names.find(&path)
    }

    fn place(path: &str) -> Place {
        path.split('/').map(str::to_owned).collect()
    }

    #[test]
    fn heads_name_places() {
        let names = names(&["package p.q
default only := 1
a.b := 1
c contains 1
d[x] := 1 if some x in [1]
e[\"k\"].f := 1
g(x) := x
h[x].i := 1 if some x in [1]
j contains 1
default j := 1
k[x] contains 1 if some x in [1]
"]);
        for (path, rule) in [
            ("p/q/only", "p/q/only"),
            ("p/q/a/b/c", "p/q/a/b"),
            ("p/q/c", "p/q/c"),
            ("p/q/d/x", "p/q/d"),
            ("p/q/e/k/f", "p/q/e/k/f"),
        ] {
            assert_eq!(find(&names, path), Some(Named::Rule(place(rule))), "{path}");
        }
        assert_eq!(
            find(&names, "p/q/a"),
            Some(Named::Package(vec![place("p/q/a/b")]))
        );
        for path in ["p/q/h", "p/q/j", "p/q/k", "p/q", "p"] {
            assert_eq!(find(&names, path), Some(Named::Mixed), "{path}");
        }
        for path in ["p/q/g", "p/q/z", "p.q/a", "r"] {
            assert_eq!(find(&names, path), None, "{path}");
        }
    }

    #[test]
    fn a_place_in_another_makes_both_one() {
        let names = names(&[
            "package p\ndeny[x] := 1 if some x in [1]\ndeny.frozen := 2\nother := 1",
            "package p.other\ninside := 1",
        ]);
        for path in ["p/deny", "p/deny/frozen", "p/other/inside"] {
            assert_eq!(find(&names, path), Some(Named::Mixed), "{path}");
        }
    }

    #[test]
    fn a_module_marked_as_data_of_a_bundle_is_hidden_and_no_other() {
        let data = "package p.data\nusers := {\"ada\": [1]}\nlimits := []\n";
        let marked = format!("# caracal:bundle-data\n{data}");
        let rules = "package p.rules\nallow if input.x\n";
        let hidden = names(&[&marked, rules]);
        for path in ["p/data", "p/data/users", "p/data/users/ada"] {
            assert_eq!(find(&hidden, path), None, "{path}");
        }
        assert_eq!(
            find(&hidden, "p"),
            Some(Named::Package(vec![place("p/rules/allow")]))
        );
        // A rule that always holds is a rule: who asks for all of `shop` must not miss what denies.
        let shown = names(&["package shop\nallow if input.x\n", "package shop\ndeny := true\n"]);
        let both = vec![place("shop/allow"), place("shop/deny")];
        assert_eq!(find(&shown, "shop"), Some(Named::Package(both)));
        assert_eq!(find(&shown, "shop/deny"), Some(Named::Rule(place("shop/deny"))));
    }

    #[test]
    fn the_decision_is_left_out_in_every_spelling() {
        let names = names(&[
            "package caracal.authz
result[\"decision\"] := 1
result.status := 1
result[x] := 1 if some x in [1]
resulting := 1
",
            "package caracal\nauthz.result.more := 1\n",
        ]);
        assert_eq!(
            find(&names, "caracal"),
            Some(Named::Package(vec![place("caracal/authz/resulting")]))
        );
        for path in ["caracal/authz/result", "caracal/authz/result/decision"] {
            assert_eq!(find(&names, path), None, "{path}");
        }
    }
}
