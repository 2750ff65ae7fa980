//! Are these Rego modules data documents, and which of their roots depend on the request?

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroUsize};

use regorus::PolicyLengthConfig;
use regorus::unstable::{Expr, Module, Parser, Ref, Rule, RuleHead, Source};

use crate::analysis::{Names, names_of_import, names_of_rule, path_of};
use crate::bundle::CompileError;
use crate::document::{CONTENT_CHARACTERS_MAX, FORBIDDEN_BUILTINS};
use crate::tables::Root;

const DOCUMENTS_MAX: usize = 256;

/// Longest text the parser takes: the most bytes that the allowed characters can be.
const CONTENT_BYTES_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4 * CONTENT_CHARACTERS_MAX);
const LINE_COLUMNS_MAX: NonZeroU32 = NonZeroU32::MAX;

/// Built-ins that answer differently each time without being forbidden.
const UNREPEATABLE_BUILTINS: [&str; 1] = ["uuid.rfc4122"];

/// The lengths the interpreter accepts; the limit in characters is checked here first.
pub(crate) fn length_limits() -> PolicyLengthConfig {
    PolicyLengthConfig {
        max_col: LINE_COLUMNS_MAX,
        max_file_bytes: CONTENT_BYTES_MAX,
        max_lines: CONTENT_BYTES_MAX,
    }
}

/// The data documents of one policy set, parsed and checked, not yet evaluated.
#[derive(Debug)]
pub(crate) struct Documents<'a> {
    modules: &'a [(&'a str, &'a str)],
    /// What each defined root is built from.
    uses: BTreeMap<Root, Names>,
}

impl<'a> Documents<'a> {
    pub(crate) fn parse(modules: &'a [(&'a str, &'a str)]) -> Result<Self, CompileError> {
        let too_long = |(_, content): &(&str, &str)| content.chars().count() > CONTENT_CHARACTERS_MAX;
        if modules.len() > DOCUMENTS_MAX || modules.iter().any(too_long) {
            return Err(CompileError::TooLarge);
        }
        let mut uses = BTreeMap::<Root, Names>::new();
        for (document, content) in modules {
            let module = parse_module(document, content)?;
            check_package(document, &module)?;
            let imports: Names = module.imports.iter().map(names_of_import).collect();
            for rule in &module.policy {
                let root = check_head(document, rule)?;
                let mut names = names_of_rule(rule);
                check_builtins(document, &names)?;
                names.extend(&imports);
                uses.entry(root).or_default().extend(&names);
            }
        }
        Ok(Self { modules, uses })
    }

    /// The modules, as (id, content).
    pub(crate) fn modules(&self) -> &'a [(&'a str, &'a str)] {
        self.modules
    }

    /// Every root some document defines.
    pub(crate) fn roots(&self) -> impl Iterator<Item = Root> {
        self.uses.keys().copied()
    }

    /// The defined roots whose value is the same for every request.
    pub(crate) fn constant_roots(&self) -> impl Iterator<Item = Root> {
        let reading = self.reading();
        self.roots().filter(move |root| !reading.contains(root))
    }

    /// The defined roots whose value depends on the request, directly or through another root.
    pub(crate) fn roots_that_read_input(&self) -> impl Iterator<Item = Root> {
        self.reading().into_iter()
    }

    fn reading(&self) -> BTreeSet<Root> {
        let mut reading: BTreeSet<Root> = self
            .uses
            .iter()
            .filter(|(_, names)| reads_request(names))
            .map(|(root, _)| *root)
            .collect();
        loop {
            let before = reading.len();
            for (root, names) in &self.uses {
                if reading.iter().any(|other| names.may_read(*other)) {
                    reading.insert(*root);
                }
            }
            if reading.len() == before {
                return reading;
            }
        }
    }
}

fn reads_request(names: &Names) -> bool {
    names.variables.contains("input")
        || UNREPEATABLE_BUILTINS
            .iter()
            .any(|name| names.calls.contains(*name))
}

fn parse_module(document: &str, content: &str) -> Result<Module, CompileError> {
    let limits = length_limits();
    Source::from_contents_with_limits(
        document.to_owned(),
        content.to_owned(),
        limits.max_file_bytes,
        limits.max_lines,
    )
    .and_then(|source| {
        let mut parser = Parser::new(&source)?;
        parser.set_max_col(limits.max_col);
        parser.enable_rego_v1()?;
        parser.parse()
    })
    .map_err(|source| CompileError::Syntax {
        document: document.to_owned(),
        source: source.into(),
    })
}

fn check_package(document: &str, module: &Module) -> Result<(), CompileError> {
    if path_of(&module.package.refr).as_deref() == Some("caracal.authz") {
        Ok(())
    } else {
        Err(CompileError::Package {
            document: document.to_owned(),
        })
    }
}

/// The root a rule defines, if it may define it.
fn check_head(document: &str, rule: &Ref<Rule>) -> Result<Root, CompileError> {
    let (head, is_function) = match rule.as_ref() {
        Rule::Default { refr, args, .. } => (refr, !args.is_empty()),
        Rule::Spec { head, .. } => match head {
            RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } => (refr, false),
            RuleHead::Func { refr, .. } => (refr, true),
        },
    };
    let name = head_name(head);
    match Root::from_name(&name) {
        Some(root) if !is_function => Ok(root),
        _ => Err(CompileError::Rule {
            document: document.to_owned(),
            rule: name,
        }),
    }
}

/// The first name of a rule head: `grants` in `grants["resource://crm"].application`.
fn head_name(head: &Ref<Expr>) -> String {
    let mut at = head;
    loop {
        match at.as_ref() {
            Expr::RefDot { refr, .. } | Expr::RefBrack { refr, .. } => at = refr,
            other => return other.span().text().to_owned(),
        }
    }
}

fn check_builtins(document: &str, names: &Names) -> Result<(), CompileError> {
    match FORBIDDEN_BUILTINS
        .iter()
        .find(|name| names.calls.contains(**name))
    {
        None => Ok(()),
        Some(name) => Err(CompileError::Builtin {
            document: document.to_owned(),
            builtin: (*name).to_owned(),
        }),
    }
}
