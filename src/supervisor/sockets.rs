//! Listening sockets: binds what is new, keeps what stays, lets go of what went away.
//!
//! A socket whose address stays is never bound again: closing one of a `SO_REUSEPORT` group loses
//! whoever waits in its queue.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::sync::mpsc;

use super::ears::{self, Ears};
use crate::generation::{Generation, SocketKey};
use crate::value::{Address, Diagnostics, Place};

/// Connections the kernel queues for us while a worker is busy; it caps this at `somaxconn`.
pub(super) const BACKLOG: i32 = 4096;

#[derive(Default)]
pub struct Sockets {
    open: HashMap<SocketKey, Open>,
    admin: Option<(Address, Option<Inode>)>,
    /// Sockets that our workers are about to close; each channel ends when all have.
    closing: Vec<(SocketKey, mpsc::Receiver<()>)>,
    pub(super) ears: Ears,
}

struct Open {
    /// With the port the system chose, where 0 was asked for.
    local: String,
    inode: Option<Inode>,
}

/// Identity of a socket's file, so that nobody else's is removed.
pub(super) type Inode = (u64, u64);

/// Sockets bound for a generation that does not serve yet. Dropping it closes them, and their files go.
#[derive(Default)]
pub struct Staged {
    fresh: Vec<Fresh>,
    gone: Vec<SocketKey>,
    admin: AdminChange,
    admin_address: Option<(Address, Option<Inode>)>,
    /// Unix sockets that stay and get other permissions.
    modes: Vec<(PathBuf, u32)>,
    ears: ears::Staged,
}

impl Drop for Staged {
    fn drop(&mut self) {
        let fresh = self.fresh.iter().map(|fresh| (&fresh.key.address, fresh.inode));
        let admin = self.admin_address.iter().map(|(address, inode)| (address, *inode));
        remove_socket_files(fresh.chain(admin));
    }
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
    pub fn stage(&mut self, generation: &Generation, workers: usize, found: &mut Diagnostics) -> Option<Staged> {
        self.closing.retain(|(_, closed)| closed.sender_strong_count() > 0);
        let before = found.errors();
        let mut staged = Staged::default();
        let written = generation.file.listeners.iter().map(|l| l.listen.iter().map(|listen| listen.0.place).collect::<Vec<_>>());
        let mut places = Vec::new();
        for (listener, written) in generation.listeners.iter().zip(written) {
            for (key, place) in listener.sockets.iter().zip(written) {
                if self.open.contains_key(key) {
                    if let (Address::Unix(path), Some(mode)) = (&key.address, listener.mode) {
                        staged.modes.push((path.clone(), mode));
                    }
                    continue;
                }
                match self.bind(key, listener.mode, workers) {
                    Ok(fresh) => {
                        staged.fresh.push(fresh);
                        places.push(place);
                    }
                    Err(error) => report(found, Some(place), &key.address, &error),
                }
            }
        }
        staged.gone = self.open.keys().filter(|key| generation.listener_at(key).is_none()).cloned().collect();
        self.stage_admin(generation, &mut staged, found);
        staged.ears = self.ears.stage(generation.file.ears(), |address| self.is_listened_on(address), found);
        if found.errors() > before {
            return None;
        }
        // Only when everything is bound: from here on the kernel lets clients in, perhaps such as another
        // of our sockets would have served, and a reload that is refused after all would reset them.
        for (fresh, place) in staged.fresh.iter().zip(places) {
            if let Err(error) = fresh.sockets.iter().try_for_each(|socket| SockRef::from(socket).listen(BACKLOG)) {
                report(found, Some(place), &fresh.key.address, &error);
            }
        }
        if let Err((key, error)) = staged.ears.listen() {
            report(found, None, key, &error);
        }
        (found.errors() == before).then_some(staged)
    }

    fn bind(&self, key: &SocketKey, mode: Option<u32>, workers: usize) -> io::Result<Fresh> {
        match &key.address {
            Address::Tcp(address) => {
                let (sockets, local) = bind_tcp(*address, workers, self.shares_port(*address))?;
                Ok(Fresh { key: key.clone(), sockets, local: local.to_string(), inode: None })
            }
            Address::Unix(path) => {
                let socket = bind_unix(path, mode)?;
                let inode = inode(path);
                let clones: io::Result<Vec<OwnedFd>> = (0..workers).map(|_| socket.try_clone().map(OwnedFd::from)).collect();
                Ok(Fresh { key: key.clone(), sockets: clones?, local: key.address.to_string(), inode })
            }
            Address::Name(..) => Err(io::Error::new(io::ErrorKind::InvalidInput, "a name cannot be listened on")),
        }
    }

    /// Whether one of our own sockets already has this port, perhaps on another address.
    fn shares_port(&self, address: SocketAddr) -> bool {
        self.is_listened_on(address) || self.ears.has_port(address)
    }

    /// By a listener or the admin API.
    fn is_listened_on(&self, address: SocketAddr) -> bool {
        let listeners = self.open.keys().chain(self.closing.iter().map(|(key, _)| key)).map(|key| &key.address);
        let mut ours = listeners.chain(self.admin.iter().map(|(address, _)| address));
        address.port() != 0 && ours.any(|ours| matches!(ours, Address::Tcp(ours) if ours.port() == address.port()))
    }

