//! What do documents say that read the request? An interpreter, prepared once, with a time limit.

use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, Value};

use crate::bundle::CompileError;
use crate::contract::PolicyError;
use crate::documents::{Documents, length_limits};
use crate::tables::{Root, Tables};

/// Longest evaluation of one root. Decisions are expected well below a millisecond; a document that
/// takes 50 of them is a mistake or an attack.
const EVALUATION_LIMIT: Duration = Duration::from_millis(50);

/// Steps between two looks at the time.
const STEPS_PER_CHECK: NonZeroU32 = NonZeroU32::MIN.saturating_add(63);

/// Prepared engines kept for reuse; more concurrent evaluations clone the prototype.
const IDLE_ENGINES_MAX: usize = 16;

/// The documents of a zone, ready to be evaluated against a request.
pub(crate) struct Interpreter {
    engines: Mutex<Engines>,
    /// The roots to evaluate for each request.
    roots: Vec<Root>,
}

struct Engines {
    prototype: Engine,
    idle: Vec<Engine>,
}

impl std::fmt::Debug for Interpreter {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Interpreter")
            .field("roots", &self.roots)
            .finish_non_exhaustive()
    }
}

impl Interpreter {
    /// Loads the documents, and a module that names each of their roots.
    ///
    /// A root may be spread over many partial rules; asking for it by one rule of our own gives its
    /// whole value, or `Undefined`.
    pub(crate) fn new(documents: &Documents<'_>) -> Result<Self, CompileError> {
        let mut engine = Engine::new();
        engine.set_policy_length_config(length_limits());
        engine.set_strict_builtin_errors(true);
        engine.set_gather_prints(true);
        engine.set_execution_timer_config(ExecutionTimerConfig {
            limit: EVALUATION_LIMIT,
            check_interval: STEPS_PER_CHECK,
        });
        for (document, content) in documents.modules() {
            engine
                .add_policy((*document).to_owned(), (*content).to_owned())
                .map_err(|source| CompileError::Syntax {
                    document: (*document).to_owned(),
                    source: source.into(),
                })?;
        }
        let mut roots = "package caracal.documents\n".to_owned();
        for root in documents.roots() {
            roots.push_str(&format!("{0} := data.caracal.authz.{0}\n", root.name()));
        }
        engine
            .add_policy("caracal.documents".to_owned(), roots)
            .map_err(|source| CompileError::Evaluation(source.into()))?;
        let engines = Engines {
            prototype: engine,
            idle: Vec::new(),
        };
        Ok(Self {
            engines: Mutex::new(engines),
            roots: Vec::new(),
        })
    }

    /// The value of a root that reads no input, `Undefined` when its rules give none.
    pub(crate) fn constant(&mut self, root: Root) -> Result<Value, CompileError> {
        let engines = self.engines.get_mut().unwrap_or_else(PoisonError::into_inner);
        evaluate(&mut engines.prototype, root).map_err(CompileError::Evaluation)
    }

    /// Chooses the roots that [`Self::tables`] evaluates.
    pub(crate) fn serving(mut self, roots: Vec<Root>) -> Self {
        self.roots = roots;
        self
    }

    /// `constant` with the roots that read `input` replaced by what they say about this input.
    ///
    /// Interprets the documents: 100 microseconds and up. Nothing is parsed or compiled but the input.
    pub(crate) fn tables(&self, constant: &Tables, input_json: &str) -> Result<Tables, PolicyError> {
        let input = Value::from_json_str(input_json).map_err(|source| PolicyError::Input(source.into()))?;
        let mut engine = self.take();
        engine.set_input(input);
        let tables = self.evaluate_roots(&mut engine, constant);
        engine.set_input(Value::Undefined);
        self.put_back(engine);
        tables
    }

    fn evaluate_roots(&self, engine: &mut Engine, constant: &Tables) -> Result<Tables, PolicyError> {
        let mut tables = constant.clone();
        for root in &self.roots {
            let value = evaluate(engine, *root).map_err(PolicyError::Evaluation)?;
            tables.set(*root, &value)?;
        }
        Ok(tables)
    }

    fn take(&self) -> Engine {
        let mut engines = self.lock();
        engines.idle.pop().unwrap_or_else(|| engines.prototype.clone())
    }

    /// Keeps the engine unless enough are idle already.
    fn put_back(&self, mut engine: Engine) {
        drop(engine.take_prints());
        let mut engines = self.lock();
        if engines.idle.len() < IDLE_ENGINES_MAX {
            engines.idle.push(engine);
        }
    }

    /// An engine keeps nothing of an evaluation that the next one does not clear, so one that
    /// panicked inside the lock left nothing half done.
    fn lock(&self) -> MutexGuard<'_, Engines> {
        self.engines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn evaluate(engine: &mut Engine, root: Root) -> Result<Value, Failure> {
    engine
        .eval_rule(format!("data.caracal.documents.{}", root.name()))
        .map_err(Into::into)
}

/// What the interpreter reports.
type Failure = Box<dyn std::error::Error + Send + Sync>;
