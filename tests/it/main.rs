//! The integration tests: one binary, so that it links once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod memory; // bodies, idle connections, bugs: what they cost
mod parsers; // what the parsers accept, others read alike
mod reload; // reloads: all or nothing, and nobody notices
mod serving; // the smallest path through real bytes
mod slow; // slow clients, scarce resources
mod storm; // reloads and the end under load: nobody notices
mod support; // the rig: real binary, scripted origins, raw clients
