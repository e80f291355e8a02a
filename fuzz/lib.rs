//! The parsers and the laws they keep, for the fuzz targets.

#[path = "../src/proto/mod.rs"]
pub mod proto;

pub mod laws;
