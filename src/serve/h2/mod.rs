//! HTTP/2: from clients, many requests at once on one connection; and in `endpoint`, to endpoints.
//!
//! Frames are the `h2` crate's work. Here is what it leaves to its user: whom to serve, for how long,
//! and how much of a connection is too much. What a request means is `exchange`'s, as for HTTP/1.

mod connection;
pub mod endpoint;
mod guard;
mod sending;
mod stream;

pub use connection::serve;
