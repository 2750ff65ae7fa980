//! Which names does a rule use? A walk over everything a rule is made of.
//!
//! The walk keeps its own stack: how deep a document nests must not decide how deep this program
//! recurses.

use std::collections::{BTreeMap, BTreeSet};

use regorus::unstable::{Expr, Import, Literal, LiteralStmt, Query, Ref, Rule, RuleAssign, RuleHead};

use crate::tables::Root;

/// The names a piece of a document uses.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Every variable, among them `input` and the roots.
    pub(crate) variables: BTreeSet<String>,
    /// Every function called, by its dotted name, with a line where it is.
    pub(crate) calls: BTreeMap<String, u32>,
    /// Every root referred to as `data.caracal.authz.<root>`.
    roots: BTreeSet<Root>,
    /// A reference to `data` that is not one to a root, with its line.
    pub(crate) stray: Option<(String, u32)>,
}

impl Names {
    pub(crate) fn extend(&mut self, other: &Self) {
        self.variables.extend(other.variables.iter().cloned());
        self.calls
            .extend(other.calls.iter().map(|(name, line)| (name.clone(), *line)));
        self.roots.extend(other.roots.iter().copied());
        self.stray = self.stray.take().or_else(|| other.stray.clone());
    }

    /// Whether the piece uses `root`, by its own name or under `data`.
    pub(crate) fn reads(&self, root: Root) -> bool {
        self.variables.contains(root.name()) || self.roots.contains(&root)
    }
}

/// The name an import introduces, and the names behind it. `rego.v1` is an import like any other.
pub(crate) fn names_of_import(import: &Import) -> (String, Names) {
    let mut walk = Walk::default();
    walk.push(&import.refr);
    let alias = match (&import.r#as, import.refr.as_ref()) {
        (Some(alias), _) => alias.text().to_owned(),
        (None, Expr::RefDot { field, .. }) => field.0.text().to_owned(),
        (None, other) => other.span().text().to_owned(),
    };
    (alias, walk.finish())
}

/// The names a rule uses, its head included.
pub(crate) fn names_of_rule(rule: &Ref<Rule>) -> Names {
    let mut walk = Walk::default();
    match rule.as_ref() {
        Rule::Default { args, value, .. } => {
            walk.push_all(args);
            walk.push(value);
        }
        Rule::Spec { head, bodies, .. } => {
            walk.push_head(head);
            for body in bodies {
                walk.push_assign(body.assign.as_ref());
                walk.queries.push(&body.query);
            }
        }
    }
    walk.finish()
}

/// The dotted path of a reference such as `caracal.authz`; `None` when a part of it is computed.
pub(crate) fn path_of(reference: &Ref<Expr>) -> Option<String> {
    let mut parts = Vec::new();
    let mut at = reference;
    loop {
        match at.as_ref() {
            Expr::Var { span, .. } => {
                parts.push(span.text().to_owned());
                parts.reverse();
                return Some(parts.join("."));
            }
            Expr::RefDot { refr, field, .. } => {
                parts.push(field.0.text().to_owned());
                at = refr;
            }
            Expr::RefBrack { refr, index, .. } => {
                parts.push(literal(index)?.to_owned());
                at = refr;
            }
            _ => return None,
        }
    }
}

/// What remains to be looked at, and what was found.
#[derive(Default)]
struct Walk<'m> {
    expressions: Vec<&'m Expr>,
    queries: Vec<&'m Query>,
    names: Names,
}

impl<'m> Walk<'m> {
    fn finish(mut self) -> Names {
        loop {
            if let Some(expression) = self.expressions.pop() {
                self.visit(expression);
            } else if let Some(query) = self.queries.pop() {
                for statement in &query.stmts {
                    self.push_statement(statement);
                }
            } else {
                return self.names;
            }
        }
    }

    fn push(&mut self, expression: &'m Ref<Expr>) {
        self.expressions.push(expression.as_ref());
    }

    fn push_all(&mut self, expressions: impl IntoIterator<Item = &'m Ref<Expr>>) {
        self.expressions.extend(expressions.into_iter().map(Ref::as_ref));
    }

    fn push_head(&mut self, head: &'m RuleHead) {
        match head {
            RuleHead::Compr { refr, assign, .. } => {
                self.push_head_reference(refr);
                self.push_assign(assign.as_ref());
            }
            RuleHead::Set { refr, key, .. } => {
                self.push_head_reference(refr);
                self.push_all(key);
            }
            RuleHead::Func { args, assign, .. } => {
                self.push_all(args);
                self.push_assign(assign.as_ref());
            }
        }
    }

