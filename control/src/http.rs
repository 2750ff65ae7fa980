//! The admin API over HTTP: which paths there are, and what each request passes on its way.

mod admission;
mod answer;
mod extract;
mod router;

mod admin_audit;
mod application_keys;
mod applications;
mod approvals;
mod audit;
mod authority_records;
mod evidence;
mod gateway_binding;
mod grants;
mod policies;
mod policy_sets;
mod policy_templates;
mod provider_connections;
mod providers;
mod resources;
mod sessions;
mod step_up_challenges;
mod subject_issuers;
mod subjects;
mod view;
mod workloads;
mod zones;

pub use router::{RouteFacts, route_list};

pub(crate) use admission::{Admission, Limits};
pub(crate) use router::router;
