//! `attache wait`: returns once something is ready, or becomes a program then.
//!
//! Watches nobody afterwards: the program takes this process's place, with its number and its signals.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use super::ask::{self, PATIENCE};
use super::{FAILED, duration, fail};
use crate::admin::client;
use crate::value::{Address, EndpointAddress};

// `ask` has a group of the same name.
#[derive(clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Wait for this to answer 2xx, not for the admin API; may be repeated, and then for each
    #[arg(long = "url", value_name = "URL", value_parser = Url::parse, conflicts_with = "config")]
    urls: Vec<Url>,
    #[command(flatten)]
    ask: ask::Args,
    /// How long to wait, such as 30s
    #[arg(long, default_value = "60s", value_parser = duration)]
    timeout: Duration,
    /// What to become then: a program and its arguments, behind --
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) fn wait(args: &Args) -> ExitCode {
    if let Err(error) = end_when_told() {
        return fail(&format!("cannot wait for signals: {error}"));
    }
    let deadline = Instant::now() + args.timeout;
    let waited = if args.urls.is_empty() {
        until_well(deadline, |patience| is_ready(&args.ask, patience))
    } else {
        args.urls.iter().try_for_each(|url| until_well(deadline, |patience| url.is_well(patience)))
    };
    if let Err(reason) = waited {
        return fail(&reason);
    }
    let Some((program, arguments)) = args.command.split_first() else { return ExitCode::SUCCESS };
    let error = Command::new(program).args(arguments).exec();
    fail(&format!("cannot run {}: {error}", program.to_string_lossy()))
}

/// Asks until the answer is good. Else what was wrong with the last one.
fn until_well(deadline: Instant, ask: impl Fn(Duration) -> Result<(), String>) -> Result<(), String> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Err(reason) = ask(PATIENCE.min(left).max(PAUSE)) else { return Ok(()) };
        if Instant::now() >= deadline {
            return Err(reason);
        }
        std::thread::sleep(PAUSE);
    }
}

fn is_ready(admin: &ask::Args, patience: Duration) -> Result<(), String> {
    match admin.ask("GET", "/readyz", patience)? {
        client::Answer { status: 200, .. } => Ok(()),
        answer => Err(format!("not ready: {}", String::from_utf8_lossy(&answer.body).trim())),
    }
}

/// The first process of a container gets no signal but those that it has asked for, and this is one often. Becoming a program
/// leaves no trace of it.
fn end_when_told() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let entered = runtime.enter();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    drop(entered);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        let _ = fail("told to end before it was ready");
        std::process::exit(i32::from(FAILED));
    })?;
    Ok(())
}

/// What can be asked over plain HTTP: `http://host:port/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Url {
    address: Address,
    /// As it is written, for the Host field.
    authority: String,
    target: String,
}

impl Url {
    fn parse(text: &str) -> Result<Self, String> {
        let help = "write http://HOST:PORT/PATH";
        let rest = text.strip_prefix("http://").ok_or_else(|| format!("only http:// can be asked; {help}"))?;
        if !rest.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            return Err(format!("a space, `#` or another character that no request can hold; {help}"));
        }
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let endpoint = EndpointAddress::parse(&format!("http://{authority}")).map_err(|reason| format!("{reason}; {help}"))?;
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        Ok(Self { address: endpoint.address, authority: authority.to_owned(), target })
    }

    fn is_well(&self, patience: Duration) -> Result<(), String> {
        let Self { address, authority, target } = self;
        match client::status(address, authority, target, patience) {
            Ok(200..=299) => Ok(()),
            Ok(status) => Err(format!("http://{authority}{target} answers {status}")),
            Err(error) => Err(format!("cannot ask http://{authority}{target}: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, address: &str, authority: &str, target: &str) {
        let url = Url::parse(text).unwrap();
        let wanted = (Address::parse(address).unwrap(), authority, target);
        assert_eq!((url.address, url.authority.as_str(), url.target.as_str()), wanted, "{text}");
    }

    #[test]
    fn a_url_says_whom_to_ask_and_for_what() {
        check("http://127.0.0.1:8080/ready?deep=1", "127.0.0.1:8080", "127.0.0.1:8080", "/ready?deep=1");
        check("http://app:8080", "app:8080", "app:8080", "/");
        check("http://app", "app:80", "app", "/");
        check("http://app/", "app:80", "app", "/");
        check("http://app?x=//", "app:80", "app", "/?x=//");
        check("http://[::1]:8080/a:b@c", "[::1]:8080", "[::1]:8080", "/a:b@c");
        check("http://[::1]/", "[::1]:80", "[::1]", "/");
    }

    #[test]
    fn what_cannot_be_asked_is_no_url() {
        for text in [
            "",
            "app:8080/ready",
            "https://app/",
            "HTTP://app/",
            "unix:/run/app.sock",
            "http://",
            "http:///ready",
            "http://unix:/run/app.sock",
            "http://user:secret@app/",
            "http://app:port/",
            "http://app:65536/",
            "http://app/#top",
            "http://app/a b",
            "http://app/\r\nx: y",
            "http://::1/",
        ] {
            let refused = Url::parse(text);
            assert!(refused.as_ref().is_err_and(|reason| reason.contains("write http://")), "{text:?}: {refused:?}");
        }
    }
}
