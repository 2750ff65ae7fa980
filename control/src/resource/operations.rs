//! Which operations does a resource have, and which scope does each need?

use serde_json::{Value, json};

use crate::refusal::{Code, Refusal};

/// One operation: a method and path, and the scope a mandate must carry for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) scope: String,
}

/// Brings operations into their stored form and checks them against the declared scopes.
///
/// # Errors
/// The first fault, as one of the four `operation_...` codes.
pub(super) fn check(operations: &[Operation], scopes: &[String]) -> Result<Vec<Operation>, Refusal> {
    let mut checked: Vec<Operation> = Vec::with_capacity(operations.len());
    for operation in operations {
        let method = operation.method.trim().to_uppercase();
        let path = operation.path.trim();
        if method.is_empty() || path.is_empty() {
            return Err(Code::OperationMethodAndPathRequired.into());
        }
        if !path.starts_with('/') {
            return Err(Code::OperationPathMustBeAbsolute.into());
        }
        if !scopes.contains(&operation.scope) {
            return Err(Code::OperationScopeNotInResourceScopes.into());
        }
        if checked
            .iter()
            .any(|earlier| earlier.method == method && earlier.path == path)
        {
            return Err(Code::OperationDuplicate.into());
        }
        checked.push(Operation {
            method,
            path: path.to_owned(),
            scope: operation.scope.clone(),
        });
    }
    Ok(checked)
}

/// The stored form.
pub(super) fn to_json(operations: &[Operation]) -> Value {
    operations
        .iter()
        .map(|operation| {
            json!({ "method": operation.method, "path": operation.path, "scope": operation.scope })
        })
        .collect()
}

/// Reads the stored form; `None` when it is not one.
pub(super) fn from_json(stored: &Value) -> Option<Vec<Operation>> {
    let text = |entry: &Value, name: &str| entry.get(name)?.as_str().map(str::to_owned);
    let read = |entry: &Value| {
        Some(Operation {
            method: text(entry, "method")?,
            path: text(entry, "path")?,
            scope: text(entry, "scope")?,
        })
    };
    stored.as_array()?.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(method: &str, path: &str, scope: &str) -> Operation {
        Operation {
            method: method.to_owned(),
            path: path.to_owned(),
            scope: scope.to_owned(),
        }
    }

    #[test]
    fn operations_are_brought_into_one_form() {
        let checked = check(&[operation(" get ", " /a ", "s")], &["s".to_owned()]).unwrap();
        assert_eq!(checked, [operation("GET", "/a", "s")]);
        assert_eq!(from_json(&to_json(&checked)), Some(checked));
    }

    #[test]
    fn faults_have_their_own_codes() {
        let scopes = ["s".to_owned()];
        let table = [
            (
                vec![operation(" ", "/a", "s")],
                Code::OperationMethodAndPathRequired,
            ),
            (
                vec![operation("GET", " ", "s")],
                Code::OperationMethodAndPathRequired,
            ),
            (
                vec![operation("GET", "a", "s")],
                Code::OperationPathMustBeAbsolute,
            ),
            (
                vec![operation("GET", "/a", "t")],
                Code::OperationScopeNotInResourceScopes,
            ),
            (
                vec![operation("GET", "/a", "s"), operation("get", "/a", "s")],
                Code::OperationDuplicate,
            ),
        ];
        for (operations, expected) in table {
            assert_eq!(
                check(&operations, &scopes).unwrap_err().code(),
                expected,
                "{operations:?}"
            );
        }
    }
}
