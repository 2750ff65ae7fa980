//! Which names does a rule use? A walk over everything a rule is made of.
//!
//! The walk keeps its own stack: how deep a document nests must not decide how deep this program
//! recurses.

use std::collections::BTreeSet;

use regorus::unstable::{Expr, Import, Literal, LiteralStmt, Query, Ref, Rule, RuleAssign, RuleHead};

use crate::tables::Root;

/// The names a piece of a document uses.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Every variable, among them `input`, `data` and the roots.
    pub(crate) variables: BTreeSet<String>,
    /// Every function called, by its dotted name.
    pub(crate) calls: BTreeSet<String>,
}

impl Names {
    pub(crate) fn extend(&mut self, other: &Self) {
        self.variables.extend(other.variables.iter().cloned());
        self.calls.extend(other.calls.iter().cloned());
    }

    /// Whether the piece may use `root`: by its name, or somewhere under `data`.
    pub(crate) fn may_read(&self, root: Root) -> bool {
        self.variables.contains(root.name()) || self.variables.contains("data")
    }
}

impl FromIterator<Self> for Names {
    fn from_iter<I: IntoIterator<Item = Self>>(pieces: I) -> Self {
        pieces.into_iter().fold(Self::default(), |mut all, piece| {
            all.extend(&piece);
            all
        })
    }
}

/// The names an import brings in. `rego.v1` and `future.keywords` are no data.
pub(crate) fn names_of_import(import: &Import) -> Names {
    let mut walk = Walk::default();
    walk.push(&import.refr);
    walk.finish()
}

/// The names a rule uses, its head included.
pub(crate) fn names_of_rule(rule: &Ref<Rule>) -> Names {
    let mut walk = Walk::default();
    match rule.as_ref() {
        Rule::Default { args, value, .. } => {
            args.iter().for_each(|argument| walk.push(argument));
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
            Expr::RefBrack { refr, index, .. } => match index.as_ref() {
                Expr::String { value, .. } | Expr::RawString { value, .. } => {
                    parts.push(value.as_string().ok()?.as_ref().to_owned());
                    at = refr;
                }
                _ => return None,
            },
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
                query
                    .stmts
                    .iter()
                    .for_each(|statement| self.push_statement(statement));
            } else {
                return self.names;
            }
        }
    }

    fn push(&mut self, expression: &'m Ref<Expr>) {
        self.expressions.push(expression.as_ref());
    }

    fn push_all(&mut self, expressions: &[&'m Ref<Expr>]) {
        expressions.iter().for_each(|expression| self.push(expression));
    }

    fn push_head(&mut self, head: &'m RuleHead) {
        match head {
            RuleHead::Compr { refr, assign, .. } => {
                self.push_head_reference(refr);
                self.push_assign(assign.as_ref());
            }
            RuleHead::Set { refr, key, .. } => {
                self.push_head_reference(refr);
                key.iter().for_each(|key| self.push(key));
            }
            RuleHead::Func { args, assign, .. } => {
                args.iter().for_each(|argument| self.push(argument));
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
                key.iter().for_each(|key| self.push(key));
                self.push_all(&[value, collection]);
            }
            Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => self.push(expr),
            Literal::Every { domain, query, .. } => {
                self.push(domain);
                self.queries.push(query);
            }
        }
        for modifier in &statement.with_mods {
            self.push_all(&[&modifier.refr, &modifier.r#as]);
        }
    }

    fn visit(&mut self, expression: &'m Expr) {
        match expression {
            Expr::String { .. }
            | Expr::RawString { .. }
            | Expr::Number { .. }
            | Expr::Bool { .. }
            | Expr::Null { .. } => {}
            Expr::Var { span, .. } => {
                self.names.variables.insert(span.text().to_owned());
            }
            Expr::Array { items, .. } | Expr::Set { items, .. } => {
                items.iter().for_each(|item| self.push(item));
            }
            Expr::Object { fields, .. } => {
                fields
                    .iter()
                    .for_each(|(_, key, value)| self.push_all(&[key, value]));
            }
            Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => {
                self.push(term);
                self.queries.push(query);
            }
            Expr::ObjectCompr {
                key, value, query, ..
            } => {
                self.push_all(&[key, value]);
                self.queries.push(query);
            }
            Expr::Call { fcn, params, .. } => {
                self.names.calls.extend(path_of(fcn));
                self.push(fcn);
                params.iter().for_each(|parameter| self.push(parameter));
            }
            Expr::UnaryExpr { expr, .. } => self.push(expr),
            Expr::RefDot { refr, .. } => self.push(refr),
            Expr::RefBrack { refr, index, .. } => self.push_all(&[refr, index]),
            Expr::BinExpr { lhs, rhs, .. }
            | Expr::BoolExpr { lhs, rhs, .. }
            | Expr::ArithExpr { lhs, rhs, .. }
            | Expr::AssignExpr { lhs, rhs, .. } => self.push_all(&[lhs, rhs]),
            Expr::Membership {
                key,
                value,
                collection,
                ..
            } => {
                key.iter().for_each(|key| self.push(key));
                self.push_all(&[value, collection]);
            }
        }
    }
}