    /// Looks at the keys of a head such as `grants[key]`, not at the name it defines.
    fn push_head_reference(&mut self, head: &'m Ref<Expr>) {
        let mut at = head;
        loop {
            match at.as_ref() {
                Expr::RefDot { refr, .. } => at = refr,
                Expr::RefBrack { refr, index, .. } => {
                    self.push(index);
                    at = refr;
                }
                _ => return,
            }
        }
    }

    fn push_assign(&mut self, assign: Option<&'m RuleAssign>) {
        if let Some(assign) = assign {
            self.push(&assign.value);
        }
    }

    fn push_statement(&mut self, statement: &'m LiteralStmt) {
        match &statement.literal {
            Literal::SomeVars { .. } => {}
            Literal::SomeIn {
                key,
                value,
                collection,
                ..
            } => {
                self.push_all(key);
                self.push_all([value, collection]);
            }
            Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => self.push(expr),
            Literal::Every { domain, query, .. } => {
                self.push(domain);
                self.queries.push(query);
            }
        }
        for modifier in &statement.with_mods {
            self.push_all([&modifier.refr, &modifier.r#as]);
            // A function that stands in for another is called, although nothing here calls it by its name.
            let line = modifier.r#as.span().line;
            self.names
                .calls
                .extend(path_of(&modifier.r#as).map(|name| (name, line)));
        }
    }

    fn visit(&mut self, expression: &'m Expr) {
        match expression {
            Expr::String { .. }
            | Expr::RawString { .. }
            | Expr::Number { .. }
            | Expr::Bool { .. }
            | Expr::Null { .. } => {}
            Expr::Var { span, .. } if span.text() == "data" => self.note_data(&[], span.line),
            Expr::Var { span, .. } => {
                self.names.variables.insert(span.text().to_owned());
            }
            Expr::Array { items, .. } | Expr::Set { items, .. } => {
                self.push_all(items);
            }
            Expr::Object { fields, .. } => {
                self.push_all(fields.iter().flat_map(|(_, key, value)| [key, value]));
            }
            Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => {
                self.push(term);
                self.queries.push(query);
            }
            Expr::ObjectCompr {
                key, value, query, ..
            } => {
                self.push_all([key, value]);
                self.queries.push(query);
            }
            Expr::Call { fcn, params, .. } => {
                let line = fcn.span().line;
                self.names.calls.extend(path_of(fcn).map(|name| (name, line)));
                self.push(fcn);
                self.push_all(params);
            }
            Expr::UnaryExpr { expr, .. } => self.push(expr),
            Expr::RefDot { .. } | Expr::RefBrack { .. } => self.visit_reference(expression),
            Expr::BinExpr { lhs, rhs, .. }
            | Expr::BoolExpr { lhs, rhs, .. }
            | Expr::ArithExpr { lhs, rhs, .. }
            | Expr::AssignExpr { lhs, rhs, .. } => self.push_all([lhs, rhs]),
            Expr::Membership {
                key,
                value,
                collection,
                ..
            } => {
                self.push_all(key);
                self.push_all([value, collection]);
            }
        }
    }

    /// Looks at a whole reference such as `data.caracal.authz.grants[key]` at once.
    fn visit_reference(&mut self, reference: &'m Expr) {
        let mut parts = Vec::new();
        let mut at = reference;
        loop {
            match at {
                Expr::RefDot { refr, field, .. } => {
                    parts.push(Some(field.0.text()));
                    at = refr.as_ref();
                }
                Expr::RefBrack { refr, index, .. } => {
                    parts.push(literal(index));
                    self.push(index);
                    at = refr.as_ref();
                }
                Expr::Var { span, .. } if span.text() == "data" => {
                    parts.reverse();
                    return self.note_data(&parts, span.line);
                }
                base => return self.expressions.push(base),
            }
        }
    }

    /// Notes a reference to `data` by its parts; `None` is a part that is computed.
    fn note_data(&mut self, parts: &[Option<&str>], line: u32) {
        let root = match parts {
            [Some("caracal"), Some("authz"), Some(name), ..] => Root::from_name(name),
            _ => None,
        };
        if let Some(root) = root {
            self.names.roots.insert(root);
        } else {
            let known = parts.iter().map_while(|part| *part).take(4);
            let path: Vec<&str> = std::iter::once("data").chain(known).collect();
            self.names.stray = Some((path.join("."), line));
        }
    }
}

/// The text of a string literal.
fn literal(expression: &Ref<Expr>) -> Option<&str> {
    match expression.as_ref() {
        Expr::String { value, .. } | Expr::RawString { value, .. } => {
            value.as_string().ok().map(AsRef::as_ref)
        }
        _ => None,
    }
}