    fn stage_admin(&self, generation: &Generation, staged: &mut Staged, found: &mut Diagnostics) {
        let wanted = generation.file.admin.listen();
        let have = self.admin.as_ref().map(|(address, _)| address);
        if wanted.map(|address| &address.value) == have {
            return;
        }
        let Some(address) = wanted else {
            staged.admin = AdminChange::Closed;
            return;
        };
        match self.bind_admin(&address.value) {
            Ok((socket, inode)) => {
                staged.admin_address = Some((address.value.clone(), inode));
                staged.admin = AdminChange::Opened(socket);
            }
            Err(error) => report(found, (address.place.end > 0).then_some(address.place), &address.value, &error),
        }
    }

    fn bind_admin(&self, address: &Address) -> io::Result<(AdminSocket, Option<Inode>)> {
        match address {
            Address::Tcp(tcp) => {
                // In a group although it is alone: the next reload may want `0.0.0.0` for `127.0.0.1`.
                let (mut sockets, _) = bind_tcp(*tcp, 1, self.shares_port(*tcp))?;
                let socket = sockets.pop().ok_or(io::ErrorKind::AddrNotAvailable)?;
                SockRef::from(&socket).listen(BACKLOG)?;
                Ok((AdminSocket::Tcp(socket.into()), None))
            }
            Address::Unix(path) => {
                let socket = bind_unix(path, Some(0o660))?;
                let inode = inode(path);
                socket.listen(BACKLOG)?;
                Ok((AdminSocket::Unix(OwnedFd::from(socket).into()), inode))
            }
            Address::Name(..) => Err(io::Error::new(io::ErrorKind::InvalidInput, "a name cannot be listened on")),
        }
    }

    /// Takes note of what is open from now on. Returns what the workers and the admin need to know.
    pub fn commit(&mut self, mut staged: Staged) -> (Vec<Fresh>, Vec<SocketKey>, AdminChange) {
        let (fresh, gone) = (std::mem::take(&mut staged.fresh), std::mem::take(&mut staged.gone));
        let admin = std::mem::take(&mut staged.admin);
        for fresh in &fresh {
            self.open.insert(fresh.key.clone(), Open { local: fresh.local.clone(), inode: fresh.inode });
        }
        for key in &gone {
            if let Some(Open { inode, .. }) = self.open.remove(key) {
                remove_socket_files([(&key.address, inode)]);
            }
        }
        for (path, mode) in std::mem::take(&mut staged.modes) {
            if let Err(error) = std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)) {
                tracing::warn!(path = %path.display(), %error, "cannot change the socket's permissions");
            }
        }
        self.ears.commit(std::mem::take(&mut staged.ears));
        if !matches!(admin, AdminChange::Kept)
            && let Some((address, inode)) = std::mem::replace(&mut self.admin, staged.admin_address.take())
        {
            remove_socket_files([(&address, inode)]);
        }
        (fresh, gone, admin)
    }

    /// A socket that was let go of stays open until `closed` ends.
    pub fn note_closing(&mut self, key: SocketKey, closed: mpsc::Receiver<()>) {
        self.closing.push((key, closed));
    }

    /// Nobody new is to come. The admin's socket stays.
    pub fn remove_files(&mut self) {
        remove_socket_files(self.open.iter_mut().map(|(key, open)| (&key.address, open.inode.take())));
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
        remove_socket_files(self.open.iter().map(|(key, open)| (&key.address, open.inode)).chain(admin));
    }
}

pub(super) fn report(found: &mut Diagnostics, place: Option<Place>, address: &impl fmt::Display, error: &io::Error) {
    let note = found.error(place, format!("cannot listen on {address}: {error}"));
    match error.kind() {
        io::ErrorKind::AddrInUse if place.is_none() => note
            .help("it is where the admin API listens unless told otherwise; write [admin] with listen = \"127.0.0.1:9902\", or off = true"),
        io::ErrorKind::AddrInUse => note.help("another program listens there; stop it or choose another address"),
        io::ErrorKind::PermissionDenied => note.help("ports below 1024 and some directories need a privilege; choose another or grant it"),
        io::ErrorKind::AddrNotAvailable => note.help("no interface of this machine has that address"),
        _ => note,
    };
}

/// One socket per worker in one `SO_REUSEPORT` group. None of them listens yet.
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
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn bind_unix(path: &Path, mode: Option<u32>) -> io::Result<Socket> {
    remove_stale(path, Type::STREAM)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.set_nonblocking(true)?;
    // Before it listens, so that nobody comes in under other permissions.
    if let Some(mode) = mode {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    Ok(socket)
}

/// A socket file that nobody answers behind is left over from a process that is gone.
pub(super) fn remove_stale(path: &Path, kind: Type) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is there"))
        }
        Ok(_) => match knock(path, kind) {
            Ok(()) => Err(io::ErrorKind::AddrInUse.into()),
            // Somebody listens and has a full queue.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::AddrInUse.into()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
            Err(error) => Err(error),
        },
    }
}

/// Connects without waiting: whoever listens may take nobody in, and signals and reloads wait for us.
fn knock(path: &Path, kind: Type) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, kind, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

pub(super) fn inode(path: &Path) -> Option<Inode> {
    std::fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

pub(super) fn remove_socket_files<'a>(sockets: impl IntoIterator<Item = (&'a Address, Option<Inode>)>) {
    for (address, ours) in sockets {
        if let (Address::Unix(path), Some(ours)) = (address, ours)
            && inode(path) == Some(ours)
        {
            // Gone already is as good.
            let _ = std::fs::remove_file(path);
        }
    }
}
