//! `attache explain`: one made-up request through a configuration, as the running process would take it.
//!
//! Connects nowhere: who is up is not known here. `/explain` of the admin API knows.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use super::{FAILED, USAGE, named_or_default, out, say, show};
use crate::explain::{self, Asked, EndpointPart, Explanation, RoutePart, Step, Verdict, Wrong};
use crate::refusal::Refusal;
use crate::supervisor::{Carried, Origin, assemble, available_cpus};
use crate::telemetry::Metrics;
use crate::tls::Sessions;

#[derive(clap::Args)]
pub(super) struct Args {
    /// A configuration file, or a directory of *.toml; may be repeated
    #[arg(short, long = "config", value_name = "PATH")]
    config: Vec<PathBuf>,
    #[arg(help = "A method and a URL, such as 'GET https://shop.example/cart'; GET where there is a URL alone", value_name = "REQUEST", required = true, num_args = 1..=2)]
    request: Vec<String>,
    /// A header field, such as 'x-user: ann'; may be repeated
    #[arg(short = 'H', long = "header", value_name = "FIELD")]
    header: Vec<String>,
    /// The client's address
    #[arg(long, value_name = "IP")]
    from: Option<IpAddr>,
    /// The request's body, where a key is read from it
    #[arg(long, value_name = "TEXT")]
    body: Option<String>,
    /// The listener it comes to, by name. Default: the first that fits the URL
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    fn asked(&self) -> Result<Asked, Wrong> {
        let words: Vec<&str> = self.request.iter().flat_map(|part| part.split_ascii_whitespace()).collect();
        let mut asked = match words.as_slice() {
            [url] => Asked::new("GET", url)?,
            [method, url] => Asked::new(method, url)?,
            _ => return Err(Wrong("write a method and a URL, as in 'GET https://shop.example/cart'".to_owned())),
        };
        for line in &self.header {
            asked.header(line)?;
        }
        if let Some(client) = self.from {
            asked.client = client;
        }
        asked.body = self.body.clone().map(String::into_bytes);
        asked.wanted.clone_from(&self.listener);
        Ok(asked)
    }
}

pub(super) fn explain(args: Args) -> ExitCode {
    let usage = |Wrong(reason)| {
        say(&format!("attache: {reason}\n"));
        ExitCode::from(USAGE)
    };
    let asked = match args.asked() {
        Ok(asked) => asked,
        Err(wrong) => return usage(wrong),
    };
    let paths = match named_or_default(args.config) {
        Ok(paths) => paths,
        Err(code) => return code,
    };
    let workers = available_cpus();
    let carried = Carried { metrics: Metrics::new(workers, Refusal::LABELS), sessions: Sessions::new(), workers };
    let assembled = match assemble(&Origin::Paths(paths), &carried, None) {
        Ok(assembled) => assembled,
        Err(failed) => {
            show(&failed.sources, &failed.found);
            return ExitCode::from(FAILED);
        }
    };
    match explain::explain(&assembled.generation, &asked, false) {
        Ok(explanation) if args.json => out(&format!("{:#}\n", serde_json::json!(explanation))),
        Ok(explanation) => out(&render(&explanation)),
        Err(wrong) => return usage(wrong),
    }
    ExitCode::SUCCESS
}

/// One paragraph a subject, its name before it.
pub fn render(explanation: &Explanation) -> String {
    let mut page = Page::default();
    let listener = &explanation.listener;
    page.line("request", &format!("{} {} from {}", explanation.method, explanation.url, explanation.client));
    page.line("listener", &format!("{} ({})", listener.name, listener.listen.join(", ")));
    if let Some(note) = &listener.note {
        page.line("", note);
    }
    if !listener.others.is_empty() {
        page.line("", &format!("it could also come to {}: say which with --listener", listener.others.join(", ")));
    }
    for route in &explanation.routes {
        page.line("route", &route_line(route));
    }
    if explanation.route.as_deref() == Some("") {
        page.line("route", "none matches: the listener's own service");
    }
    for step in &explanation.way {
        step_lines(step, &mut page);
    }
    if let Some(migration) = &explanation.migration {
        page.line("migrates", migration);
    }
    page.line("answer", &verdict_line(&explanation.verdict));
    if let Some(sends) = &explanation.sends {
        page.line("sends", &sends.line);
        sends.added.iter().for_each(|line| page.line("", &format!("+ {line}")));
        sends.removed.iter().for_each(|line| page.line("", &format!("- {line}")));
    }
    if let Some(edits) = &explanation.answer {
        edits.added.iter().for_each(|line| page.line("returns", &format!("+ {line}")));
        edits.removed.iter().for_each(|name| page.line("returns", &format!("- {name}")));
    }
    let times: Vec<String> = explanation.timeouts.iter().map(|timeout| format!("{} {} s", timeout.name, timeout.seconds)).collect();
    if !times.is_empty() {
        page.line("times", &times.join(", "));
    }
    page.text
}

