//! What the process tells about itself: time, metrics, the access log, its own log.
//!
//! Nothing here may delay a request: a worker writes to memory of its own, and whoever reads does the adding up.

pub mod access;
pub mod clock;
pub mod log;
pub mod metrics;
pub mod panics;
pub mod sink;

pub use clock::{HttpDate, Stamps};
pub use log::{Access, Settings};
pub use metrics::Metrics;
pub use sink::Sink;
