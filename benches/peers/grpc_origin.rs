//! The program behind every proxy in the gRPC case: answers each call with a message of 100 bytes and `grpc-status: 0`.
//!
//! One thread, HTTP/2 without TLS. Knows no service: every path is the same method.
//!
//! `grpc_origin LISTEN`, such as `grpc_origin 127.0.0.1:8000`.

use std::io;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, server};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};

const MESSAGE: &[u8] = &{
    let mut message = [b'y'; 105];
    (message[0], message[1], message[2], message[3], message[4]) = (0, 0, 0, 0, 100);
    message
};

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut body = request.into_body();
    while let Some(piece) = body.data().await {
        body.flow_control().release_capacity(piece?.len())?;
    }
    let head = Response::builder().header("content-type", "application/grpc").body(()).map_err(|_| h2::Reason::INTERNAL_ERROR)?;
    let mut stream = respond.send_response(head, false)?;
    stream.send_data(Bytes::from_static(MESSAGE), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers)
}

async fn serve(stream: TcpStream) -> Result<(), h2::Error> {
    let mut builder = server::Builder::new();
    builder.initial_connection_window_size(1 << 24).max_concurrent_streams(1000);
    let mut connection = builder.handshake(stream).await?;
    while let Some(request) = connection.accept().await {
        let (request, respond) = request?;
        tokio::spawn(answer(request, respond));
    }
    Ok(())
}

fn main() -> io::Result<()> {
    let listen = std::env::args().nth(1).ok_or_else(|| io::Error::other("usage: grpc_origin LISTEN"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(serve(stream));
        }
    })
}