fn route_line(route: &RoutePart) -> String {
    match &route.why {
        Some(why) => format!("{}: no, {why}", route.name),
        None if route.outcome == "won" => format!("{}: yes", route.name),
        None => format!("{}: {}", route.name, route.outcome),
    }
}

fn step_lines(step: &Step, page: &mut Page) {
    match step {
        Step::Shard { service, method, key, member, order, spread, on_down, .. } => {
            let key = key.as_ref().map_or_else(|| "no key".to_owned(), |key| format!("key \"{key}\""));
            page.line("shard", &format!("{service}, {method}: {key}"));
            match member {
                Some(member) if order.len() > 1 => {
                    let next: Vec<&str> = order.iter().map(String::as_str).filter(|name| name != member).collect();
                    let next = if *on_down == "next" { format!("; next {}", next.join(", ")) } else { "; nobody else".to_owned() };
                    page.line("", &format!("goes to {member}{next}"));
                }
                Some(member) => page.line("", &format!("goes to {member}")),
                None => page.line("", "its pool chooses"),
            }
            if *spread > 1 {
                page.line("", &format!("a hot key: {spread} members share its reads"));
            }
        }
        Step::Split { service, key, arm, instead_of, because, arms } => {
            let key = match (key, *because) {
                (_, "issued") => "no key, so it is given one".to_owned(),
                (Some(key), _) => format!("key \"{key}\""),
                (None, "forced") => "the request names its arm".to_owned(),
                (None, "remembered") => "a cookie names its arm".to_owned(),
                (None, "outside") => "it is none of those that are divided".to_owned(),
                (None, _) => "no key, so any arm".to_owned(),
            };
            let shares: Vec<String> = arms.iter().map(|arm| format!("{} {}%", arm.name, (arm.share * 1e6).round() / 1e4)).collect();
            page.line("split", &format!("{service}, {}: {key}", shares.join(", ")));
            match instead_of {
                Some(missing) => page.line("", &format!("goes to {arm}, since {missing} has nobody")),
                None if matches!(*because, "issued" | "chance") => page.line("", &format!("goes to any of them, here {arm}")),
                None => page.line("", &format!("goes to {arm}")),
            }
        }
        Step::Mirror { service, copy, share } => {
            let percent = (share * 1e6).round() / 1e4;
            let copied = match copy {
                Some(copy) => format!("a copy goes to {copy}"),
                None => "this request is not copied".to_owned(),
            };
            page.line("mirror", &format!("{service}, of {percent}%: {copied}"));
        }
        Step::Pool { service, balance, bound_by, endpoints } => {
            let bound = bound_by.as_ref().map_or_else(String::new, |by| format!(", bound by {by}"));
            page.line("pool", &format!("{service}, {balance}{bound}"));
            for EndpointPart { name, address, state, weight } in endpoints {
                let address = if name == address { String::new() } else { format!(" {address}") };
                let weight = if *weight == 1 { String::new() } else { format!(", weight {weight}") };
                let state = if *state == "unknown" { String::new() } else { format!(", {state}") };
                page.line("", &format!("{name}{address}{state}{weight}"));
            }
            if endpoints.is_empty() {
                page.line("", "no endpoint is known here");
            }
        }
    }
}

fn verdict_line(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Forward { service, endpoint: Some(endpoint) } => format!("of {endpoint} in {service}"),
        Verdict::Forward { service, endpoint: None } => format!("of whose turn it is in {service}"),
        Verdict::Respond { status } => format!("{status}, by attache itself"),
        Verdict::Redirect { status, to } => format!("{status} to {to}"),
        Verdict::Refuse { status, reason, phrase } => format!("{status} {phrase} ({reason})"),
        Verdict::Report { service, of } => format!("of {service} itself, which looks at {}", of.join(", ")),
        Verdict::Scatter { service, mode, leaves } => format!("of {} in {service}, {mode}", leaves.join(", ")),
        Verdict::Body { most } => format!("depends on the first {most} bytes of its body: say what they are with --body"),
    }
}

/// Lines with a subject before them, once for those that share it.
#[derive(Default)]
struct Page {
    text: String,
    subject: String,
}

impl Page {
    fn line(&mut self, subject: &str, line: &str) {
        let is_same = subject.is_empty() || subject == self.subject;
        let _ = writeln!(self.text, "{:<10}{line}", if is_same { "" } else { subject });
        if !subject.is_empty() {
            subject.clone_into(&mut self.subject);
        }
    }
}
