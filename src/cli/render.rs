//! stub until merge
use crate::value::{Diagnostics, Sources};
pub fn render(sources: &Sources, found: &Diagnostics, _colour: bool) -> String {
    found.one_per_line(sources).join("\n") + "\n"
}
