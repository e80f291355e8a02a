//! HTTP/2 to endpoints: many requests share one connection, within one worker.
//!
//! Frames are the `h2` crate's work. Here is whose connection a request may use, when it is time for another one, and when one
//! is dead. What an answer means is `forward`'s, as for HTTP/1.

mod connection;
mod group;
mod stream;

pub use connection::{Place, start};
pub use group::{Connections, Group};
pub use stream::Stream;
