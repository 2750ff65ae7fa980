//! The published Python client, unmodified, through its whole flow: session, delegation, mint, call, end.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::dev::Dev;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_published_python_client_performs_its_whole_transport_flow() {
    let python = std::env::var_os("CARACAL_TEST_PYTHON")
        .map(PathBuf::from)
        .expect("CARACAL_TEST_PYTHON: ./x test installs the client and sets it");
    let folder = TempDir::new().unwrap();
    let dev = Dev::start(folder.path(), None).await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/python_flow.py");
    let flow = Command::new(python).arg(script).envs(&dev.environment).output();
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
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
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
