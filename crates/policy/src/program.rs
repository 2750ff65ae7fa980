//! What does a decision policy say about a request? Full Rego, compiled once, run with budgets.
//!
//! Its modules may define what they like. They run on a virtual machine that counts instructions and allocated bytes, looks
//! at the time, and keeps its frames on the heap, so that a policy which never ends, recurses or allocates without end is
//! stopped (`docs/decisions/0037`). The data documents of the set are values to them, under `data.caracal.authz`.

mod compiled;
mod names;
mod rules;

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::Duration;

use regorus::rvm::program::Program as Instructions;
use regorus::rvm::vm::{ExecutionMode, RegoVM};
use regorus::unstable::Module;
use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{MemoryBudgetConfig, Value};

use crate::analysis::{names_of_import, names_of_rule, path_of};
use crate::bundle::CompileError;
use crate::document::{DATA_ROOTS, PACKAGE, is_reserved};
use crate::documents::{check_calls, head_name, head_of, parse};
use crate::interpreter::{Failure, STEPS_PER_CHECK};
use crate::tables::Root;

use self::compiled::compile;
use self::rules::Rules;
pub(crate) use self::rules::within;

/// What is asked for.
const RESULT: &str = "data.caracal.authz.result";

/// Longest evaluation of a decision policy.
pub const PROGRAM_LIMIT: Duration = Duration::from_millis(300);

/// Most instructions of one evaluation; an ordinary policy takes hundreds.
pub const INSTRUCTIONS_MAX: usize = 1_000_000;

/// Most bytes one evaluation may ask for, given back or not.
pub const ALLOCATED_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Most rules of all modules together: the compiler's work grows with the square.
const RULES_MAX: usize = 4_096;

/// Built-ins that follow a value to its ends without looking at the budgets.
const UNBUDGETED_BUILTINS: [&str; 1] = ["walk"];

/// A compiled decision policy.
pub(crate) struct Program {
    instructions: Arc<Instructions>,
    /// What else its modules define, for whoever asks for it.
    rules: Rules,
    /// The values of the data documents that read no `input`.
    constants: Vec<(Root, Value)>,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Program").finish_non_exhaustive()
    }
}

impl Program {
    /// Compiles the modules of a decision policy; `None` when there are none. `constants` are the values of the data
    /// documents of the same set.
    pub(crate) fn load(
        modules: &[(&str, &str)],
        constants: &[(Root, Value)],
    ) -> Result<Option<Self>, CompileError> {
        if modules.is_empty() {
            return Ok(None);
        }
        let mut engine = parse(modules)?;
        let mut rules = 0_usize;
        let mut decides = false;
        for ((document, _), module) in modules.iter().zip(engine.get_modules()) {
            rules = rules.saturating_add(module.policy.len());
            decides |= check_module(document, module)?;
        }
        if rules > RULES_MAX {
            return Err(CompileError::TooLarge);
        }
        if !decides {
            return Err(CompileError::NoResult);
        }
        let compiled = engine
            .compile_with_entrypoint(&RESULT.into())
            .map_err(|source| CompileError::Program(source.into()))?;
        let instructions = compile(&compiled, &[RESULT]).map_err(CompileError::Program)?;
        let program = Self {
            instructions,
            rules: Rules::of(compiled),
            constants: constants.to_vec(),
        };
        program.machine(&program.instructions, &[], 1)?;
        Ok(Some(program))
    }

    /// Runs the policy. `read` are the values of the data documents that read `input`.
    ///
    /// 10 microseconds and up. Must be called where the stack is deep, and the value dropped there.
    pub(crate) fn run(&self, read: &[(Root, Value)], input: Value) -> Result<Value, Failure> {
        let mut machine = self.machine(&self.instructions, read, 1)?;
        machine.set_input(input);
        Ok(machine.execute_entry_point_by_name(RESULT)?)
    }

    /// What its modules define at `path` below `data`, for this input; `None` when nothing is defined there, `Undefined` when
    /// no rule applies. The rules of a package share the budgets of one evaluation evenly.
    ///
    /// Compiles the rules the first time they are asked for. Must be called where the stack is deep.
    pub(crate) fn look_up(
        &self,
        path: &[String],
        read: &[(Root, Value)],
        input: &Value,
    ) -> Result<Option<serde_json::Value>, Failure> {
        self.rules.look_up(path, |instructions, names| {
            let mut machine = self.machine(instructions, read, names.len())?;
            let answer = |name: &String| {
                machine.set_input(input.clone());
                machine.execute_entry_point_by_name(name)
            };
            Ok(names.iter().map(answer).collect::<Result<Vec<Value>, _>>()?)
        })
    }

    /// A machine with the part of the budgets that is one evaluation's share.
    fn machine(
        &self,
        instructions: &Arc<Instructions>,
        read: &[(Root, Value)],
        shares: usize,
    ) -> Result<RegoVM, Failure> {
        let shares = NonZeroU32::new(u32::try_from(shares).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
        let mut machine = RegoVM::new();
        machine.load_program(Arc::clone(instructions));
        machine.set_execution_mode(ExecutionMode::Suspendable);
        machine.set_strict_builtin_errors(true);
        machine.set_max_instructions(INSTRUCTIONS_MAX / shares.get() as usize);
        machine.set_memory_budget_config(Some(MemoryBudgetConfig {
            limit: NonZeroU64::new(ALLOCATED_BYTES_MAX / u64::from(shares.get())).unwrap_or(NonZeroU64::MIN),
        }));
        machine.set_execution_timer_config(Some(ExecutionTimerConfig {
            limit: PROGRAM_LIMIT / shares.get(),
            check_interval: STEPS_PER_CHECK,
        }));
        machine.set_data(self.data(read))?;
        Ok(machine)
    }

    /// `{"caracal": {"authz": {root: value}}}`.
    fn data(&self, read: &[(Root, Value)]) -> Value {
        let defined = self.constants.iter().chain(read);
        let roots = defined
            .filter(|(_, value)| *value != Value::Undefined)
            .map(|(root, value)| (Value::from(root.name()), value.clone()));
        let object = |name: &str, value: Value| object([(Value::from(name), value)]);
        object("caracal", object("authz", self::object(roots)))
    }
}

fn object(fields: impl IntoIterator<Item = (Value, Value)>) -> Value {
    Value::from(fields.into_iter().collect::<BTreeMap<Value, Value>>())
}

/// Checks one module; answers whether it defines the result.
fn check_module(document: &str, module: &Module) -> Result<bool, CompileError> {
    let package = path_of(&module.package.refr).unwrap_or_default();
    if package.is_empty() || is_reserved(&package) {
        return Err(CompileError::Package {
            document: document.to_owned(),
            line: module.package.span.line,
        });
    }
    for import in &module.imports {
        check_calls(document, &names_of_import(import).1, &UNBUDGETED_BUILTINS)?;
    }
    let mut decides = false;
    for rule in &module.policy {
        check_calls(document, &names_of_rule(rule), &UNBUDGETED_BUILTINS)?;
        let (head, is_function) = head_of(rule);
        let name = head_name(head);
        let is_result = name == "result";
        if package == PACKAGE && (DATA_ROOTS.contains(&name.as_str()) || (is_result && is_function)) {
            return Err(CompileError::Rule {
                document: document.to_owned(),
                line: head.span().line,
                rule: name,
            });
        }
        decides |= package == PACKAGE && is_result;
    }
    Ok(decides)
}
