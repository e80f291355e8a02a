//! attache: a single-binary L7 proxy.
//!
//! A module imports only from those listed below it; `tests/it/tidy.rs` reads this list and enforces it.

pub mod cli;
pub mod admin;
pub mod supervisor;
pub mod serve;
pub mod dial;
pub mod generation;
pub mod config;
pub mod filters;
pub mod services;
pub mod route;
pub mod upstream;
pub mod tls;
pub mod telemetry;
pub mod proto;
pub mod refusal;
pub mod value;
pub mod algo;
