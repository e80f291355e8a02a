//! What probes found out about an endpoint, and when that changes its standing.
//!
//! Sends no probe; `upkeep` does.

use std::time::Instant;

/// The latest findings about one endpoint.
#[derive(Debug, Default)]
pub struct Health {
    /// `None` until the first probe has ended.
    pub is_well: Option<bool>,
    /// Findings in a row that say otherwise.
    pub streak: u32,
    pub last: Option<Finding>,
}

#[derive(Clone, Debug)]
pub struct Finding {
    pub at: Instant,
    /// Why the probe failed.
    pub result: Result<(), String>,
}
