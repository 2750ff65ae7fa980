//! Which documents decide for a zone? A compiled policy set, ready to be asked.

use std::sync::Arc;

use regorus::Value;

use crate::decision::Reason;
use crate::documents::Documents;
use crate::finding::Findings;
use crate::interpreter::Interpreter;
use crate::shape;
use crate::tables::{Risk, Root, ShapeError, Tables};

/// The data documents of one zone, compiled. Shared by every request until the next activation.
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
    /// Some documents read `input` and are evaluated for each request.
    ReadsInput {
        constant: Tables,
        interpreter: Box<Interpreter>,
    },
}

/// Why data documents cannot be activated.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// More than 256 documents, or one longer than 262,144 characters.
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
}

impl Bundle {
    /// Compiles the data documents of a policy set, given as (id, content).
    ///
    /// Every root that depends on no input is evaluated here, once, and turned into a table.
    ///
    /// # Errors
    /// [`CompileError`]; a set that does not compile must not be activated.
    pub fn compile(modules: &[(&str, &str)]) -> Result<Self, CompileError> {
        let documents = Documents::load(modules)?;
        let mut interpreter = Interpreter::new(&documents)?;
        let constants = constants(&documents, &mut interpreter)?;
        Self::assemble(&documents, interpreter, &constants)
    }

    /// Compiles the data documents of a policy set that is to be put in force: what [`Self::compile`] passes over, such as
    /// a member nobody knows, is refused here, with document, line and place.
    ///
    /// Roots that read `input` have no value yet; their shape is checked at each decision.
    ///
    /// # Errors
    /// [`Findings`], as many as can be told at once.
    pub fn check(modules: &[(&str, &str)]) -> Result<Self, Findings> {
        let mut documents = Documents::load(modules)?;
        let mut interpreter = Interpreter::new(&documents)?;
        let constants = constants(&documents, &mut interpreter)?;
        let mut misfits = Vec::new();
        for (root, value) in &constants {
            shape::check(*root, value, &mut misfits);
        }
        if !misfits.is_empty() {
            let finding = |misfit| documents.finding(modules, misfit);
            return Err(Findings::new(misfits.into_iter().map(finding).collect()));
        }
        Ok(Self::assemble(&documents, interpreter, &constants)?)
    }

    fn assemble(
        documents: &Documents,
        interpreter: Interpreter,
        constants: &[(Root, Value)],
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
        let state = if reads_input.is_empty() {
            State::Constant(constant)
        } else {
            State::ReadsInput {
                constant,
                interpreter: Box::new(interpreter.serving(reads_input)),
            }
        };
        Ok(Self { state })
    }

    /// A bundle that grants nothing: for a zone without an active policy set.
    pub fn deny_all(reason: Reason) -> Self {
        Self {
            state: State::DenyAll(reason),
        }
    }

    /// Whether some document is interpreted for each decision.
    pub fn reads_input(&self) -> bool {
        matches!(self.state, State::ReadsInput { .. })
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
