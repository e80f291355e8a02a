//! Endpoints: who they are, who may take a request, and who takes the next one.
//!
//! Opens no connection; `dial` does. Finds out nothing by itself; `upkeep` does. Nothing here awaits.

mod balance;
mod budget;
mod current;
pub mod discover;
pub mod eject;
mod endpoint;
pub mod health;
pub mod hedge;
pub mod leader;
pub mod limits;
mod member;
mod placement;
mod pool;
mod record;
pub mod retry;
pub mod sticky;
#[cfg(test)]
mod tests;

pub use balance::{Ask, Balance};
pub use discover::Discovery;
pub use endpoint::{Bar, Endpoint, EndpointId, Lease, Protocol};
pub use member::{Member, Membership, Recipe, Spec, Subset};
pub use placement::{Aim, Placement, Rule};
pub use pool::{Policy, Pool, SendProxy, SubsetSize, Timeouts, Tried};
