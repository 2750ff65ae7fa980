//! `caracal token inspect`: what a mandate says.

use std::io::Read;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// The longest mandate that is looked at, in bytes.
const MANDATE_BYTES_MAX: u64 = 64 << 10;

/// Prints header and claims as JSON. Nothing is proven.
///
/// # Errors
/// When the text is not a compact JWT.
#[expect(
    clippy::print_stdout,
    reason = "printing the claims is what the command is for"
)]
pub(crate) fn inspect(mandate: &str) -> Result<()> {
    let text = if mandate == "-" {
        read_standard_input()?
    } else {
        mandate.to_owned()
    };
    let parts: Vec<&str> = text.trim().split('.').collect();
    let [header, claims, _signature] = parts.as_slice() else {
        bail!(
            "this is not a mandate: expected three parts separated by dots, found {}",
            parts.len()
        );
    };
    let shown = serde_json::json!({
        "header": decode(header).context("the header")?,
        "claims": decode(claims).context("the claims")?,
        "verified": false,
    });
    println!("{}", serde_json::to_string_pretty(&shown)?);
    Ok(())
}

fn decode(part: &str) -> Result<Value> {
    let bytes = URL_SAFE_NO_PAD.decode(part).context("is not base64url")?;
    serde_json::from_slice(&bytes).context("is not JSON")
}

fn read_standard_input() -> Result<String> {
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(MANDATE_BYTES_MAX)
        .read_to_string(&mut text)
        .context("cannot read standard input")?;
    Ok(text)
}
