//! From a request's head to the number of the route that takes it.
//!
//! Knows nothing of services: it answers with an index into the listener's routes.

mod head;
pub mod key;
mod pattern;
mod settings;
mod table;

pub use head::{Head, HeadLookup, Headers, TlsFacts, write_ip};
pub use pattern::{Captures, HostPattern, PathPattern, TextPattern};
pub use settings::{Matchers, Method, Network};
pub use table::{Found, Table};
