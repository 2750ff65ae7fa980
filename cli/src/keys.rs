//! `caracal keys`: a fresh set of what the roles share.

pub(crate) mod rewrap;

use anyhow::Result;

use crate::dev::state::Keys;

/// Prints the set as environment variables.
///
/// # Errors
/// When the machine gives no random bytes.
#[expect(clippy::print_stdout, reason = "printing the keys is what the command is for")]
pub(crate) fn run() -> Result<()> {
    let keys = Keys::generate()?;
    println!("# Keep these out of version control. Losing SECRET_STORE_KEK loses every stored secret.");
    for (name, value) in [
        ("SECRET_STORE_KEK", &keys.secret_store_kek),
        ("AUDIT_HMAC_KEY", &keys.audit_hmac_key),
        ("STREAMS_HMAC_KEY", &keys.streams_hmac_key),
        ("GATEWAY_STS_HMAC_KEY", &keys.gateway_sts_hmac_key),
        ("MANDATE_MAC_KEY", &keys.mandate_mac_key),
        ("IDEMPOTENCY_HMAC_KEY", &keys.idempotency_hmac_key),
        ("CARACAL_ADMIN_TOKEN", &keys.admin_token),
        ("CARACAL_COORDINATOR_TOKEN", &keys.coordinator_token),
    ] {
        println!("{name}={value}");
    }
    Ok(())
}
