//! What holds across modules, and across programs.

mod parsers;
