//! What is wrong with a set of documents, and where? For the person who has to mend it.

use std::fmt;

use serde::Serialize;

use crate::bundle::CompileError;

/// Most findings reported of one set: whoever has mended so many asks again.
const FINDINGS_MAX: usize = 64;

/// One thing that keeps a set from being put in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The document's id; `None` when it is about all of them together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<String>,
    /// The line in it, from 1; `None` when it is about no particular line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The place in the data, for example `grants["resource://crm"].roles["editor"]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What is wrong there.
    pub problem: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(document) = &self.document {
            write!(formatter, "document {document}")?;
            if let Some(line) = self.line {
                write!(formatter, ", line {line}")?;
            }
            formatter.write_str(": ")?;
        }
        if let Some(path) = &self.path {
            write!(formatter, "{path} ")?;
        }
        formatter.write_str(&self.problem)
    }
}

/// Why a set may not be put in force: at least one finding, the first 64 at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings(Vec<Finding>);

impl Findings {
    pub(crate) fn new(mut findings: Vec<Finding>) -> Self {
        findings.truncate(FINDINGS_MAX);
        Self(findings)
    }

    /// The findings, in the order of the documents' roots.
    pub fn as_slice(&self) -> &[Finding] {
        &self.0
    }
}

impl std::error::Error for Findings {}

impl fmt::Display for Findings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [] => formatter.write_str("nothing is wrong"),
            [only] => only.fmt(formatter),
            [first, rest @ ..] => write!(formatter, "{first} (and {} more)", rest.len()),
        }
    }
}

impl From<CompileError> for Findings {
    fn from(error: CompileError) -> Self {
        Self(vec![finding_of(&error)])
    }
}

fn finding_of(error: &CompileError) -> Finding {
    let about = |document: &str, line: Option<u32>, problem: String| Finding {
        document: Some(document.to_owned()),
        line,
        path: None,
        problem,
    };
    let of_all = |problem: String| Finding {
        document: None,
        line: None,
        path: None,
        problem,
    };
    match error {
        CompileError::Syntax {
            document,
            line,
            source,
        } => about(
            document,
            *line,
            format!("is not valid Rego: {}", gist(source.as_ref())),
        ),
        CompileError::Package { document, line } => {
            about(document, Some(*line), "must use package caracal.authz".to_owned())
        }
        CompileError::Rule { document, line, rule } => {
            about(document, Some(*line), format!("must not define {rule}"))
        }
        CompileError::Builtin {
            document,
            line,
            builtin,
        } => about(document, Some(*line), format!("must not call {builtin}")),
        CompileError::Reference {
            document,
            line,
            reference,
        } => about(document, Some(*line), format!("must not refer to {reference}")),
        CompileError::TooDeep { document } => about(document, None, "nests too deep".to_owned()),
        CompileError::Evaluation(source) => reported(source.as_ref(), "cannot be evaluated"),
        CompileError::Program(source) => reported(source.as_ref(), "cannot be compiled"),
        CompileError::Shape(shape) => Finding {
            path: Some(shape.at.clone()),
            ..of_all(format!("must be {}", shape.expected))
        },
        CompileError::TooLarge
        | CompileError::Cycle { .. }
        | CompileError::RiskConflict(_)
        | CompileError::NoResult => of_all(error.to_string()),
    }
}

/// The interpreter names the place in its report, before the text it quotes.
fn reported(source: &(dyn std::error::Error + Send + Sync), what: &str) -> Finding {
    let report = source.to_string();
    let place = place_in(&report);
    Finding {
        document: place.map(|(document, _)| document.to_owned()),
        line: place.map(|(_, line)| line),
        path: None,
        problem: format!("{what}: {}", gist(source)),
    }
}

/// Document and line of a report of the interpreter, `--> document:line:column`.
pub(crate) fn place_in(report: &str) -> Option<(&str, u32)> {
    let (_, rest) = report.split_once("--> ")?;
    let place = rest.lines().next()?;
    let (place, _column) = place.rsplit_once(':')?;
    let (document, line) = place.rsplit_once(':')?;
    Some((document, line.parse().ok()?))
}

/// What a report of the interpreter says, without the text it quotes; at most 200 characters.
fn gist(report: &(dyn std::error::Error + Send + Sync)) -> String {
    let report = report.to_string();
    let gist = report
        .rsplit_once("error: ")
        .map_or(report.as_str(), |(_, gist)| gist);
    gist.trim().chars().take(200).collect()
}
