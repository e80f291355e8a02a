//! The integration tests: one binary, so that it links once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod admin; // every endpoint of the admin API, asked well and badly
mod cli; // every verb, what it prints and how it exits
mod parsers; // what the parsers accept, others read alike
mod pod; // the pod of deploy/, run for real
mod programs; // real programs on both sides
mod serving; // the smallest path through real bytes
mod support; // the rig: real binary, scripted origins, raw clients
mod tidy; // the house rules as assertions
