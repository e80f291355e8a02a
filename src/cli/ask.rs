//! Verbs that ask a running attache through its admin API.
//!
//! None of them reads more of the configuration than where that API listens.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;
use std::time::Duration;

use super::{dial_address, fail, out, say};
use crate::admin::client::{self, Answer};
use crate::config;
use crate::value::{Address, Diagnostics};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Where the admin API listens. Default: what the configuration says
    #[arg(long, value_name = "ADDR", env = "ATTACHE_ADMIN", value_parser = dial_address)]
    admin: Option<Address>,
    /// The configuration that says where the admin API listens
    #[arg(short, long = "config", value_name = "PATH")]
    config: Vec<std::path::PathBuf>,
}

impl Args {
    fn address(&self) -> Result<Address, Unknown> {
        if let Some(address) = &self.admin {
            return Ok(address.clone());
        }
        let environment = |name: &str| std::env::var(name).ok();
        let paths = if self.config.is_empty() { config::default_paths(&environment).unwrap_or_default() } else { self.config.clone() };
        if paths.is_empty() {
            return reachable(&config::Admin::default());
        }
        let Ok(loaded) = config::load(&paths, &environment) else { return Err(Unknown::Unreadable) };
        // Mistakes elsewhere are none of ours: a running attache that refused them can still be asked.
        reachable(&config::File::parse(&loaded.root, &loaded.sources, &mut Diagnostics::default()).file.admin)
    }

    pub(super) fn ask(&self, method: &str, target: &str, timeout: Duration) -> Result<Answer, String> {
        let address = match self.address() {
            Ok(address) => Ok(address),
            // A running attache refuses a broken file and serves on, so a health check must not take it for dead. But
            // a command is not given to whoever listens at the default address.
            Err(Unknown::Unreadable) if method == "GET" => reachable(&config::Admin::default()),
            Err(unknown) => Err(unknown),
        };
        let address = address.map_err(|unknown| unknown.to_string())?;
        client::ask(&address, method, target, timeout).map_err(|error| format!("cannot ask {address}: {error}"))
    }
}

/// Why nobody can be asked.
enum Unknown {
    Off,
    Unreadable,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "the configuration switches the admin API off",
            Self::Unreadable => "the configuration cannot be read (see attache check); name the admin API's address with --admin",
        })
    }
}

