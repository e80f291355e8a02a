//! Sockets that adapters hear by: binds what is new, keeps what stays, lets go of what went away.
//!
//! One socket for each, not one for each worker: who hears is not a worker.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::time::Instant;

use super::sockets::{BACKLOG, Inode, inode, remove_socket_files, remove_stale, report};
use crate::upkeep::Ear;
use crate::value::{Diagnostics, EarKey, Spanned};

/// What a burst of datagrams may take while nobody looks; the kernel caps this at `rmem_max` unless it lets us go beyond.
const RECEIVE_BYTES: usize = 8 << 20;
/// As open as a port of this machine is; the directory says who may come near.
const MODE: u32 = 0o666;
/// How often it is looked whether everybody has let go.
const PAUSE: Duration = Duration::from_millis(2);

#[derive(Default)]
pub(super) struct Ears {
    open: HashMap<EarKey, Open>,
    /// Let go of by us, and perhaps not yet by who heard by them.
    closing: Vec<Weak<Ear>>,
}

struct Open {
    ear: Arc<Ear>,
    inode: Option<Inode>,
}

/// Bound for a generation that does not serve yet. Dropping it closes them, and their files go.
#[derive(Default)]
pub(super) struct Staged {
    fresh: Vec<(EarKey, Open)>,
    gone: Vec<EarKey>,
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.fresh.iter().for_each(|(key, open)| remove_file(key, open));
    }
}

impl Drop for Ears {
    fn drop(&mut self) {
        self.open.iter().for_each(|(key, open)| remove_file(key, open));
    }
}

fn remove_file(key: &EarKey, open: &Open) {
    remove_socket_files([(&key.address(), open.inode)]);
}

