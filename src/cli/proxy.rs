//! `attache proxy`: one listener before one endpoint, without a file.
//!
//! Writes the configuration it stands for and runs that; no second way to start.

use std::net::SocketAddr;
use std::process::ExitCode;

use super::{WithArgs, endpoint_address, listen_address, run, say};
use crate::supervisor::Origin;
use crate::value::{Address, EndpointAddress};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Where to listen, such as :8443 or 127.0.0.1:8080
    #[arg(long, value_name = "ADDR", value_parser = listen_address)]
    from: Address,
    /// Who answers, such as 127.0.0.1:3000, app:80 or unix:PATH; https:// before it is TLS
    #[arg(long, value_name = "ADDR", value_parser = endpoint_address)]
    to: EndpointAddress,
    /// Serve HTTPS with a certificate made on the spot for localhost
    #[arg(long)]
    tls: bool,
    #[command(flatten)]
    with: WithArgs,
}

pub(super) fn proxy(args: &Args) -> ExitCode {
    let tls = if args.tls { "tls = { self_signed = [\"localhost\", \"127.0.0.1\", \"::1\"] }\n" } else { "" };
    let text = format!(
        "[admin]\noff = true\n\n[[listener]]\nlisten = {}\n{tls}service = {}\n",
        quoted(&args.from.to_string()),
        quoted(&args.to.to_string()),
    );
    run::serve(Origin::Text { name: "<command line>".to_owned(), text }, args.with.exit_with, |address| say(&hint(address, args)))
}

/// What to type next.
fn hint(address: &str, args: &Args) -> String {
    let (scheme, insecure) = if args.tls { ("https", " -k") } else { ("http", "") };
    let to = &args.to;
    let Ok(from) = address.parse::<SocketAddr>() else { return format!("{address} → {to}\n") };
    let host = if from.ip().is_unspecified() || from.ip().is_loopback() { "localhost".to_owned() } else { from.ip().to_string() };
    let url = format!("{scheme}://{host}:{}/", from.port());
    format!("{url} → {to}\ntry: curl{insecure} {url}\n")
}

/// A TOML basic string; JSON's escapes are among TOML's.
fn quoted(text: &str) -> String {
    serde_json::Value::String(text.to_owned()).to_string()
}
