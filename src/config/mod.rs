//! The document: what operators write, read from files and given meaning.
//!
//! Pure data. What it becomes is `generation`'s business.

mod admin;
mod changes;
mod file;
mod include;
pub mod listener;
mod load;
mod protocol;
mod substitute;

pub use admin::Admin;
pub use changes::{Change, changes};
pub use file::{File, Parsed, Process, Workers};
pub use load::{Failed, Loaded, default_paths, from_text, is_listed, load, state_path};
