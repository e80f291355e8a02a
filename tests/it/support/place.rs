//! Addresses for listeners that a test must know before they exist.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// An address that is free and stays so: on a loopback address of its own, where no other test, no
/// other process of tests and no outgoing connection takes its port.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let pid = std::process::id();
    let ip = Ipv4Addr::new(127, 64 + (pid % 150) as u8, (pid / 150) as u8, 1 + (next % 250) as u8);
    TcpListener::bind((IpAddr::V4(ip), 0)).unwrap().local_addr().unwrap()
}
