//! What an operator declares is what agents may call, from the next call on.

use caracal_testing::{StackOptions, wait_for, wait_until};
use serde_json::{Value, json};

use crate::world::{READ, SOON, World};

async fn declare(world: &World, operations: Value) {
    let body = json!({"operation_enforcement": "enforced", "operations": operations});
    let path = world.path(&format!("/resources/{}", world.resource));
    world.stack.admin().patch(&path, &body).await.expect(200);
}

/// The status and code of a call with this mandate.
async fn call(world: &World, mandate: &str, path: &str) -> (u16, String) {
    let answer = world.call().mandate(mandate).send(path).await;
    let code = match answer.status {
        200 => String::new(),
        _ => answer.text_of("error"),
    };
    (answer.status, code)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_that_was_just_declared_is_honoured_by_a_mandate_that_was_refused_before() {
    let world = World::start(StackOptions::default()).await;
    let agent = world.agent().await;
    declare(&world, json!([])).await;
    let undeclared = (403, "operation_not_permitted".to_owned());
    // Until the token service has heard of the change the call passes; until the gateway has, the token service refuses it.
    // Both burn the mandate.
    let mandate = wait_for(SOON, async || {
        let mandate = world.one_shot(&agent).await;
        let _passed_or_refused = call(&world, &mandate, "/v1/users/7").await;
        let again = call(&world, &mandate, "/v1/users/7").await;
        (again == undeclared).then_some(mandate)
    })
    .await;
    let template = json!([{"method": "GET", "path": "/v1/users/{id}", "scope": READ}]);
    declare(&world, template).await;
    assert_eq!(call(&world, &mandate, "/v1/users/7/secrets").await, undeclared);
    assert_eq!(call(&world, &mandate, "/v1/users/7%2Fsecrets").await, undeclared);
    assert_eq!(call(&world, &mandate, "/v1/users/7").await.0, 200);
    declare(&world, json!([])).await;
    wait_until(SOON, async || {
        let other = world.one_shot(&agent).await;
        call(&world, &other, "/v1/users/7").await == undeclared
    })
    .await;
}
