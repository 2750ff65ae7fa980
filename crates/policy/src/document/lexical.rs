//! What is left of a Rego text without its comments and the insides of its strings?

/// Why a text has no skeleton.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unbalanced {
    /// A string does not end.
    #[error("a string does not end")]
    String {
        /// Where it begins.
        line: u32,
    },
    /// A bracket is not closed, or closes another one.
    #[error("a bracket is not closed, or closes another one")]
    Delimiter {
        /// Where the bracket is.
        line: u32,
    },
}

impl Unbalanced {
    /// The line, from 1.
    pub(crate) fn line(self) -> u32 {
        match self {
            Self::String { line } | Self::Delimiter { line } => line,
        }
    }
}

/// A text whose comments are gone and whose strings are empty: what remains can be searched.
#[derive(Debug)]
pub(super) struct Skeleton {
    code: String,
}

impl Skeleton {
    pub(super) fn of(content: &str) -> Result<Self, Unbalanced> {
        let mut code = String::with_capacity(content.len());
        let mut open = Vec::new();
        let mut rest = content.chars();
        let line_at = |position| {
            let before = content.get(..position).unwrap_or_default();
            u32::try_from(before.matches('\n').count())
                .unwrap_or(u32::MAX)
                .saturating_add(1)
        };
        let string_at = |position| Unbalanced::String {
            line: line_at(position),
        };
        let delimiter_at = |position| Unbalanced::Delimiter {
            line: line_at(position),
        };
        loop {
            let before = rest.as_str().len();
            let Some(character) = rest.next() else { break };
            let position = content.len() - before;
            match character {
                '#' => {
                    if rest.any(|character| character == '\n') {
                        code.push('\n');
                    }
                    continue;
                }
                '"' => skip_string(&mut rest).ok_or_else(|| string_at(position))?,
                '`' => skip_raw_string(&mut rest).ok_or_else(|| string_at(position))?,
                '(' => open.push((')', position)),
                '[' => open.push((']', position)),
                '{' => open.push(('}', position)),
                ')' | ']' | '}' if open.pop().map(|(closing, _)| closing) != Some(character) => {
                    return Err(delimiter_at(position));
                }
                _ => {}
            }
            code.push(character);
        }
        match open.pop() {
            None => Ok(Self { code }),
            Some((_, position)) => Err(delimiter_at(position)),
        }
    }

    /// The text without comments and the insides of strings.
    pub(super) fn code(&self) -> &str {
        &self.code
    }

    /// What the first `package` line declares, if there is one.
    pub(super) fn package(&self) -> Option<&str> {
        self.code.lines().find_map(|line| {
            let rest = line.trim().strip_prefix("package")?;
            rest.starts_with(char::is_whitespace)
                .then(|| rest.trim().trim_end_matches(';').trim_end())
        })
    }

    /// Whether the built-in `name` is called somewhere.
    pub(super) fn calls(&self, name: &str) -> bool {
        self.code.match_indices(name).any(|(start, _)| {
            let (before, from) = self.code.split_at(start);
            let after = from.strip_prefix(name).unwrap_or_default().trim_start();
            let is_whole = before
                .chars()
                .next_back()
                .is_none_or(|last| !is_name(last) && last != '.');
            is_whole && after.starts_with('(')
        })
    }

    /// The names the text defines, in order of appearance, each once.
    pub(super) fn rule_heads(&self) -> Vec<&str> {
        let mut heads = Vec::new();
        for statement in self.statements() {
            if let Some(head) = head_of(statement)
                && !heads.contains(&head)
            {
                heads.push(head);
            }
        }
        heads
    }

    /// The distinct references that start with `root`, such as `input.principal.id`, sorted.
    pub(super) fn references(&self, root: &str) -> Vec<String> {
        let mut found: Vec<String> = self
            .code
            .match_indices(root)
            .filter(|(start, _)| {
                let before = self.code.get(..*start).and_then(|code| code.chars().next_back());
                before.is_none_or(|last| !is_name(last) && last != '.')
            })
            .filter_map(|(start, _)| self.code.get(start..))
            .map(|from| {
                from.chars()
                    .take_while(|next| is_name(*next) || *next == '.')
                    .collect::<String>()
            })
            .map(|reference| reference.trim_end_matches('.').to_owned())
            .filter(|reference| reference == root || reference.starts_with(&format!("{root}.")))
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The rest of the text from each place outside all brackets where a line or statement starts.
    fn statements(&self) -> impl Iterator<Item = &str> {
        let mut depth = 0_usize;
        let mut at_start = true;
        self.code.char_indices().filter_map(move |(position, character)| {
            let starts = at_start && depth == 0 && is_name_start(character);
            match character {
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            at_start = matches!(character, '\n' | ';') || at_start && character.is_whitespace();
            starts.then(|| self.code.get(position..)).flatten()
        })
    }
}

/// Whether `text` is names separated by dots.
pub(crate) fn is_dotted_name(text: &str) -> bool {
    text.split('.')
        .all(|part| part.starts_with(is_name_start) && part.chars().all(is_name))
}

/// The name a statement defines; `None` for imports, the package and lines that continue a rule.
fn head_of(statement: &str) -> Option<&str> {
    let (word, rest) = split_name(statement);
    match word {
        "package" | "import" | "else" => None,
        "default" if rest.starts_with(char::is_whitespace) => Some(split_name(rest.trim_start()).0),
        _ => {
            let rest = skip_path(rest).trim_start();
            let assigns = rest.starts_with('=') && !rest.starts_with("==");
            let defines = assigns || rest.starts_with(":=") || rest.starts_with(['{', '(']);
            let keyword = ["contains", "if"]
                .iter()
                .any(|keyword| split_name(rest).0 == *keyword);
            (defines || keyword).then_some(word)
        }
    }
}

/// Skips `.name` and `[…]` after a name, white space between them included.
fn skip_path(text: &str) -> &str {
    let mut rest = text;
    loop {
        let next = rest.trim_start();
        rest = if let Some(after) = next.strip_prefix('.') {
            split_name(after.trim_start()).1
        } else if next.starts_with('[') {
            after_brackets(next)
        } else {
            return rest;
        };
    }
}

/// What follows the brackets `text` starts with.
fn after_brackets(text: &str) -> &str {
    let mut depth = 0_usize;
    for (position, character) in text.char_indices() {
        match character {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return text.get(position + 1..).unwrap_or_default();
        }
    }
    ""
}

pub(super) fn split_name(text: &str) -> (&str, &str) {
    let end = text.find(|character| !is_name(character)).unwrap_or(text.len());
    text.split_at(end)
}

fn is_name_start(character: char) -> bool {
    character.is_ascii_alphabetic() || character == '_'
}

pub(super) fn is_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

/// Reads to the end of a string literal, which its line must contain; `None` when it does not.
fn skip_string(rest: &mut std::str::Chars<'_>) -> Option<()> {
    loop {
        match rest.next() {
            Some('"') => return Some(()),
            Some('\\') => {
                if rest.next().is_none_or(|escaped| escaped == '\n') {
                    return None;
                }
            }
            None | Some('\n') => return None,
            Some(_) => {}
        }
    }
}

/// Reads to the end of a raw string literal, which may span lines; `None` when there is none.
fn skip_raw_string(rest: &mut std::str::Chars<'_>) -> Option<()> {
    rest.any(|character| character == '`').then_some(())
}
