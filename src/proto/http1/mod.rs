//! HTTP/1 messages: heads, framing, chunks, hosts and paths.
//!
//! Refuses whatever two programs might read differently; a proxy that guesses is how requests are
//! smuggled. It changes no byte of what it accepts.

mod bytes;
mod chunked;
mod fields;
mod framing;
mod head;
mod host;
mod path;
pub mod upgrade;

pub(super) use chunked::is_forbidden;
pub(super) use head::check_line;

pub use bytes::{is_field_value, is_token};
pub use chunked::{
    CHUNK_EXTENSION_BYTES_MAX, ChunkError, ChunkStep, ChunkedDecoder, LAST_CHUNK, TrailerLimits, trailer_fields, write_chunk_header,
};
pub use fields::{Field, Known, Span};
pub use framing::{BodyFraming, FramingError, RequestFraming, ResponseFraming, is_nominated, request_framing, response_framing, tokens};
pub use head::{HeadError, Limits, Progress, RequestHead, ResponseHead, Version};
pub use host::{HostPort, Target, check_host, split_target};
pub use path::{PathError, compare_form};