impl Ears {
    /// Binds what is wanted and not open yet; every reason why that fails is in `found`. `shares_port` tells whether one of our own
    /// listeners has a port.
    pub(super) fn stage<'k>(
        &self,
        wanted: impl Iterator<Item = &'k Spanned<EarKey>>,
        shares_port: impl Fn(SocketAddr) -> bool,
        found: &mut Diagnostics,
    ) -> Staged {
        let mut staged = Staged::default();
        let mut stays = Vec::new();
        for key in wanted {
            if let Some((kept, _)) = self.open.get_key_value(&key.value) {
                stays.push(kept);
                continue;
            }
            match self.bind(&key.value, &shares_port) {
                Ok(open) => staged.fresh.push((key.value.clone(), open)),
                Err(error) => report(found, Some(key.place), &key.value, &error),
            }
        }
        staged.gone = self.open.keys().filter(|key| !stays.contains(key)).cloned().collect();
        staged
    }

    fn bind(&self, key: &EarKey, shares_port: impl Fn(SocketAddr) -> bool) -> io::Result<Open> {
        let ear = match key {
            EarKey::Udp(address) => {
                let is_ours = self.open.keys().any(|open| matches!(open, EarKey::Udp(open) if open.port() == address.port()));
                let socket = bind_ip(*address, Type::DGRAM, is_ours)?;
                // Root may have more than `rmem_max`; everybody else gets what there is.
                if set_socket_recv_buffer_size_force(socket.as_fd(), RECEIVE_BYTES).is_err() {
                    socket.set_recv_buffer_size(RECEIVE_BYTES)?;
                }
                Ear::Udp(OwnedFd::from(socket).into())
            }
            EarKey::Tcp(address) => {
                let is_ours = self.has_port(*address) || shares_port(*address);
                Ear::Tcp(OwnedFd::from(bind_ip(*address, Type::STREAM, is_ours)?).into())
            }
            EarKey::UnixDatagram(path) => {
                let socket = bind_unix(path, Type::DGRAM)?;
                // A sender waits where this is full, so no more is needed than there is by default.
                Ear::UnixDatagram(OwnedFd::from(socket).into())
            }
            EarKey::UnixStream(path) => Ear::UnixStream(OwnedFd::from(bind_unix(path, Type::STREAM)?).into()),
        };
        let inode = match key {
            EarKey::UnixDatagram(path) | EarKey::UnixStream(path) => inode(path),
            EarKey::Udp(_) | EarKey::Tcp(_) => None,
        };
        Ok(Open { ear: Arc::new(ear), inode })
    }

    /// Whether streams come in by this port, perhaps on another address.
    pub(super) fn has_port(&self, address: SocketAddr) -> bool {
        self.open.keys().any(|open| matches!(open, EarKey::Tcp(open) if open.port() == address.port()))
    }

    /// Takes note of what is open from now on.
    pub(super) fn commit(&mut self, mut staged: Staged) {
        for (key, open) in std::mem::take(&mut staged.fresh) {
            tracing::info!(address = %key, "hearing");
            self.open.insert(key, open);
        }
        for key in &staged.gone {
            if let Some(open) = self.open.remove(key) {
                remove_file(key, &open);
                self.closing.push(Arc::downgrade(&open.ear));
            }
        }
    }

    /// For who hears by them.
    pub(super) fn all(&self) -> Vec<(EarKey, Arc<Ear>)> {
        self.open.iter().map(|(key, open)| (key.clone(), Arc::clone(&open.ear))).collect()
    }

    /// Waits until those that went away are closed, but not for ever.
    pub(super) async fn closed(&mut self, until: Instant) {
        loop {
            self.closing.retain(|ear| ear.strong_count() > 0);
            if self.closing.is_empty() || Instant::now() >= until {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Staged {
    /// Lets streams come in.
    pub(super) fn listen(&self) -> Result<(), (&EarKey, io::Error)> {
        for (key, open) in &self.fresh {
            let listening = match &*open.ear {
                Ear::Tcp(socket) => SockRef::from(socket).listen(BACKLOG),
                Ear::UnixStream(socket) => SockRef::from(socket).listen(BACKLOG),
                Ear::Udp(_) | Ear::UnixDatagram(_) => Ok(()),
            };
            listening.map_err(|error| (key, error))?;
        }
        Ok(())
    }
}

/// In a group although it is alone, so that a reload may change `127.0.0.1` to `0.0.0.0` while the old one is open.
fn bind_ip(address: SocketAddr, kind: Type, is_ours: bool) -> io::Result<Socket> {
    // Another process of the same user could be in such a group, and the two would split what comes.
    if !is_ours {
        drop(ip_socket(address, kind, false)?);
    }
    ip_socket(address, kind, true)
}

fn ip_socket(address: SocketAddr, kind: Type, reuse_port: bool) -> io::Result<Socket> {
    let protocol = if kind == Type::DGRAM { Protocol::UDP } else { Protocol::TCP };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    // With datagrams it would let anybody else in.
    socket.set_reuse_address(kind == Type::STREAM)?;
    socket.set_reuse_port(reuse_port)?;
    socket.bind(&SockAddr::from(address))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn bind_unix(path: &Path, kind: Type) -> io::Result<Socket> {
    remove_stale(path, kind)?;
    let socket = Socket::new(Domain::UNIX, kind, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.set_nonblocking(true)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::value::Sources;

    /// What is open once `keys` are wanted; every error otherwise.
    fn follow(ears: &mut Ears, keys: &[&str]) -> Result<(), Vec<String>> {
        let mut sources = Sources::default();
        let place = crate::value::Place::new(sources.add("a.toml", "x"), 0..1);
        let wanted: Vec<Spanned<EarKey>> =
            keys.iter().flat_map(|key| EarKey::parse(key).unwrap()).map(|key| Spanned::new(key, place)).collect();
        let mut found = Diagnostics::default();
        let staged = ears.stage(wanted.iter(), |_| false, &mut found);
        if found.errors() > 0 {
            return Err(found.one_per_line(&sources));
        }
        staged.listen().unwrap();
        ears.commit(staged);
        Ok(())
    }

    fn free() -> SocketAddr {
        UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    #[test]
    fn what_waits_in_a_socket_that_stays_is_still_there() {
        let mut ears = Ears::default();
        let key = format!("udp:{}", free());
        follow(&mut ears, &[&key]).unwrap();
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"waits", &key[4..]).unwrap();
        follow(&mut ears, &[&key, &format!("udp:{}", free())]).unwrap();
        let heard = ears.all();
        let (_, ear) = heard.iter().find(|(open, _)| open.to_string() == key).unwrap();
        let Ear::Udp(socket) = &**ear else { panic!("{ear:?}") };
        let mut buffer = [0; 16];
        assert_eq!(socket.recv(&mut buffer).unwrap(), 5);
    }

    #[test]
    fn a_wider_address_may_take_over_and_somebody_elses_may_not() {
        let mut ears = Ears::default();
        let address = free();
        follow(&mut ears, &[&address.to_string()]).unwrap();
        follow(&mut ears, &[&format!("0.0.0.0:{}", address.port())]).unwrap();
        let errors = follow(&mut Ears::default(), &[&address.to_string()]).unwrap_err();
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(errors[0].contains(&format!("cannot listen on udp:{address}")), "{errors:?}");
        follow(&mut ears, &[]).unwrap();
        follow(&mut Ears::default(), &[&address.to_string()]).unwrap();
    }

    #[test]
    fn files_of_sockets_go_with_them_and_those_of_the_dead_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let key = format!("unix:{}", path.display());
        drop(UnixDatagram::bind(&path).unwrap());
        let mut ears = Ears::default();
        follow(&mut ears, &[&key]).unwrap();
        UnixDatagram::unbound().unwrap().send_to(b"x", &path).unwrap();
        assert!(follow(&mut Ears::default(), &[&key]).is_err(), "somebody hears by it");
        follow(&mut ears, &[]).unwrap();
        assert!(!path.exists());
        follow(&mut ears, &[&key]).unwrap();
        drop(ears);
        assert!(!path.exists());
    }
}
