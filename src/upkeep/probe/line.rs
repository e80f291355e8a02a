//! From an endpoint to a connection that a probe may use, within the probe's time.
//!
//! Sends nothing but what must come first: a PROXY header that says it is no client's connection.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use crate::dial::{self, DialError, Opening, Step, Wire};
use crate::proto::proxy_header::{self, Extensions};
use crate::tls::Peer;
use crate::upstream::health::Reason;
use crate::upstream::{Endpoint, Pool, SendProxy};
use crate::value::Address;

/// How one probe reaches its endpoint.
pub(in crate::upkeep) struct Line<'a> {
    tls: Option<&'a Peer>,
    pub(in crate::upkeep) address: Address,
    greeting: Vec<u8>,
    timeout: Duration,
    deadline: Instant,
}

impl<'a> Line<'a> {
    pub(in crate::upkeep) fn new(pool: &Pool, endpoint: &'a Endpoint, port: Option<u16>, timeout: Duration) -> Result<Self, Reason> {
        let mut greeting = Vec::new();
        // Whoever answers on another port is another program.
        if pool.policy.send_proxy == SendProxy::V2 && port.is_none() {
            proxy_header::write_v2(None, Extensions { alpn: None, authority: None }, &mut greeting);
        }
        let address = match (&endpoint.address, port) {
            (address, None) => address.clone(),
            (Address::Tcp(address), Some(port)) => Address::Tcp((address.ip(), port).into()),
            (Address::Name(name, _), Some(port)) => Address::Name(name.clone(), port),
            (Address::Unix(_), Some(_)) => return Err(Reason::new("a unix socket has no other port")),
        };
        Ok(Self { greeting, ..Self::to(address, endpoint.tls.as_ref(), timeout) })
    }

    /// To somebody who is no endpoint.
    pub(in crate::upkeep) fn to(address: Address, tls: Option<&'a Peer>, timeout: Duration) -> Self {
        Self { tls, address, greeting: Vec::new(), timeout, deadline: Instant::now() + timeout }
    }

    /// Without TLS, whatever the endpoint speaks.
    pub(in crate::upkeep) async fn connect(&self) -> Result<Wire, Reason> {
        self.dial(None, None).await
    }

    /// With TLS if the endpoint speaks it. `alpn` is offered inside it, instead of what requests offer.
    pub(in crate::upkeep) async fn open(&self, alpn: Option<&[&[u8]]>) -> Result<Wire, Reason> {
        self.dial(self.tls, alpn).await
    }

    pub(in crate::upkeep) async fn shake_hands(&self) -> Result<(), Reason> {
        if self.tls.is_none() {
            return Err(Reason::new("it is not spoken to with TLS"));
        }
        self.open(None).await?.say_goodbye();
        Ok(())
    }

    async fn dial(&self, tls: Option<&Peer>, alpn: Option<&[&[u8]]>) -> Result<Wire, Reason> {
        let alpn = alpn.map(|alpn| alpn.iter().map(|protocol| protocol.to_vec()).collect());
        let timeout = self.deadline.saturating_duration_since(Instant::now());
        let opening = Opening { greeting: &self.greeting, alpn, timeout, seat: None };
        dial::dial(&self.address, tls, opening).await.map_err(|error| match error {
            DialError::TimedOut(Step::Connect) => Reason::new(format!("no connection within {:?}", self.timeout)),
            DialError::TimedOut(Step::Handshake) => Reason::new(format!("no TLS handshake within {:?}", self.timeout)),
            DialError::Failed(error) => Reason::new(format!("cannot connect: {error}")),
            DialError::Tls(failure) => Reason::new(format!("no TLS: {}", failure.reason)),
        })
    }

    /// What is left to do, in what is left of the time.
    pub(in crate::upkeep) async fn in_time<T>(&self, talk: impl Future<Output = Result<T, Reason>>) -> Result<T, Reason> {
        let late = |_| Reason::new(format!("no answer within {:?}", self.timeout));
        timeout_at(self.deadline, talk).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
    }

    /// What goes into a Host when nothing else is written.
    pub(in crate::upkeep) fn host(&self) -> String {
        let usual = if self.tls.is_some() { 443 } else { 80 };
        let text = self.address.to_string();
        match &self.address {
            Address::Unix(_) => "localhost".to_owned(),
            Address::Name(name, port) if *port == usual => name.clone(),
            Address::Tcp(address) if address.port() == usual => text.trim_end_matches(&format!(":{usual}")).to_owned(),
            Address::Name(..) | Address::Tcp(_) => text,
        }
    }

