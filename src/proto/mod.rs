//! Bytes ↔ messages.
//!
//! Reads nothing from a socket and waits for nothing: the caller brings bytes and says when to go on.

pub mod exposition;
pub mod grpc;
pub mod http1;
pub mod http2;
pub mod logs;
pub mod proxy_header;
pub mod request_timeout;
pub mod resp;
pub mod statsd;
