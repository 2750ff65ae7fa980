//! Operations of the fake STS: told to gateways, and enforced where an exchange asks for authority.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use caracal_model::{Operation, Operations};
use caracal_token::UnverifiedToken;
use caracal_wire::form::Form;
use caracal_wire::gateway_operations::{EnforcedResource, NOT_DECLARED, ZoneOperations, parameter};
use caracal_wire::sts::field;
use serde_json::json;

use super::{FakeSts, Inside};
use crate::rig::{APPLICATION, RESOURCE};

/// The row id of the resource.
pub(crate) const RESOURCE_ID: &str = "r-crm";

/// What gateways that ask are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Telling {
    /// What is declared.
    #[default]
    Truth,
    /// 404, as by an STS that has no such endpoint.
    NotFound,
    /// Nothing, ever.
    Silence,
}

/// The declared operations of the one resource.
#[derive(Default)]
pub(super) struct Declared {
    /// `None` while they are not enforced.
    operations: Mutex<Option<Vec<Operation>>>,
    version: AtomicUsize,
    telling: Mutex<Telling>,
    questions: AtomicUsize,
}

impl FakeSts {
    /// Enforces exactly these operations: method, path and scope of each.
    pub(crate) fn declare(&self, operations: &[(&str, &str, &str)]) {
        let operation = |(method, path, scope): &(&str, &str, &str)| Operation {
            method: (*method).to_owned(),
            path: (*path).to_owned(),
            scope: (*scope).to_owned(),
        };
        let operations = operations.iter().map(operation).collect();
        *self.state.declared.operations.lock().unwrap() = Some(operations);
        self.state.declared.version.fetch_add(1, Ordering::SeqCst);
    }

    /// What gateways that ask for operations are told from now on.
    pub(crate) fn tell(&self, telling: Telling) {
        *self.state.declared.telling.lock().unwrap() = telling;
    }

    /// How often gateways have asked for operations.
    pub(crate) fn operation_questions(&self) -> usize {
        self.state.declared.questions.load(Ordering::SeqCst)
    }
}

impl Declared {
    /// The refusal of an exchange whose operation is not declared.
    pub(super) fn refusal(&self, form: &Form) -> Option<Response> {
        let value = |name: &str| form.get(name).unwrap_or_default();
        let operations = self.operations.lock().unwrap();
        let table = Operations::compile(operations.as_ref()?);
        let token = UnverifiedToken::parse(value(field::SUBJECT_TOKEN)).unwrap();
        let carries = |scope: &str| token.unverified_claims().carries_scope(scope);
        let (method, path) = (value(field::REQUEST_METHOD), value(field::REQUEST_PATH));
        (!table.permits(method, path, carries)).then(|| {
            let body = json!({"error": "operation_not_permitted", "error_description": NOT_DECLARED});
            (StatusCode::FORBIDDEN, axum::Json(body)).into_response()
        })
    }
}

pub(super) async fn operations(State(state): State<Arc<Inside>>, uri: Uri, headers: HeaderMap) -> Response {
    let target = uri.path_and_query().unwrap().as_str();
    if !Inside::is_signed(&headers, "GET", target, b"") {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let declared = &state.declared;
    declared.questions.fetch_add(1, Ordering::SeqCst);
    let telling = *declared.telling.lock().unwrap();
    match telling {
        Telling::Truth => {}
        Telling::NotFound => return StatusCode::NOT_FOUND.into_response(),
        Telling::Silence => std::future::pending().await,
    }
    let version = i64::try_from(declared.version.load(Ordering::SeqCst)).unwrap();
    let is_known = target.ends_with(&format!("&{}={version}", parameter::VERSION));
    let operations = declared.operations.lock().unwrap().clone();
    let enforced = operations.map(|operations| EnforcedResource {
        identifier: RESOURCE.try_into().unwrap(),
        names: vec![RESOURCE.to_owned(), RESOURCE_ID.to_owned()],
        reusable_by: Some(APPLICATION.try_into().unwrap()),
        operations,
    });
    let resources = (!is_known).then(|| enforced.into_iter().collect());
    axum::Json(ZoneOperations { version, resources }).into_response()
}
