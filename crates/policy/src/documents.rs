//! Are these Rego modules data documents, and which of their roots depend on the request?

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroUsize};

use regorus::unstable::{Expr, Module, Ref, Rule, RuleHead};
use regorus::{Engine, PolicyLengthConfig};

use crate::analysis::{Names, names_of_import, names_of_rule, path_of};
use crate::bundle::CompileError;
use crate::document::{CONTENT_CHARACTERS_MAX, Extent, FORBIDDEN_BUILTINS, PACKAGE};
use crate::finding::{Finding, place_in};
use crate::place::locate;
use crate::shape::Misfit;
use crate::tables::Root;

/// Longest text the parser takes: the most bytes that the allowed characters can be.
const CONTENT_BYTES_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4 * CONTENT_CHARACTERS_MAX);
const LINE_COLUMNS_MAX: NonZeroU32 = NonZeroU32::MAX;

/// Built-ins that answer differently each time without being forbidden.
const UNREPEATABLE_BUILTINS: [&str; 1] = ["uuid.rfc4122"];

/// Built-ins whose result may be larger than their arguments by more than a constant factor: as much as an argument says, the
/// product of two, or a value written out as often as it is referred to. No look at the clock comes between.
const UNBOUNDED_BUILTINS: [&str; 10] = [
    "numbers.range",
    "numbers.range_step",
    "bits.lsh",
    "replace",
    "strings.replace_n",
    "regex.replace",
    "json.marshal",
    "json.marshal_with_options",
    "yaml.marshal",
    "graph.reachable_paths",
];

/// The lengths the interpreter accepts; the limit in characters is checked here first.
fn length_limits() -> PolicyLengthConfig {
    PolicyLengthConfig {
        max_col: LINE_COLUMNS_MAX,
        max_file_bytes: CONTENT_BYTES_MAX,
        max_lines: CONTENT_BYTES_MAX,
    }
}

/// The data documents of one policy set, loaded and checked, not yet evaluated.
pub(crate) struct Documents {
    engine: Engine,
    /// What each defined root is built from.
    uses: BTreeMap<Root, Names>,
}

impl Documents {
    pub(crate) fn load(modules: &[(&str, &str)]) -> Result<Self, CompileError> {
        let mut engine = parse(modules)?;
        let mut uses = BTreeMap::<Root, Names>::new();
        for ((document, _), module) in modules.iter().zip(engine.get_modules()) {
            check_package(document, module)?;
            let imports: Vec<(String, Names)> = module.imports.iter().map(names_of_import).collect();
            for rule in &module.policy {
                let root = check_head(document, rule)?;
                let names = with_imports(names_of_rule(rule), &imports);
                check_names(document, &names)?;
                uses.entry(root).or_default().extend(&names);
            }
        }
        check_cycles(&uses)?;
        Ok(Self { engine, uses })
    }

    /// An engine with the documents loaded.
    pub(crate) fn engine(&self) -> Engine {
        self.engine.clone()
    }

    /// A misfit with the document and line it comes from. `modules` are those that were loaded.
    pub(crate) fn finding(&mut self, modules: &[(&str, &str)], misfit: Misfit) -> Finding {
        let found = locate(self.engine.get_modules(), &misfit.place);
        Finding {
            document: found
                .and_then(|(number, _)| modules.get(number))
                .map(|(document, _)| (*document).to_owned()),
            line: found.map(|(_, line)| line),
            path: Some(misfit.place.to_string()),
            problem: misfit.problem,
        }
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
        let directly = self.uses.iter().filter(|(_, names)| reads_request(names));
        directly
            .flat_map(|(root, _)| readers_of(*root, &self.uses).into_iter().chain([*root]))
            .collect()
    }
}

/// The roots that are built from `root`, directly or through others.
fn readers_of(root: Root, uses: &BTreeMap<Root, Names>) -> BTreeSet<Root> {
    let mut readers = BTreeSet::new();
    let mut next = vec![root];
    while let Some(read) = next.pop() {
        for (reader, names) in uses {
            if names.reads(read) && readers.insert(*reader) {
                next.push(*reader);
            }
        }
    }
    readers
}

