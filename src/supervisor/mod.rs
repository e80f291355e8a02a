//! The life of the process: what makes it load its configuration again.
//!
//! Moves no client's bytes.

pub mod watch;
