//! The parsers and the laws they keep, for the fuzz targets.

#[path = "../src/proto/mod.rs"]
pub mod proto;

/// All that `proto` takes from there.
#[path = "../src/value/duration.rs"]
pub mod value;

pub mod laws;
