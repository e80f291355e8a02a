//! `attache origin`: an HTTP server that answers with what it was asked.
//!
//! For trying things on and for demos; it keeps nothing and proves nothing.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::{fail, listen_address, say};
use crate::admin::http::{self, Answer, Listening, Request, Served};
use crate::supervisor::AdminSocket;
use crate::value::Address;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Where to listen, such as 127.0.0.1:8080 or unix:PATH
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = listen_address)]
    listen: Address,
}

/// Longest answer of `/bytes/N`.
const BYTES_MAX: usize = 64 << 20;
const CONNECTIONS_MAX: usize = 10_000;
/// SIGTERM: how long those who are connected may still ask.
const GRACE: Duration = Duration::from_secs(15);
/// Longest wait of `/delay/MS`.
const DELAY_MAX: Duration = Duration::from_secs(60);

pub(super) fn origin(args: &Args) -> ExitCode {
    let socket = match &args.listen {
        Address::Tcp(address) => std::net::TcpListener::bind(address).and_then(|l| l.set_nonblocking(true).map(|()| AdminSocket::Tcp(l))),
        Address::Unix(path) => {
            std::os::unix::net::UnixListener::bind(path).and_then(|l| l.set_nonblocking(true).map(|()| AdminSocket::Unix(l)))
        }
        Address::Name(..) => return fail("listen on an IP address"),
    };
    let socket = match socket {
        Ok(socket) => socket,
        Err(error) => return fail(&format!("cannot listen on {}: {error}", args.listen)),
    };
    if let AdminSocket::Tcp(listener) = &socket {
        let address = listener.local_addr().map_or_else(|_| args.listen.to_string(), |address| address.to_string());
        say(&format!("origin on http://{address}  (/anything, /status/404, /delay/250, /bytes/1000000)\n"));
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.to_string()),
    };
    runtime.block_on(async {
        let listening = match Listening::new(socket) {
            Ok(listening) => listening,
            Err(error) => return fail(&error.to_string()),
        };
        let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
        let (Ok(mut terminate), Ok(mut interrupt)) = signals else { return fail("cannot listen for signals") };
        let served = Arc::new(Served::new(CONNECTIONS_MAX));
        let serving = http::serve(listening, Arc::new(echo), Arc::clone(&served));
        tokio::select! {
            () = serving => {}
            _ = interrupt.recv() => {}
            () = async {
                terminate.recv().await;
                // Whoever stands before a program is told to end together with it, and has to finish with its help.
                tokio::select! {
                    () = served.nobody() => {}
                    () = tokio::time::sleep(GRACE) => {}
                    _ = terminate.recv() => {}
                }
            } => {}
        }
        if let Address::Unix(path) = &args.listen {
            // Gone already is as good.
            let _ = std::fs::remove_file(path);
        }
        ExitCode::SUCCESS
    })
}

async fn echo(request: Request) -> Answer {
    let path = request.target.split('?').next().unwrap_or_default();
    let mut status = 200;
    match path.split_once('/').and_then(|(_, rest)| rest.split_once('/')) {
        Some(("status", code)) => status = code.parse().ok().filter(|code| (200..=599).contains(code)).unwrap_or(400),
        Some(("delay", ms)) => {
            let delay = Duration::from_millis(ms.parse().unwrap_or(0)).min(DELAY_MAX);
            tokio::time::sleep(delay).await;
        }
        Some(("bytes", count)) => {
            let count = count.parse().unwrap_or(0).min(BYTES_MAX);
            return Answer { status, content_type: "application/octet-stream", fields: "", body: vec![b'.'; count] };
        }
        _ => {}
    }
    if matches!(status, 204 | 304) {
        return Answer::text(status, "");
    }
    let headers: Vec<_> = request.headers.iter().map(|(name, value)| json!([name, value])).collect();
    Answer::json(
        status,
        &json!({
            "method": request.method,
            "target": request.target,
            "headers": headers,
            "body": String::from_utf8_lossy(&request.body[..request.body.len().min(64 << 10)]),
            "body_bytes": request.body.len(),
        }),
    )
}
