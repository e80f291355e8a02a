//! The command line: one file per verb, and the only place that prints and exits.
//!
//! Decides nothing about requests; every verb calls what production calls.

pub mod render;
