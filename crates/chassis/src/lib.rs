//! What every service's main needs: configuration, telemetry, health, shutdown, HTTP server limits.
