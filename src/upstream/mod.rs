//! Endpoints: who may take a request, and who takes the next one.
//!
//! Opens no connection; `dial` does. Nothing here awaits.

mod endpoint;
mod pool;

pub use endpoint::{Endpoint, EndpointId, Lease, Protocol};
pub use pool::{Member, Pool, SendProxy, Timeouts};