    pub(in crate::upkeep) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

/// A conversation in short messages.
pub(in crate::upkeep) struct Talk {
    wire: Wire,
    read: Vec<u8>,
    /// Where in `read` begins what nobody has heard.
    start: usize,
    /// The longest message.
    most: usize,
}

/// Why an answer was not read to its end.
pub(in crate::upkeep) const TOO_LONG: &str = "its answer is too long";
/// The longest message that a probe reads.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
const READ_BYTES: usize = 1024;
/// Of a message that is longer than this and not whole, more is looked at only when there is twice as much or when it pauses for
/// [`PAUSE`] for each of these: who sends byte by byte would have all of it looked at for each.
const SHORT_BYTES: usize = 64 << 10;
const PAUSE: Duration = Duration::from_millis(1);

impl Talk {
    pub(in crate::upkeep) fn new(wire: Wire) -> Self {
        Self { wire, read: Vec::new(), start: 0, most: MESSAGE_BYTES_MAX }
    }

    pub(in crate::upkeep) fn hearing_up_to(self, most: usize) -> Self {
        Self { most, ..self }
    }

    pub(in crate::upkeep) async fn say(&mut self, bytes: &[u8]) -> Result<(), Reason> {
        let failed = |error| Reason::new(format!("cannot send: {error}"));
        self.wire.write_all(bytes).await.map_err(failed)?;
        self.wire.flush().await.map_err(failed)
    }

    /// Reads until `message` finds one at the front of what came, and says how long it is. The bytes of that one are gone then.
    pub(in crate::upkeep) async fn hear<T>(
        &mut self,
        mut message: impl FnMut(&[u8]) -> Result<Option<(T, usize)>, Reason>,
    ) -> Result<T, Reason> {
        loop {
            let unheard = &self.read[self.start..];
            if let Some((heard, length)) = message(unheard)? {
                self.start += length;
                return Ok(heard);
            }
            if unheard.len() >= self.most {
                return Err(Reason::new(TOO_LONG));
            }
            // Only here, where all that stays is the beginning of one message: many short ones in a long buffer would be moved for each.
            self.read.drain(..self.start);
            self.start = 0;
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Result<(), Reason> {
        let before = self.read.len();
        let pause = PAUSE * u32::try_from(before / SHORT_BYTES).unwrap_or(u32::MAX);
        loop {
            let is_first = self.read.len() == before;
            self.read.reserve(READ_BYTES);
            let reading = self.wire.read_buf(&mut self.read);
            let read = if is_first {
                reading.await
            } else {
                match timeout(pause, reading).await {
                    Ok(read) => read,
                    Err(_) => return Ok(()),
                }
            };
            match read {
                Ok(0) if self.read.is_empty() => return Err(Reason::new("it closed without an answer")),
                Ok(0) if is_first => return Err(Reason::new("it closed in the middle of its answer")),
                Ok(0) => return Ok(()),
                Ok(_) if before < SHORT_BYTES || self.read.len() >= self.most.min(2 * before) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(Reason::new(format!("no answer: {error}"))),
            }
        }
    }

    /// A line, without its end.
    pub(in crate::upkeep) async fn line(&mut self) -> Result<String, Reason> {
        self.hear(|bytes| {
            let Some(end) = memchr::memchr(b'\n', bytes) else { return Ok(None) };
            let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
            Ok(Some((String::from_utf8_lossy(line).into_owned(), end + 1)))
        })
        .await
    }

    /// Says that the end is meant, where the protocol has a way to.
    pub(in crate::upkeep) fn end(mut self) {
        self.wire.say_goodbye();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::net::TcpListener;

    use super::*;

    /// A message of some length, which comes in pieces, is looked at that often.
    fn looks(length: usize, piece: usize) -> usize {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let line = Line::to(Address::Tcp(listener.local_addr().unwrap()), None, Duration::from_mins(1));
            let mut talk = Talk::new(line.connect().await.unwrap()).hearing_up_to(2 * length);
            let (mut theirs, _) = listener.accept().await.unwrap();
            theirs.set_nodelay(true).unwrap();
            let sends = async {
                for _ in 0..length.div_ceil(piece) {
                    theirs.write_all(&vec![b'a'; piece]).await.unwrap();
                    // Whoever hears is woken for each.
                    tokio::task::yield_now().await;
                }
                theirs.write_all(b"\nrest\n").await.unwrap();
            };
            let looks = Cell::new(0);
            let hears = talk.hear(|bytes| {
                looks.set(looks.get() + 1);
                Ok(memchr::memchr(b'\n', bytes).map(|end| (end, end + 1)))
            });
            let (heard, ()) = tokio::join!(hears, sends);
            assert_eq!(heard, Ok(length.next_multiple_of(piece)));
            assert_eq!(talk.line().await.as_deref(), Ok("rest"));
            looks.get()
        })
    }

    /// Four megabytes in ten thousand pieces were looked at ten thousand times.
    #[test]
    fn a_long_message_is_not_looked_at_for_each_of_its_pieces() {
        let looks = looks(4 << 20, 419);
        assert!(looks < 400, "{looks}");
    }

    #[test]
    fn a_short_message_is_heard_at_once() {
        assert!(looks(10, 1) <= 12);
    }
}
