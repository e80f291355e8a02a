//! Listening sockets: binds what is new, keeps what stays, lets go of what went away.
//!
//! A socket whose address stays is never bound again: closing one of a `SO_REUSEPORT` group loses
//! whoever waits in its queue.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::generation::{Generation, SocketKey};
use crate::value::{Address, Diagnostics, Place};

/// Connections the kernel queues for us while a worker is busy; it caps this at `somaxconn`.
const BACKLOG: i32 = 4096;

#[derive(Default)]
pub struct Sockets {
    open: HashMap<SocketKey, Open>,
    admin: Option<(Address, Option<Inode>)>,
}

struct Open {
    /// With the port the system chose, where 0 was asked for.
    local: String,
    inode: Option<Inode>,
}

/// Identity of a socket's file, so that nobody else's is removed.
type Inode = (u64, u64);

/// Sockets bound for a generation that does not serve yet. Dropping it closes them.
#[derive(Default)]
pub struct Staged {
    pub fresh: Vec<Fresh>,
    pub gone: Vec<SocketKey>,
    pub admin: AdminChange,
    admin_address: Option<(Address, Option<Inode>)>,
}

pub struct Fresh {
    pub key: SocketKey,
    /// One for each worker.
    pub sockets: Vec<OwnedFd>,
    local: String,
    inode: Option<Inode>,
}

/// What becomes of the admin API's socket.
#[derive(Default)]
pub enum AdminChange {
    #[default]
    Kept,
    Closed,
    Opened(AdminSocket),
}

pub enum AdminSocket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Sockets {
    /// Binds everything `generation` needs and is not open yet. On any failure nothing stays bound
    /// and every reason is in `found`.
    pub fn stage(&self, generation: &Generation, workers: usize, found: &mut Diagnostics) -> Option<Staged> {
        let before = found.errors();
        let mut staged = Staged::default();
        let written = generation.file.listeners.iter().map(|l| l.listen.iter().map(|listen| listen.0.place).collect::<Vec<_>>());
        for (listener, places) in generation.listeners.iter().zip(written) {
            for (key, place) in listener.sockets.iter().zip(places) {
                if self.open.contains_key(key) {
                    continue;
                }
                match self.bind(key, listener.mode, workers) {
                    Ok(fresh) => staged.fresh.push(fresh),
                    Err(error) => report(found, Some(place), &key.address, &error),
                }
            }
        }
        staged.gone = self.open.keys().filter(|key| generation.listener_at(key).is_none()).cloned().collect();
        self.stage_admin(generation, &mut staged, found);
        (found.errors() == before).then_some(staged)
    }

    fn bind(&self, key: &SocketKey, mode: Option<u32>, workers: usize) -> io::Result<Fresh> {
        match &key.address {
            Address::Tcp(address) => {
                let (sockets, local) = bind_tcp(*address, workers, self.shares_port(*address))?;
                Ok(Fresh { key: key.clone(), sockets, local: local.to_string(), inode: None })
            }
            Address::Unix(path) => {
                let listener = bind_unix(path, mode)?;
                let inode = inode(path);
                let clones: io::Result<Vec<OwnedFd>> = (0..workers).map(|_| listener.try_clone().map(OwnedFd::from)).collect();
                Ok(Fresh { key: key.clone(), sockets: clones?, local: key.address.to_string(), inode })
            }
            Address::Name(..) => Err(io::Error::new(io::ErrorKind::InvalidInput, "a name cannot be listened on")),
        }
    }

    /// Whether one of our own sockets already has this port, perhaps on another address.
    fn shares_port(&self, address: SocketAddr) -> bool {
        address.port() != 0 && self.open.keys().any(|key| matches!(key.address, Address::Tcp(ours) if ours.port() == address.port()))
    }

