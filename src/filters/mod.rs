//! What may edit a request or an answer on its way.
//!
//! A filter decides nothing about where a request goes.

pub mod headers;
pub mod rewrite;
