//! Endpoints: who they are, who may take a request, and who takes the next one.
//!
//! Opens no connection; `dial` does. Finds out nothing by itself; `upkeep` does. Nothing here awaits.

mod balance;
pub mod eject;
mod endpoint;
pub mod health;
pub mod leader;
mod member;
mod pool;
mod record;

pub use balance::{Ask, Balance};
pub use endpoint::{Bar, Endpoint, EndpointId, Lease, Protocol};
pub use member::{Member, Membership, Recipe, Spec};
pub use pool::{Policy, Pool, SendProxy, Timeouts, Tried};
