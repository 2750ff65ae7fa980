//! What do documents say that read the request? An interpreter, prepared once, with a time limit.

use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, Value};

use crate::bundle::CompileError;
use crate::contract::PolicyError;
use crate::documents::Documents;
use crate::measure;
use crate::tables::Root;

/// Longest evaluation of one root at activation, where nobody waits for a decision.
const ACTIVATION_LIMIT: Duration = Duration::from_secs(2);

/// Longest evaluation for a request, shared evenly by its roots. It takes well below a millisecond; what
/// takes 600 is a mistake, an attack, or a processor far beyond its load.
pub const INTERPRETATION_LIMIT: Duration = Duration::from_millis(600);

/// Steps between two looks at the time.
pub(crate) const STEPS_PER_CHECK: NonZeroU32 = NonZeroU32::MIN.saturating_add(63);

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
    /// Adds a module that names each root of the documents.
    ///
    /// A root may be spread over many partial rules; asking for it by one rule of our own gives its
    /// whole value, or `Undefined`.
    pub(crate) fn new(documents: &Documents) -> Result<Self, CompileError> {
        let mut engine = documents.engine();
        engine.set_strict_builtin_errors(true);
        engine.set_gather_prints(true);
        engine.set_execution_timer_config(limited_to(ACTIVATION_LIMIT));
        let names = documents.roots().map(Root::name);
        let roots: Vec<String> = names
            .map(|name| {
                format!(
                    "{name} := data.caracal.authz.{name}
"
                )
            })
            .collect();
        engine
            .add_policy(
                "caracal.documents".to_owned(),
                format!("package caracal.documents\n{}", roots.concat()),
            )
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
        let value = evaluate(&mut engines.prototype, root).map_err(CompileError::Evaluation)?;
        measure::check(&value, &measure::ROOT).map_err(|error| CompileError::Evaluation(error.into()))?;
        Ok(value)
    }

    /// Turns to serving requests: [`Self::tables`] will evaluate these roots.
    pub(crate) fn serving(mut self, roots: Vec<Root>) -> Self {
        let engines = self.engines.get_mut().unwrap_or_else(PoisonError::into_inner);
        let share = u32::try_from(roots.len()).unwrap_or(u32::MAX).max(1);
        engines
            .prototype
            .set_execution_timer_config(limited_to(INTERPRETATION_LIMIT / share));
        self.roots = roots;
        self
    }

    /// What the roots that read `input` say about this input.
    ///
    /// Interprets the documents: 100 microseconds and up. Nothing is parsed or compiled.
    pub(crate) fn values(&self, input: Value) -> Result<Vec<(Root, Value)>, PolicyError> {
        let mut engine = self.take();
        engine.set_input(input);
        let values: Result<Vec<(Root, Value)>, PolicyError> = self
            .roots
            .iter()
            .map(|root| {
                let value = evaluate(&mut engine, *root).map_err(PolicyError::Evaluation)?;
                measure::check(&value, &measure::ROOT)
                    .map_err(|error| PolicyError::Evaluation(error.into()))?;
                Ok((*root, value))
            })
            .collect();
        // What was too large is still in the engine, and must end here, where the stack is deep.
        if values.is_ok() {
            engine.set_input(Value::Undefined);
            self.put_back(engine);
        }
        values
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

pub(crate) fn limited_to(limit: Duration) -> ExecutionTimerConfig {
    ExecutionTimerConfig {
        limit,
        check_interval: STEPS_PER_CHECK,
    }
}

fn evaluate(engine: &mut Engine, root: Root) -> Result<Value, Failure> {
    engine
        .eval_rule(format!("data.caracal.documents.{}", root.name()))
        .map_err(Into::into)
}

/// What the interpreter reports.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;
