//! attache: a single-binary L7 proxy.
//!
//! A module imports only from those listed below it; `tests/it/tidy.rs` reads this list and enforces it.

pub mod cli;
pub mod supervisor;
pub mod config;
#[macro_use]
pub mod value;
