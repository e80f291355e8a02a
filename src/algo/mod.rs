//! Pure arithmetic: no clock, no dice, no I/O, nothing of the rest of the crate.

pub mod dice;
pub mod ewma;
pub mod weighted;
