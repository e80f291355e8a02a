//! The configuration as a document: which files it is made of, read and merged into one tree.
//!
//! Gives no key a meaning; that is left to the features, through `value::Fields`.

mod load;
mod substitute;

pub use load::{FILE_BYTES_MAX, Failed, Loaded, default_paths, from_text, is_listed, load};
