//! What operators declare, and what clients call.

use caracal_gateway::fuzzing;
use caracal_model::operation::{Operation, Operations, is_placeholder, may_stand};

/// Lines: the call as `METHOD raw-path scope`, then one declared operation each, in the same form. The table says what comparing
/// with every declaration says, for the path as sent and as it is matched; what passes has the structure of its template.
pub(crate) fn operation_template(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let mut lines = text.split('\n').filter_map(line);
    let Some(call) = lines.next() else {
        return;
    };
    let declared: Vec<Operation> = lines.collect();
    let table = Operations::compile(&declared);
    let matched = fuzzing::declared_path(&call.path);
    for path in [call.path.as_str(), matched.as_ref()] {
        let is_permitted = table.permits(&call.method, path, |scope| scope == call.scope);
        assert_eq!(is_permitted, compared(&declared, &call, path), "{call:?}");
    }
    let slashes = |text: &str| text.bytes().filter(|byte| *byte == b'/').count();
    assert_eq!(
        slashes(&call.path),
        slashes(&matched),
        "{call:?} has other segments when matched"
    );
}

fn line(text: &str) -> Option<Operation> {
    let (method, rest) = text.split_once(' ')?;
    let (path, scope) = rest.rsplit_once(' ')?;
    Some(Operation {
        method: method.to_owned(),
        path: path.to_owned(),
        scope: scope.to_owned(),
    })
}

/// What the table should say.
fn compared(declared: &[Operation], call: &Operation, path: &str) -> bool {
    let segments: Vec<&str> = path.split('/').collect();
    let fits = |operation: &&Operation| {
        let declared: Vec<&str> = operation.path.split('/').collect();
        let fits =
            |(held, given): (&&str, &&str)| held == given || (is_placeholder(held) && may_stand(given));
        declared.len() <= 512
            && declared.len() == segments.len()
            && declared.iter().zip(&segments).all(fits)
            && operation.method.eq_ignore_ascii_case(&call.method)
    };
    let shape = |operation: &&Operation| operation.path.split('/').map(is_placeholder).collect::<Vec<_>>();
    let fitting: Vec<&Operation> = declared.iter().filter(fits).collect();
    let best = fitting.iter().map(shape).min();
    fitting
        .iter()
        .filter(|operation| best.as_ref() == Some(&shape(operation)))
        .any(|operation| operation.scope == call.scope)
}
