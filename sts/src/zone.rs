//! What is configured in a zone, in memory: the model of one zone, and the cache of all that are in use.

mod cache;
mod loading;
mod model;
mod policy;
mod provider;

pub(crate) use cache::{ZoneCache, ZoneError};
pub(crate) use loading::Loading;
pub(crate) use model::{Application, Resource, ZoneModel};
pub(crate) use policy::NoUsablePolicy;
pub(crate) use provider::{Credential, OAuthProvider, Placement, Provider, SecretCredential};
