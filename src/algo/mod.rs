//! Pure arithmetic: no clock, no dice, no I/O, nothing of the rest of the crate.

pub mod backoff;
pub mod budget;
pub mod compare;
pub mod dice;
pub mod ewma;
pub mod gradient;
pub mod placement;
pub mod quantile;
pub mod rendezvous;
pub mod split;
pub mod topk;
pub mod weighted;
