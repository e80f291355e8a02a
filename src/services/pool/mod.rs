//! Replicated endpoints with one balancing policy.
//!
//! Only the settings and how they become an `upstream::Pool`; whose turn it is, is decided there.

mod discover;
mod probes;
mod settings;

use std::sync::Arc;

pub use crate::upstream::Pool as Live;
pub use settings::{EndpointSettings, Settings, Transport};

/// Shared by every route that names the service, and by generations in which it did not change.
pub type Pool = Arc<Live>;
