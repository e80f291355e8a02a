//! The rig: the real binary on free ports, scripted origins, raw clients.
//!
//! Real sockets, many at once; nothing here sleeps for a fixed time or uses a fixed port.

mod certs;
mod client;
mod dns;
mod fickle;
pub mod http2;
pub mod http2_origin;
mod load;
mod machine;
mod optimised;
mod origin;
mod place;
mod rig;
mod servers;
mod tls_origin;
mod trusting;

pub use certs::{Authority, Pair};
pub use client::{Answer, Client, Read1};
pub use dns::Dns;
pub use fickle::{Fickle, Mood};
pub use load::{Load, Report};
pub use machine::{Lateness, alone, has, raise_open_files};
pub use optimised::{measured, optimised};
pub use origin::{Next, Origin, Request, read_head};
pub use place::free_address;
pub use rig::{Rig, binary, refused};
pub use servers::{DataServer, Postgres};
pub use tls_origin::{Talk, TlsOrigin};
pub use trusting::{handshake, trusting_config};

use std::time::{Duration, Instant};

/// How long anything that must happen may take on a slow and busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks until `check` is true; fails the test with `what` if that takes longer than [`PATIENCE`].
#[track_caller]
pub fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < deadline, "this did not become true: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
