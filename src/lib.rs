//! attache: a single-binary L7 proxy.
//!
//! A module imports only from those listed below it; `tests/it/tidy.rs` reads this list and enforces it.

pub mod admin;
pub mod algo;
pub mod cli;
pub mod config;
pub mod dial;
pub mod filters;
pub mod generation;
pub mod proto;
pub mod refusal;
pub mod route;
pub mod serve;
pub mod services;
pub mod supervisor;
pub mod telemetry;
pub mod tls;
pub mod upstream;
pub mod value;
