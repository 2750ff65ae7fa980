//! How deep would an interpreter recurse into this text, and how often would it read it?
//!
//! Two properties of the interpreter make these questions worth asking before it sees a text. It
//! recurses once for each level of an expression, on the stack of whoever asks, and a chain such as
//! `a | b | c` nests as deep as it is long. And it reads the first element of every `[` or `{` twice,
//! once as a comprehension, so that nesting them doubles the work each time.

use super::lexical::{Skeleton, Unbalanced, is_name, split_name};

/// Deepest nesting of one expression that fits a stack of 2 MiB in a debug build, with room to spare.
const DEPTH_MAX: usize = 100;

/// Readings allowed for each token, on average, and for a text of no length.
const READINGS_PER_TOKEN_MAX: u64 = 16;
const READINGS_BASE: u64 = 10_000;

/// Upper bounds for the work a text makes.
#[derive(Debug, Default)]
pub(crate) struct Extent {
    depth: usize,
    tokens: u64,
    readings: u64,
}

impl Extent {
    /// Measures a text.
    ///
    /// # Errors
    /// [`Unbalanced`] when the text is not balanced.
    pub(crate) fn of(content: &str) -> Result<Self, Unbalanced> {
        let skeleton = Skeleton::of(content)?;
        let mut extent = Self::default();
        let mut outer = Vec::new();
        let mut level = Level {
            weight: 1,
            weight_after_first: 1,
            ..Level::default()
        };
        let mut rest = skeleton.code();
        while let Some(character) = rest.chars().next() {
            let (token, after) = if is_name(character) {
                split_name(rest)
            } else {
                rest.split_at(character.len_utf8())
            };
            rest = after;
            if character.is_whitespace() {
                continue;
            }
            extent.tokens += 1;
            extent.readings = extent.readings.saturating_add(level.weight);
            match token {
                "(" | "[" | "{" => {
                    let inner = level.inside(token);
                    outer.push(std::mem::replace(&mut level, inner));
                }
                ")" | "]" | "}" => {
                    let depth = level.deepest();
                    level = outer.pop().unwrap_or_default();
                    level.hang(depth);
                }
                "," | ";" => level.end(),
                "in" => level.join(),
                _ if is_name(character) || matches!(character, '"' | '`') => level.operand(),
                _ => level.join(),
            }
        }
        extent.depth = level.deepest();
        Ok(extent)
    }

    /// Whether an interpreter may be given the text.
    pub(crate) fn is_bounded(&self) -> bool {
        let readings_max = self
            .tokens
            .saturating_mul(READINGS_PER_TOKEN_MAX)
            .saturating_add(READINGS_BASE);
        self.depth <= DEPTH_MAX && self.readings <= readings_max
    }
}

/// What stands between two brackets, seen from the left: every operator, index and call puts what came
/// before it one level deeper.
#[derive(Debug, Default)]
struct Level {
    depth: usize,
    deepest: usize,
    after_operand: bool,
    /// How often the tokens here are read, and how often once the first element is past.
    weight: u64,
    weight_after_first: u64,
}

impl Level {
    /// What stands inside the bracket opened here.
    fn inside(&self, bracket: &str) -> Self {
        let weight = if bracket == "(" {
            self.weight
        } else {
            self.weight.saturating_mul(2)
        };
        Self {
            weight,
            weight_after_first: self.weight,
            ..Self::default()
        }
    }

    /// A name or literal. After another one, without an operator between them, a new expression starts.
    fn operand(&mut self) {
        if self.after_operand {
            self.end();
        }
        self.depth = self.depth.max(1);
        self.after_operand = true;
    }

    fn join(&mut self) {
        self.depth += 1;
        self.after_operand = false;
    }

    /// Something in brackets: an operand, or the index or arguments of what came before.
    fn hang(&mut self, inner: usize) {
        self.depth = self.depth.max(inner) + 1;
        self.after_operand = true;
    }

    fn end(&mut self) {
        self.deepest = self.deepest();
        self.depth = 0;
        self.after_operand = false;
        self.weight = self.weight_after_first;
    }

    fn deepest(&self) -> usize {
        self.deepest.max(self.depth)
    }
}