/// Refuses roots built from themselves: how deep their evaluation goes would be the document's choice.
fn check_cycles(uses: &BTreeMap<Root, Names>) -> Result<(), CompileError> {
    match uses.keys().find(|root| readers_of(**root, uses).contains(root)) {
        None => Ok(()),
        Some(root) => Err(CompileError::Cycle { rule: root.name() }),
    }
}

/// `names`, and what is behind those of them that are imported.
fn with_imports(mut names: Names, imports: &[(String, Names)]) -> Names {
    for (alias, behind) in imports {
        if names.variables.contains(alias) {
            names.extend(behind);
        }
    }
    names
}

fn reads_request(names: &Names) -> bool {
    names.variables.contains("input")
        || UNREPEATABLE_BUILTINS
            .iter()
            .any(|name| names.calls.contains_key(*name))
}

/// An engine with the modules parsed, and nothing else.
pub(crate) fn parse(modules: &[(&str, &str)]) -> Result<Engine, CompileError> {
    let mut engine = Engine::new();
    engine.set_policy_length_config(length_limits());
    for (document, content) in modules {
        load(&mut engine, document, content)?;
    }
    Ok(engine)
}

/// Parses one document into the engine, unless that would be too much work.
fn load(engine: &mut Engine, document: &str, content: &str) -> Result<(), CompileError> {
    let extent = Extent::of(content).map_err(|problem| CompileError::Syntax {
        document: document.to_owned(),
        line: Some(problem.line()),
        source: problem.into(),
    })?;
    if !extent.is_bounded() {
        return Err(CompileError::TooDeep {
            document: document.to_owned(),
        });
    }
    engine
        .add_policy(document.to_owned(), content.to_owned())
        .map_err(|source| CompileError::Syntax {
            document: document.to_owned(),
            line: place_in(&source.to_string()).map(|(_, line)| line),
            source: source.into(),
        })?;
    Ok(())
}

fn check_package(document: &str, module: &Module) -> Result<(), CompileError> {
    if path_of(&module.package.refr).as_deref() == Some(PACKAGE) {
        Ok(())
    } else {
        Err(CompileError::Package {
            document: document.to_owned(),
            line: module.package.span.line,
        })
    }
}

/// The root a rule defines, if it may define it.
fn check_head(document: &str, rule: &Ref<Rule>) -> Result<Root, CompileError> {
    let (head, is_function) = head_of(rule);
    let name = head_name(head);
    match Root::from_name(&name) {
        Some(root) if !is_function => Ok(root),
        _ => Err(CompileError::Rule {
            document: document.to_owned(),
            line: head.span().line,
            rule: name,
        }),
    }
}

/// The head of a rule, and whether it defines a function.
pub(crate) fn head_of(rule: &Ref<Rule>) -> (&Ref<Expr>, bool) {
    match rule.as_ref() {
        Rule::Default { refr, args, .. } => (refr, !args.is_empty()),
        Rule::Spec { head, .. } => match head {
            RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } => (refr, false),
            RuleHead::Func { refr, .. } => (refr, true),
        },
    }
}

/// The first name of a rule head: `grants` in `grants["resource://crm"].application`.
pub(crate) fn head_name(head: &Ref<Expr>) -> String {
    let mut at = head;
    loop {
        match at.as_ref() {
            Expr::RefDot { refr, .. } | Expr::RefBrack { refr, .. } => at = refr,
            other => return other.span().text().to_owned(),
        }
    }
}

/// Refuses calls and references that lead out of the documents.
fn check_names(document: &str, names: &Names) -> Result<(), CompileError> {
    check_calls(document, names, &[])?;
    match &names.stray {
        None => Ok(()),
        Some((reference, line)) => Err(CompileError::Reference {
            document: document.to_owned(),
            line: *line,
            reference: reference.clone(),
        }),
    }
}

/// Refuses calls that lead out of the documents or cost more than can be bounded, and those of `more`.
pub(crate) fn check_calls(document: &str, names: &Names, more: &[&str]) -> Result<(), CompileError> {
    let mut refused = FORBIDDEN_BUILTINS.iter().chain(&UNBOUNDED_BUILTINS).chain(more);
    match refused.find_map(|name| names.calls.get_key_value(*name)) {
        None => Ok(()),
        Some((builtin, line)) => Err(CompileError::Builtin {
            document: document.to_owned(),
            line: *line,
            builtin: builtin.clone(),
        }),
    }
}
