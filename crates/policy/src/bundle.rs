//! Which documents decide for a zone? A compiled policy set, ready to be asked.

use std::sync::Arc;

use regorus::Value;

use crate::contract::PolicyError;
use crate::decision::Reason;
use crate::document::{CONTENT_CHARACTERS_MAX, is_decision_policy};
use crate::documents::Documents;
use crate::finding::Findings;
use crate::interpreter::{Failure, Interpreter};
use crate::program::Program;
use crate::shape;
use crate::stack::on_a_deep_stack;
use crate::tables::{Risk, Root, ShapeError, Tables};
use crate::verdict::Verdict;

const DOCUMENTS_MAX: usize = 256;

/// Most characters of all documents of a set together.
const SET_CHARACTERS_MAX: usize = 4 * 1024 * 1024;

/// The data documents of one zone, and its decision policy if it has one, compiled. Shared by every request until the next activation.
#[derive(Debug)]
pub struct Bundle {
    state: State,
}

#[derive(Debug)]
pub(crate) enum State {
    /// Nothing is granted, for this reason.
    DenyAll(Reason),
    /// No document reads `input`: the tables hold for every request.
    Constant(Tables),
    /// Something is evaluated for each request.
    ReadsInput(Box<Interpreted>),
}

/// What is evaluated for each request, and what is not.
#[derive(Debug)]
pub(crate) struct Interpreted {
    constant: Tables,
    /// The documents that read `input`.
    documents: Option<Interpreter>,
    /// The decision policy.
    program: Option<Program>,
}

impl Interpreted {
    /// The tables for one input, and what the decision policy says about it.
    ///
    /// Interprets: 50 microseconds and up, on a thread of its own. Nothing is parsed or compiled but the input.
    pub(crate) fn answer(&self, input_json: &str) -> Result<(Tables, Option<Verdict>), PolicyError> {
        on_a_deep_stack(|| self.interpret(input_json)).map_err(PolicyError::Evaluation)?
    }

    /// What the modules of the decision policy say at `path`; no input is `None`.
    pub(crate) fn look_up(
        &self,
        path: &[String],
        input_json: Option<&str>,
    ) -> Result<Option<serde_json::Value>, PolicyError> {
        on_a_deep_stack(|| {
            let Some(program) = &self.program else {
                return Ok(None);
            };
            let input = match input_json {
                None => Value::Undefined,
                Some(text) => {
                    Value::from_json_str(text).map_err(|source| PolicyError::Input(source.into()))?
                }
            };
            let read = match &self.documents {
                None => Vec::new(),
                Some(documents) => documents.values(input.clone())?,
            };
            program
                .look_up(path, &read, &input)
                .map_err(PolicyError::Evaluation)
        })
        .map_err(PolicyError::Evaluation)?
    }

    fn interpret(&self, input_json: &str) -> Result<(Tables, Option<Verdict>), PolicyError> {
        let input = Value::from_json_str(input_json).map_err(|source| PolicyError::Input(source.into()))?;
        let mut tables = self.constant.clone();
        let read = match &self.documents {
            None => Vec::new(),
            Some(documents) => documents.values(input.clone())?,
        };
        for (root, value) in &read {
            tables.set(*root, value)?;
        }
        let verdict = match &self.program {
            None => None,
            Some(program) => {
                let result = program.run(&read, input).map_err(PolicyError::Evaluation)?;
                Some(Verdict::read(&result)?)
            }
        };
        Ok((tables, verdict))
    }
}

