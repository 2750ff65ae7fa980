//! Which keys and tokens does one stack share?

use aws_lc_rs::rand;

/// Fresh random keys (hexadecimal, 32 bytes) and tokens of one stack.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// `STREAMS_HMAC_KEY`.
    pub streams_key: String,
    /// `AUDIT_HMAC_KEY`.
    pub audit_key: String,
    /// `GATEWAY_STS_HMAC_KEY`.
    pub gateway_key: String,
    /// `MANDATE_MAC_KEY`.
    pub mac_key: String,
    /// `IDEMPOTENCY_HMAC_KEY`.
    pub idempotency_key: String,
    /// `SECRET_STORE_KEK`.
    pub kek: String,
    /// `CARACAL_ADMIN_TOKEN`.
    pub admin_token: String,
    /// `CARACAL_COORDINATOR_TOKEN`.
    pub coordinator_token: String,
    /// `AUDIT_ADMIN_TOKEN`.
    pub audit_token: String,
    /// `STS_ADMIN_TOKEN`.
    pub sts_token: String,
    /// `METRICS_BEARER`.
    pub metrics_token: String,
}

impl Secrets {
    /// New ones.
    pub fn generate() -> Self {
        Self {
            streams_key: random_hex(),
            audit_key: random_hex(),
            gateway_key: random_hex(),
            mac_key: random_hex(),
            idempotency_key: random_hex(),
            kek: random_hex(),
            admin_token: format!("cat_{}", random_hex()),
            coordinator_token: random_hex(),
            audit_token: random_hex(),
            sts_token: random_hex(),
            metrics_token: random_hex(),
        }
    }
}

fn random_hex() -> String {
    let mut bytes = [0_u8; 32];
    rand::fill(&mut bytes).expect("AWS-LC gives random bytes");
    hex::encode(bytes)
}
