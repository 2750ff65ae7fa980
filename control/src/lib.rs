//! The admin API: zones, applications, providers, resources, policies.