    fn stage_admin(&self, generation: &Generation, staged: &mut Staged, found: &mut Diagnostics) {
        let wanted = match &generation.file.admin {
            crate::config::Admin::On(address) => Some(address),
            crate::config::Admin::Off => None,
        };
        let have = self.admin.as_ref().map(|(address, _)| address);
        if wanted.map(|address| &address.value) == have {
            return;
        }
        let Some(address) = wanted else {
            staged.admin = AdminChange::Closed;
            return;
        };
        let bound = match &address.value {
            Address::Tcp(tcp) => bind_exclusive(*tcp).map(AdminSocket::Tcp),
            Address::Unix(path) => bind_unix(path, Some(0o660)).map(AdminSocket::Unix),
            Address::Name(..) => Err(io::Error::new(io::ErrorKind::InvalidInput, "a name cannot be listened on")),
        };
        match bound {
            Ok(socket) => {
                let inode = if let Address::Unix(path) = &address.value { inode(path) } else { None };
                staged.admin_address = Some((address.value.clone(), inode));
                staged.admin = AdminChange::Opened(socket);
            }
            Err(error) => report(found, (address.place.end > 0).then_some(address.place), &address.value, &error),
        }
    }

    /// Takes note of what is open from now on. Returns what the workers and the admin need to know.
    pub fn commit(&mut self, staged: Staged) -> (Vec<Fresh>, Vec<SocketKey>, AdminChange) {
        for fresh in &staged.fresh {
            self.open.insert(fresh.key.clone(), Open { local: fresh.local.clone(), inode: fresh.inode });
        }
        for key in &staged.gone {
            if let Some(Open { inode: Some(inode), .. }) = self.open.remove(key) {
                remove_socket_file(&key.address, inode);
            }
        }
        if !matches!(staged.admin, AdminChange::Kept)
            && let Some((address, Some(inode))) = std::mem::replace(&mut self.admin, staged.admin_address)
        {
            remove_socket_file(&address, inode);
        }
        (staged.fresh, staged.gone, staged.admin)
    }

    /// Each socket and the address it really has.
    pub fn local_addresses(&self) -> HashMap<SocketKey, String> {
        self.open.iter().map(|(key, open)| (key.clone(), open.local.clone())).collect()
    }
}

/// The process ends: files of unix sockets go with it.
impl Drop for Sockets {
    fn drop(&mut self) {
        let admin = self.admin.iter().map(|(address, inode)| (address, *inode));
        let open = self.open.iter().map(|(key, open)| (&key.address, open.inode));
        for (address, inode) in open.chain(admin) {
            if let Some(inode) = inode {
                remove_socket_file(address, inode);
            }
        }
    }
}

fn report(found: &mut Diagnostics, place: Option<Place>, address: &Address, error: &io::Error) {
    let note = found.error(place, format!("cannot listen on {address}: {error}"));
    match error.kind() {
        io::ErrorKind::AddrInUse => note.help("another program listens there; stop it or choose another address"),
        io::ErrorKind::PermissionDenied => note.help("ports below 1024 and some directories need a privilege; choose another or grant it"),
        io::ErrorKind::AddrNotAvailable => note.help("no interface of this machine has that address"),
        _ => note,
    };
}

/// One socket per worker in one `SO_REUSEPORT` group.
fn bind_tcp(address: SocketAddr, workers: usize, shares_port: bool) -> io::Result<(Vec<OwnedFd>, SocketAddr)> {
    // SO_REUSEPORT lets another process of the same user in without a word, and the two would
    // split the traffic. Ask first, without it, whether anybody is there.
    if !shares_port && address.port() != 0 {
        drop(tcp_socket(address, false)?);
    }
    let first = tcp_socket(address, true)?;
    let local = first.local_addr()?.as_socket().unwrap_or(address);
    let mut sockets = vec![OwnedFd::from(first)];
    for _ in 1..workers {
        sockets.push(tcp_socket(local, true)?.into());
    }
    Ok((sockets, local))
}

fn tcp_socket(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    // Accepted sockets inherit it, which saves a system call for each.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn bind_exclusive(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    tcp_socket(address, false).map(std::net::TcpListener::from)
}

fn bind_unix(path: &Path, mode: Option<u32>) -> io::Result<std::os::unix::net::UnixListener> {
    remove_stale(path)?;
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    if let Some(mode) = mode {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    Ok(listener)
}

/// A socket file that nobody answers behind is left over from a process that is gone.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is there"))
        }
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
            Err(error) => Err(error),
        },
    }
}

fn inode(path: &Path) -> Option<Inode> {
    std::fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

fn remove_socket_file(address: &Address, ours: Inode) {
    let Address::Unix(path) = address else { return };
    let path: &PathBuf = path;
    if inode(path) == Some(ours) {
        // Gone already is as good.
        let _ = std::fs::remove_file(path);
    }
}