/// Why data documents cannot be activated.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// More than 256 documents, one longer than 262,144 characters, more than 4,194,304 characters together, or more than
    /// 4,096 rules in the decision policy.
    #[error("the policy set is too large")]
    TooLarge,
    /// A document is not Rego.
    #[error("document {document} is not valid Rego")]
    Syntax {
        /// The document's id.
        document: String,
        /// The line, from 1, when it can be told.
        line: Option<u32>,
        /// What the parser says; may quote the document.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A document is not in package `caracal.authz`.
    #[error("document {document} must use package caracal.authz")]
    Package {
        /// The document's id.
        document: String,
        /// The line, from 1.
        line: u32,
    },
    /// A document defines a name that is not a data root, or defines one as a function.
    #[error("document {document} must not define {rule}")]
    Rule {
        /// The document's id.
        document: String,
        /// The line, from 1.
        line: u32,
        /// The name.
        rule: String,
    },
    /// A document calls a built-in that reaches outside of it or answers differently each time.
    #[error("document {document} must not call {builtin}")]
    Builtin {
        /// The document's id.
        document: String,
        /// The line, from 1.
        line: u32,
        /// The built-in.
        builtin: String,
    },
    /// A document refers to `data` that is not a data root.
    #[error("document {document} must not refer to {reference}")]
    Reference {
        /// The document's id.
        document: String,
        /// The line, from 1.
        line: u32,
        /// The reference.
        reference: String,
    },
    /// An expression nests too deep to be read in bounded time or evaluated on a bounded stack.
    #[error("document {document} nests too deep")]
    TooDeep {
        /// The document's id.
        document: String,
    },
    /// A root is built from itself.
    #[error("{rule} is built from itself")]
    Cycle {
        /// The root.
        rule: &'static str,
    },
    /// The documents cannot be evaluated together: they contradict each other, or take too long.
    #[error("the documents cannot be evaluated")]
    Evaluation(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A constant root has the wrong shape.
    #[error("a data document has the wrong shape")]
    Shape(#[from] ShapeError),
    /// The risk document puts one scope in two tiers.
    #[error("scope {0} is classified in two risk tiers")]
    RiskConflict(Arc<str>),
    /// No module of the decision policy defines `result` in package `caracal.authz`.
    #[error("the decision policy defines no result")]
    NoResult,
    /// The decision policy cannot be compiled.
    #[error("the decision policy cannot be compiled")]
    Program(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<Failure> for CompileError {
    fn from(source: Failure) -> Self {
        Self::Program(source)
    }
}

/// The documents of a set by what they are, each given as (id, content).
struct Parts<'m> {
    data: Vec<(&'m str, &'m str)>,
    decision: Vec<(&'m str, &'m str)>,
}

impl<'m> Parts<'m> {
    fn of(modules: &[(&'m str, &'m str)]) -> Result<Self, CompileError> {
        let lengths = || modules.iter().map(|(_, content)| content.chars().count());
        if modules.len() > DOCUMENTS_MAX
            || lengths().any(|length| length > CONTENT_CHARACTERS_MAX)
            || lengths().sum::<usize>() > SET_CHARACTERS_MAX
        {
            return Err(CompileError::TooLarge);
        }
        let (decision, data) = modules
            .iter()
            .partition(|(_, content)| is_decision_policy(content));
        Ok(Self { data, decision })
    }
}

impl Bundle {
    /// Compiles the data documents of a policy set, given as (id, content).
    ///
    /// Every root that depends on no input is evaluated here, once, and turned into a table.
    ///
    /// # Errors
    /// [`CompileError`]; a set that does not compile must not be activated.
    pub fn compile(modules: &[(&str, &str)]) -> Result<Self, CompileError> {
        on_a_deep_stack(|| {
            let parts = Parts::of(modules)?;
            let documents = Documents::load(&parts.data)?;
            let mut interpreter = Interpreter::new(&documents)?;
            let constants = constants(&documents, &mut interpreter)?;
            Self::assemble(&documents, interpreter, &constants, &parts.decision)
        })
        .map_err(CompileError::Evaluation)?
    }

    /// Compiles the data documents of a policy set that is to be put in force: what [`Self::compile`] passes over, such as
    /// a member nobody knows, is refused here, with document, line and place.
    ///
    /// Roots that read `input` have no value yet; their shape is checked at each decision.
    ///
    /// # Errors
    /// [`Findings`], as many as can be told at once.
    pub fn check(modules: &[(&str, &str)]) -> Result<Self, Findings> {
        on_a_deep_stack(|| Self::check_here(modules)).map_err(CompileError::Evaluation)?
    }

    fn check_here(modules: &[(&str, &str)]) -> Result<Self, Findings> {
        let parts = Parts::of(modules)?;
        let mut documents = Documents::load(&parts.data)?;
        let mut interpreter = Interpreter::new(&documents)?;
        let constants = constants(&documents, &mut interpreter)?;
        let mut misfits = Vec::new();
        for (root, value) in &constants {
            shape::check(*root, value, &mut misfits);
        }
        if !misfits.is_empty() {
            let finding = |misfit| documents.finding(&parts.data, misfit);
            return Err(Findings::new(misfits.into_iter().map(finding).collect()));
        }
        Ok(Self::assemble(
            &documents,
            interpreter,
            &constants,
            &parts.decision,
        )?)
    }

    fn assemble(
        documents: &Documents,
        interpreter: Interpreter,
        constants: &[(Root, Value)],
        decision: &[(&str, &str)],
    ) -> Result<Self, CompileError> {
        let mut constant = Tables::default();
        for (root, value) in constants {
            constant.set(*root, value)?;
        }
        if let Risk::Tiers {
            conflict: Some(scope),
            ..
        } = &*constant.risk
        {
            return Err(CompileError::RiskConflict(Arc::clone(scope)));
        }
        let reads_input: Vec<Root> = documents.roots_that_read_input().collect();
        let program = Program::load(decision, constants)?;
        let documents = (!reads_input.is_empty()).then(|| interpreter.serving(reads_input));
        let state = if documents.is_none() && program.is_none() {
            State::Constant(constant)
        } else {
            State::ReadsInput(Box::new(Interpreted {
                constant,
                documents,
                program,
            }))
        };
        Ok(Self { state })
    }

    /// A bundle that grants nothing: for a zone without an active policy set.
    pub fn deny_all(reason: Reason) -> Self {
        Self {
            state: State::DenyAll(reason),
        }
    }

    /// Whether some document, or a decision policy, is interpreted for each decision.
    pub fn reads_input(&self) -> bool {
        matches!(self.state, State::ReadsInput(_))
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }
}

/// The values of the roots that read no input.
fn constants(
    documents: &Documents,
    interpreter: &mut Interpreter,
) -> Result<Vec<(Root, Value)>, CompileError> {
    documents
        .constant_roots()
        .map(|root| Ok((root, interpreter.constant(root)?)))
        .collect()
}
