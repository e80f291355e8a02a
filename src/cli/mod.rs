//! The command line: one file per verb, and the only place that prints and exits.
//!
//! Decides nothing about traffic; every verb calls what the running process calls.

mod ask;
mod check;
pub mod explain;
mod origin;
mod plan;
mod proxy;
pub mod render;
mod run;
mod split;
mod wait;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use rustix::process::Pid;

use crate::value::{Address, Diagnostics, EndpointAddress, Sources, parse_duration};

/// Wrong configuration or failed start.
const FAILED: u8 = 1;
/// Wrong usage; clap's own choice too.
const USAGE: u8 = 2;
/// The drain deadline cut something off.
const CUT_OFF: u8 = 3;

/// A single-binary L7 proxy: sidecar, ambassador and adapter.
#[derive(Parser)]
#[command(name = "attache", version, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(clap::Args)]
struct RunArgs {
    /// A configuration file, or a directory of *.toml; may be repeated
    #[arg(short, long = "config", value_name = "PATH")]
    config: Vec<PathBuf>,
    #[command(flatten)]
    with: WithArgs,
}

#[derive(clap::Args)]
struct WithArgs {
    /// End, as at SIGTERM, when this process has ended
    #[arg(long, value_name = "PID", value_parser = process)]
    exit_with: Option<Pid>,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve; what the bare command does
    Run(RunArgs),
    /// Look for mistakes in a configuration and touch nothing
    Check {
        /// Files or directories; without any, the default places
        paths: Vec<PathBuf>,
        #[arg(short, long = "config", value_name = "PATH", hide = true)]
        config: Vec<PathBuf>,
        /// Treat warnings as errors
        #[arg(long)]
        strict: bool,
    },
    /// Tell where a request would go, and why
    Explain(explain::Args),
    /// Tell what another configuration would change, and which keys would move
    Plan(plan::Args),
    /// Serve one endpoint without a configuration file
    Proxy(proxy::Args),
    /// Answer every request with what it said: an origin to try things on
    Origin(origin::Args),
    /// Have a running attache read its configuration again
    Reload {
        #[command(flatten)]
        ask: ask::Args,
        /// Only tell what would change
        #[arg(long)]
        dry_run: bool,
    },
    /// Have a running attache finish what is in flight and take no more
    Drain(ask::Args),
    /// Show what a running attache serves
    Status(ask::Args),
    /// Show how the arms of a running split stand, and steer its ramp
    Split(split::SplitArgs),
    /// Wait until a running attache, or what URLs name, is ready; then become a program
    Wait(wait::Args),
    /// Exit 0 if a running attache is alive, for container health checks
    Healthcheck {
        #[command(flatten)]
        ask: ask::Args,
        /// Ask whether it is ready rather than alive
        #[arg(long)]
        ready: bool,
    },
    /// Print the version
    Version,
}

pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    match args.verb.unwrap_or(Verb::Run(args.run)) {
        Verb::Run(run) => run::run(run.config, run.with.exit_with),
        Verb::Check { paths, config, strict } => check::check(paths.into_iter().chain(config).collect(), strict),
        Verb::Explain(args) => explain::explain(args),
        Verb::Plan(args) => plan::plan(&args),
        Verb::Proxy(args) => proxy::proxy(&args),
        Verb::Origin(args) => origin::origin(&args),
        Verb::Reload { ask, dry_run } => ask::reload(&ask, dry_run),
        Verb::Drain(args) => ask::drain(&args),
        Verb::Status(args) => ask::status(&args),
        Verb::Split(args) => split::split(&args),
        Verb::Wait(args) => wait::wait(&args),
        Verb::Healthcheck { ask, ready } => ask::healthcheck(&ask, ready),
        Verb::Version => {
            out(&format!("attache {}\n", env!("CARGO_PKG_VERSION")));
            ExitCode::SUCCESS
        }
    }
}

/// Prints an answer. A reader that has gone away is no failure of ours.
fn out(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Prints a message for a person.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn fail(text: &str) -> ExitCode {
    say(&format!("attache: {text}\n"));
    ExitCode::from(FAILED)
}

/// Shows diagnostics on stderr, in colour for a terminal.
fn show(sources: &Sources, found: &Diagnostics) {
    use std::io::IsTerminal;
    if !found.is_empty() {
        let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        say(&render::render(sources, found, colour));
    }
}

/// The paths that were named, else those where a configuration is looked for. Where there is none, it
/// has been said.
fn named_or_default(named: Vec<PathBuf>) -> Result<Vec<PathBuf>, ExitCode> {
    if !named.is_empty() {
        return Ok(named);
    }
    crate::config::default_paths(&|name| std::env::var(name).ok()).map_err(|failed| {
        show(&failed.sources, &failed.found);
        ExitCode::from(FAILED)
    })
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "write a whole number with its unit, such as 500ms, 30s or 5m".to_owned())
}

fn process(text: &str) -> Result<Pid, String> {
    let number = text.parse().ok().filter(|&number: &i32| number > 0);
    number.and_then(Pid::from_raw).ok_or_else(|| "write the number of a process, such as 4711".to_owned())
}

fn listen_address(text: &str) -> Result<Address, String> {
    Address::parse_listen(text)
}

/// `:8080` stands for this machine.
fn dial_address(text: &str) -> Result<Address, String> {
    match text.strip_prefix(':') {
        Some(port) => Address::parse(&format!("127.0.0.1:{port}")),
        None => Address::parse(text.strip_prefix("http://").map_or(text, |rest| rest.trim_end_matches('/'))),
    }
}

/// As [`dial_address`], of an endpoint that may speak TLS.
fn endpoint_address(text: &str) -> Result<EndpointAddress, String> {
    match text.strip_prefix(':') {
        Some(port) => EndpointAddress::parse(&format!("127.0.0.1:{port}")),
        None => EndpointAddress::parse(text),
    }
}
