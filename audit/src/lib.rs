//! Ingests, chains, stores and verifies the evidence.