/// An address to listen on every interface is reached on this one.
fn reachable(admin: &config::Admin) -> Result<Address, Unknown> {
    let address = admin.listen().ok_or(Unknown::Off)?;
    Ok(match address.value.clone() {
        Address::Tcp(mut tcp) if tcp.ip().is_unspecified() => {
            tcp.set_ip(if tcp.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
            Address::Tcp(tcp)
        }
        other => other,
    })
}

pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// A reload reads files and waits for every worker.
const RELOAD_PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn reload(args: &Args, dry_run: bool) -> ExitCode {
    let target = if dry_run { "/reload?dry_run=1" } else { "/reload" };
    match args.ask("POST", target, RELOAD_PATIENCE) {
        Ok(Answer { status: 200, body }) => {
            let answer: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            out(&format!("generation {}\n", answer["generation"]));
            for change in answer["changes"].as_array().into_iter().flatten() {
                let field = |name: &str| change[name].as_str().unwrap_or_default().to_owned();
                out(&format!("  {} {}, {}\n", field("what"), field("kind"), field("effect")));
            }
            for shard in answer["plan"]["shards"].as_array().into_iter().flatten() {
                let moved = shard["moved"].as_f64().unwrap_or_default() * 100.0;
                out(&format!("  shard {}: {moved:.1} % of its keys move\n", shard["service"].as_str().unwrap_or_default()));
            }
            for warning in answer["warnings"].as_array().into_iter().flatten() {
                say(&format!("{}\n", warning.as_str().unwrap_or_default()));
            }
            ExitCode::SUCCESS
        }
        Ok(Answer { body, .. }) => {
            let answer: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            for error in answer["errors"].as_array().into_iter().flatten() {
                say(&format!("{}\n", error.as_str().unwrap_or_default()));
            }
            fail("nothing was changed")
        }
        Err(message) => fail(&message),
    }
}

pub(super) fn drain(args: &Args) -> ExitCode {
    match args.ask("POST", "/drain", PATIENCE) {
        Ok(Answer { status: 202, .. }) => ExitCode::SUCCESS,
        Ok(answer) => fail(&format!("refused with {}", answer.status)),
        Err(message) => fail(&message),
    }
}

pub(super) fn status(args: &Args) -> ExitCode {
    let parts = ["/status", "/listeners", "/services"].map(|target| args.ask("GET", target, PATIENCE));
    let mut documents = Vec::new();
    for part in parts {
        match part {
            Ok(answer) => documents.push(serde_json::from_slice::<serde_json::Value>(&answer.body).unwrap_or_default()),
            Err(message) => return fail(&message),
        }
    }
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let state = &documents[0];
    out(&format!(
        "attache {}  {}  generation {} ({})  up {:.0} s\n",
        text(&state["version"]),
        text(&state["phase"]),
        state["generation"],
        text(&state["hash"]),
        state["uptime"].as_f64().unwrap_or_default(),
    ));
    if state["last_reload"]["ok"] == false {
        out(&format!("last reload at {} was refused:\n", text(&state["last_reload"]["at"])));
        for error in state["last_reload"]["errors"].as_array().into_iter().flatten() {
            out(&format!("  {}\n", text(error)));
        }
    }
    for listener in documents[1].as_array().into_iter().flatten() {
        let addresses: Vec<String> = listener["listen"].as_array().into_iter().flatten().map(text).collect();
        let tls = if listener["tls"] == true { "  tls" } else { "" };
        out(&format!("listener {}  {}{tls}  {} connections\n", text(&listener["name"]), addresses.join(" "), listener["connections"]));
    }
    for service in documents[2].as_array().into_iter().flatten() {
        let how = ["balance", "method", "kind"].into_iter().map(|key| &service[key]).find(|value| !value.is_null());
        out(&format!("service {}  {}\n", text(&service["name"]), how.map(text).unwrap_or_default()));
        for member in service["members"].as_array().into_iter().flatten() {
            let state = if member["healthy"] == true { "up" } else { "down" };
            out(&format!("  {}  {state}  weight {}\n", text(&member["name"]), member["weight"]));
        }
        for part in service["arms"].as_array().into_iter().chain(service["leaves"].as_array()).flatten() {
            let state = if part["healthy"] == false { "down" } else { "up" };
            let share = part["share"].as_f64().map_or_else(String::new, |share| format!("  {}%", (share * 1e6).round() / 1e4));
            out(&format!("  {}  {state}{share}\n", text(&part["name"])));
        }
        for (name, check) in service["checks"].as_object().into_iter().flatten() {
            let reason = check["reason"].as_str().map_or_else(String::new, |reason| format!("  ({reason})"));
            out(&format!("  {name}  {}{reason}\n", text(&check["status"])));
        }
        for (what, state) in [("to", "healthy"), ("copy", "copy_healthy")] {
            if let Some(name) = service[what].as_str() {
                out(&format!("  {what} {name}  {}\n", if service[state] == true { "up" } else { "down" }));
            }
        }
        for place in service["discovered"].as_array().into_iter().flatten() {
            let at = if place["at"].is_null() {
                "nothing yet".to_owned()
            } else {
                format!("{} found at {}", place["found"], text(&place["at"]))
            };
            let error = if place["error"].is_null() { String::new() } else { format!("  now failing: {}", text(&place["error"])) };
            out(&format!("  discovers {}  {at}{error}\n", text(&place["source"])));
        }
        for endpoint in service["endpoints"].as_array().into_iter().flatten() {
            let leads = if endpoint["leads"] == true { "  leads" } else { "" };
            let detail = endpoint["detail"].as_str().map_or_else(String::new, |detail| format!("  ({detail})"));
            out(&format!(
                "  {}  {}{leads}  weight {}  {} in flight{detail}\n",
                text(&endpoint["name"]),
                text(&endpoint["state"]),
                endpoint["weight"],
                endpoint["in_flight"]
            ));
        }
    }
    ExitCode::SUCCESS
}

pub(super) fn healthcheck(args: &Args, ready: bool) -> ExitCode {
    let target = if ready { "/readyz" } else { "/healthz" };
    match args.ask("GET", target, PATIENCE) {
        Ok(Answer { status: 200, .. }) => ExitCode::SUCCESS,
        Ok(answer) => fail(String::from_utf8_lossy(&answer.body).trim()),
        Err(message) => fail(&message),
    }
}
