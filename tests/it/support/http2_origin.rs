//! Origins that speak HTTP/2: the `h2` crate's for what they should do, raw frames for what they may do as well.

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Origin;
use super::http2::{Frame, Raw, SETTINGS, frame, literals};

/// One request, and how it is answered.
pub struct Ask {
    pub request: Request<RecvStream>,
    pub respond: SendResponse<Bytes>,
    /// Number of its connection.
    pub connection: usize,
}

impl Ask {
    pub fn path(&self) -> &str {
        self.request.uri().path()
    }

    /// Sends a head.
    pub fn head(&mut self, status: u16, fields: &[(&str, &str)], is_whole: bool) -> SendStream<Bytes> {
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        self.respond.send_response(response.body(()).unwrap(), is_whole).unwrap()
    }

    /// Answers 200 with `body`.
    pub fn ok(&mut self, body: &str) {
        let mut send = self.head(200, &[], false);
        let _ = send.send_data(Bytes::copy_from_slice(body.as_bytes()), true);
    }

    /// Reads the request's body.
    pub async fn body(&mut self) -> Result<Vec<u8>, h2::Error> {
        let mut bytes = Vec::new();
        self.each(|chunk| bytes.extend_from_slice(chunk)).await?;
        Ok(bytes)
    }

    pub async fn each(&mut self, mut take: impl FnMut(&[u8])) -> Result<(), h2::Error> {
        let body = self.request.body_mut();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            take(&chunk);
        }
        Ok(())
    }

    pub async fn trailers(&mut self) -> Option<HeaderMap> {
        self.request.body_mut().trailers().await.ok().flatten()
    }
}

/// Runs one task for every request, all on one thread.
pub struct Origin2 {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    stop: Arc<tokio::sync::Notify>,
}

impl Origin2 {
    pub fn run<F: Future<Output = ()> + 'static>(tls: Option<ServerConfig>, script: impl Fn(Ask) -> F + Send + 'static) -> Self {
        Self::run_with(tls, Builder::new(), script)
    }

    pub fn run_with<F: Future<Output = ()> + 'static>(
        tls: Option<ServerConfig>,
        builder: Builder,
        script: impl Fn(Ask) -> F + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let origin = Self { address: listener.local_addr().unwrap(), connections: Arc::default(), stop: Arc::default() };
        let (connections, stop) = (Arc::clone(&origin.connections), Arc::clone(&origin.stop));
        let acceptor = tls.map(|config| tokio_rustls::TlsAcceptor::from(Arc::new(config)));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let tasks = tokio::task::LocalSet::new();
            let accept = async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let script = Rc::new(script);
                loop {
                    let Ok((stream, _)) = listener.accept().await else { return };
                    let _ = stream.set_nodelay(true);
                    let number = connections.fetch_add(1, SeqCst);
                    let (acceptor, script, builder) = (acceptor.clone(), Rc::clone(&script), builder.clone());
                    tokio::task::spawn_local(async move {
                        match acceptor {
                            None => serve(stream, number, builder, script).await,
                            Some(acceptor) => {
                                if let Ok(stream) = acceptor.accept(stream).await {
                                    serve(stream, number, builder, script).await;
                                }
                            }
                        }
                    });
                }
            };
            tasks.block_on(&runtime, async {
                tokio::select! {
                    () = accept => {}
                    () = stop.notified() => {}
                }
            });
        });
        origin
    }

    pub fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

impl Drop for Origin2 {
    fn drop(&mut self) {
        self.stop.notify_one();
    }
}

async fn serve<F: Future<Output = ()> + 'static>(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    number: usize,
    builder: Builder,
    script: Rc<impl Fn(Ask) -> F + 'static>,
) {
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::task::spawn_local(script(Ask { request, respond, connection: number }));
    }
}

/// Hands every connection to `script` once the client's preface has come and `settings` are sent.
pub fn raw_origin(settings: &'static [u8], script: impl Fn(Raw, usize) + Send + Sync + 'static) -> Origin {
    Origin::raw(move |stream, number| {
        let Some(mut raw) = Raw::accept(stream) else { return };
        if raw.send(&frame(SETTINGS, 0, 0, settings)).is_ok() {
            script(raw, number);
        }
    })
}

/// A whole answer of this status, with this body.
pub fn answer(stream: u32, status: &str, body: &str) -> Vec<u8> {
    let head = frame(super::http2::HEADERS, super::http2::END_HEADERS, stream, &literals(&[(":status", status)]));
    [head, frame(super::http2::DATA, super::http2::END_STREAM, stream, body.as_bytes())].concat()
}

/// The next request's stream.
pub fn next_request(raw: &mut Raw) -> Option<u32> {
    raw.until(|frame: &Frame| frame.kind == super::http2::HEADERS).map(|frame| frame.stream)
}
