//! `POST /v1/data/<path>`: what does the policy of the caller's zone say, in the words of OPA's Data API?
//!
//! Answers questions and grants nothing (`docs/contract/policy-data.md`).

mod evidence;
mod problem;
mod question;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use caracal_chassis::server::{Peer, RequestId};
use caracal_model::ResourceId;
use caracal_policy::{DataAnswer, DataQuestion, PolicyError};
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use serde_json::{Map, Value, json};

use self::problem::Problem;
use self::question::Asked;
use super::answer::NO_STORE;
use super::standard::{Attempt, authenticate, basic, record_failure, unlocked};
use crate::exchange::client::{Caller, home};
use crate::exchange::refusal::Refusal;
use crate::limit::mint_rate::Rate;
use crate::state::Sts;

/// Names the budget among those of resources, and the endpoint in evidence; ids of rows are UUIDs.
const ENDPOINT: &str = "opa:data";

/// Answers one question of an application about the policy of its zone.
pub(super) async fn ask(
    State(sts): State<Arc<Sts>>,
    peer: Peer,
    request_id: RequestId,
    request: Request,
) -> Response {
    match answered(&sts, peer, &request_id, request).await {
        Ok(response) => response,
        Err(problem) => {
            sts.metrics.asked(problem.outcome());
            problem.into_response()
        }
    }
}

/// Any method but POST.
pub(super) async fn wrong_method(State(sts): State<Arc<Sts>>, method: Method) -> Response {
    tracing::debug!(%method, "refused a question about policies");
    sts.metrics.asked("refused");
    let mut response = Problem::method().into_response();
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static("POST"));
    response
}

async fn answered(
    sts: &Sts,
    peer: Peer,
    request_id: &RequestId,
    request: Request,
) -> Result<Response, Problem> {
    if sts.settings.policy_questions_per_minute == 0 {
        return Err(Problem::off());
    }
    let (parts, body) = request.into_parts();
    let source = peer.ip().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let caller = caller(sts, &parts.headers, source, request_id.as_str()).await?;
    admit(sts, &caller)?;
    let asked = Asked::read(&parts, body).await?;
    if !sts.is_fresh() {
        return Err(Problem::from(&Refusal::RevocationStale));
    }
    let timer = sts.metrics.policy_question_seconds.start_timer();
    let outcome = evaluate(sts, &caller, &asked).await;
    drop(timer);
    // What was said without evidence was not said.
    let decision_id =
        evidence::record(sts, request_id.as_str(), &caller, &asked, outcome.as_ref().ok()).await?;
    let answer = outcome?;
    let outcome = if answer.value.is_some() {
        "answered"
    } else {
        "undefined"
    };
    sts.metrics.asked(outcome);
    Ok(document(&asked, answer, &decision_id))
}

/// Who asks: an application of some zone, by HTTP Basic.
async fn caller(sts: &Sts, headers: &HeaderMap, source: IpAddr, request_id: &str) -> Result<Caller, Problem> {
    let name = basic(headers).ok().flatten().ok_or_else(Problem::unauthorized)?;
    let zone = match unlocked(sts, &name, source) {
        Ok(_) => home::zone_of(sts, &name.application_id, source).await,
        // Not looked for: who is locked out costs no statement.
        Err(_) => Ok(home::known(sts, &name.application_id)),
    };
    let zone = zone.map_err(|refusal| Problem::from(&refusal))?;
    // A zone that no id can name costs as much as a wrong secret.
    let zone = zone.as_ref().map(AsRef::as_ref).unwrap_or_default();
    match authenticate(sts, zone, &name, source).await {
        Ok(caller) => {
            sts.homes.remember(&caller);
            Ok(caller)
        }
        Err(refusal) => {
            let attempt = Attempt {
                zone,
                application_id: &name.application_id,
                source,
                request_id,
                endpoint: ENDPOINT,
            };
            record_failure(sts, &attempt, &refusal).await;
            Err(Problem::from(&refusal))
        }
    }
}

/// Counts the question against the budget of its application.
fn admit(sts: &Sts, caller: &Caller) -> Result<(), Problem> {
    let budget = ResourceId::try_from(ENDPOINT).or(Err(Problem::internal()))?;
    let key = (caller.zone().id.clone(), budget, caller.application().id.clone());
    let rate = Rate::per_minute(sts.settings.policy_questions_per_minute);
    sts.mint_rate
        .admit(key, rate, sts.clock.unix_micros())
        .map_err(|spent| Problem::too_many(spent.retry_after_s))
}

/// Evaluates what was asked, over the policy in force, on the places for questions.
async fn evaluate(sts: &Sts, caller: &Caller, asked: &Asked) -> Result<DataAnswer, Problem> {
    let zone = caller.zone();
    let bundle = zone.policy.bundle().or(Err(Problem::unavailable()))?;
    let question = DataQuestion {
        bundle: Arc::clone(bundle),
        regime: zone.regime,
        path: asked.path.clone(),
        input: asked.input.clone(),
    };
    let asked = move || question.answer();
    match sts
        .questions
        .run_judging(&zone.id, asked, is_budget_spent)
        .await?
    {
        Ok(answer) => Ok(answer),
        Err(PolicyError::Input(error)) => {
            tracing::debug!(%error, "a question is about no input document");
            Err(Problem::invalid("the input is not a policy input document"))
        }
        Err(error) => {
            tracing::info!(
                zone.id = %zone.id,
                error = &error as &dyn std::error::Error,
                "a question about a policy cannot be answered"
            );
            Err(Problem::not_evaluated())
        }
    }
}

/// What spends a budget counts as running out of time, however fast the machine is: who asks chooses the input.
fn is_budget_spent(outcome: &Result<DataAnswer, PolicyError>) -> bool {
    outcome.as_ref().is_err_and(PolicyError::is_budget_spent)
}

/// `{"result": ...}`, and nothing where nothing is defined.
fn document(asked: &Asked, answer: DataAnswer, decision_id: &str) -> Response {
    let mut document = Map::new();
    document.insert("decision_id".to_owned(), json!(decision_id));
    if let Some(value) = answer.value {
        document.insert("result".to_owned(), value);
    }
    if asked.lacks_input {
        let warning = json!({
            "code": "api_usage_warning",
            "message": "'input' key missing from the request",
        });
        document.insert("warning".to_owned(), warning);
    }
    let document = Value::Object(document);
    let text = if asked.is_pretty {
        format!("{document:#}\n")
    } else {
        format!("{document}\n")
    };
    let content_type = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (content_type, NO_STORE, text).into_response()
}
