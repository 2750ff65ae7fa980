//! Clients nobody here wrote: the published Python client through its whole flow (session, delegation, mint, call, end), and
//! OAuth client libraries in Python and in Node that are given nothing but the issuer.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::dev::Dev;

/// Runs a script of `e2e/clients` against `dev` and reads what it prints.
async fn run(dev: &Dev, command: &mut Command, script: &str) -> Value {
    let script = format!("{}/clients/{script}", env!("CARGO_MANIFEST_DIR"));
    let flow = command.arg(script).envs(&dev.environment).output();
    let output = tokio::time::timeout(Duration::from_mins(2), flow)
        .await
        .expect("the client ends")
        .unwrap();
    assert!(
        output.status.success(),
        "the client failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn run_python(dev: &Dev, script: &str) -> Value {
    run(dev, &mut Command::new(installed("CARACAL_TEST_PYTHON")), script).await
}

async fn run_node(dev: &Dev, script: &str) -> Value {
    let clients = installed("CARACAL_TEST_NODE_CLIENTS");
    let mut node = Command::new("node");
    node.env("CARACAL_TEST_NODE_CLIENTS", Path::new(&clients));
    run(dev, &mut node, script).await
}

fn installed(variable: &str) -> OsString {
    std::env::var_os(variable)
        .unwrap_or_else(|| panic!("{variable}: ./x test installs the clients and sets it"))
}

/// Token exchange, a governed call, introspection, revocation, and introspection again, with each way to authenticate.
fn assert_walked(dev: &Dev, result: &Value) {
    for method in ["client_secret_basic", "client_secret_post", "private_key_jwt"] {
        let walk = &result[method];
        assert_eq!(walk["before"]["active"], true, "{method}: {walk}");
        assert_eq!(
            walk["before"]["client_id"], dev.environment["CARACAL_APPLICATION_ID"],
            "{method}"
        );
        assert_eq!(walk["called"], 200, "{method}: {walk}");
        assert_eq!(walk["after"], serde_json::json!({"active": false}), "{method}");
        assert!(
            walk["called_after"] == 401 || walk["called_after"] == 403,
            "{method}: a revoked token passes no gateway: {walk}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oauth_library_needs_nothing_but_the_metadata() {
    let folder = TempDir::new().unwrap();
    let dev = Dev::start(folder.path(), None).await;
    let result = run_python(&dev, "oauth_client.py").await;
    assert_walked(&dev, &result);
    dev.interrupt().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oauth_library_of_node_needs_nothing_but_the_issuer() {
    let folder = TempDir::new().unwrap();
    let dev = Dev::start(folder.path(), None).await;
    let result = run_node(&dev, "node/oauth_client.mjs").await;
    assert_walked(&dev, &result);
    dev.interrupt().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_published_python_client_performs_its_whole_transport_flow() {
    let folder = TempDir::new().unwrap();
    let dev = Dev::start(folder.path(), None).await;
    let result = run_python(&dev, "python_flow.py").await;
    let calls = result["transport"].as_array().unwrap();
    assert_eq!(calls.len(), 3, "three calls through the application transport");
    for call in calls.iter().chain([&result["child"]]) {
        let headers = &call["upstream"]["headers"];
        assert_eq!(
            headers["x-demo-key"], "demo-upstream-key",
            "the upstream gets its own credential"
        );
        assert!(
            headers.get("authorization").is_none() && headers.get("baggage").is_none(),
            "nothing of ours goes upstream: {headers}"
        );
    }
    assert_eq!(result["child"]["upstream"]["body"], "body of the child");
    dev.interrupt().await;
}
