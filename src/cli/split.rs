//! `attache split NAME`: how the arms of a running split stand, and how its ramp is getting on; and steers that.
//!
//! Asks the admin API and shows what it says; whether an order makes sense, the ramp decides.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde_json::Value;

use super::ask::{self, PATIENCE};
use super::{fail, out};
use crate::admin::client::Answer;

#[derive(clap::Args)]
pub(super) struct SplitArgs {
    /// The split's name, as `attache status` shows it
    name: String,
    #[command(flatten)]
    ask: ask::Args,
    #[command(flatten)]
    order: Order,
}

#[derive(clap::Args)]
#[group(multiple = false)]
struct Order {
    /// Go no further until it is resumed
    #[arg(long)]
    pause: bool,
    /// Go on, also after an abort
    #[arg(long)]
    resume: bool,
    /// End the ramp now
    #[arg(long)]
    abort: bool,
    /// Go to the next step now, or to this one, counted from 1
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "0")]
    step: Option<u64>,
}

impl Order {
    fn word(&self) -> Option<String> {
        match (self.pause, self.resume, self.abort, self.step) {
            (true, ..) => Some("pause".to_owned()),
            (_, true, ..) => Some("resume".to_owned()),
            (_, _, true, _) => Some("abort".to_owned()),
            (.., Some(0)) => Some("step".to_owned()),
            (.., Some(number)) => Some(format!("step={number}")),
            (.., None) => None,
        }
    }
}

pub(super) fn split(args: &SplitArgs) -> ExitCode {
    if let Some(order) = args.order.word() {
        let path = encoded(&args.name);
        match args.ask.ask("POST", &format!("/services/{path}/ramp?{order}"), PATIENCE) {
            Ok(Answer { status: 200, .. }) => {}
            Ok(answer) => return fail(&reason(&answer)),
            Err(message) => return fail(&message),
        }
    }
    let services: Value = match args.ask.ask("GET", "/services", PATIENCE) {
        Ok(Answer { status: 200, body }) => serde_json::from_slice(&body).unwrap_or_default(),
        Ok(answer) => return fail(&reason(&answer)),
        Err(message) => return fail(&message),
    };
    let mut splits = services.as_array().into_iter().flatten().filter(|service| service["kind"] == "split");
    if let Some(split) = splits.clone().find(|split| split["name"] == args.name.as_str()) {
        out(&shown(split));
        return ExitCode::SUCCESS;
    }
    let name = &args.name;
    let known: Vec<&str> = splits.by_ref().filter_map(|split| split["name"].as_str()).collect();
    fail(&match known.as_slice() {
        [] => format!("there is no split `{name}`, nor any other"),
        known => format!("there is no split `{name}`; there is {}", known.join(", ")),
    })
}

/// As a part of a path: the name of a split in a route has a slash.
fn encoded(name: &str) -> String {
    name.bytes().fold(String::new(), |mut path, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' => path.push(char::from(byte)),
            _ => {
                let _ = write!(path, "%{byte:02X}");
            }
        }
        path
    })
}

fn reason(answer: &Answer) -> String {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    match body["errors"][0].as_str() {
        Some(reason) => reason.to_owned(),
        None => String::from_utf8_lossy(&answer.body).trim().to_owned(),
    }
}

fn shown(split: &Value) -> String {
    let percent = |share: &Value| format!("{}%", (share.as_f64().unwrap_or_default() * 1e6).round() / 1e4);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut lines = format!("split {}\n", text(&split["name"]));
    let arms = split["arms"].as_array().map(Vec::as_slice).unwrap_or_default();
    let width = arms.iter().map(|arm| text(&arm["name"]).len()).max().unwrap_or_default();
    for arm in arms {
        let state = if arm["healthy"] == true { "up" } else { "down" };
        let control = if arm["name"] == split["control"] { "  control" } else { "" };
        let _ = writeln!(lines, "  {:width$}  {:>8}  {state}{control}", text(&arm["name"]), percent(&arm["share"]));
    }
    let ramp = &split["ramp"];
    if ramp.is_null() {
        return lines;
    }
    let steps: Vec<String> = ramp["steps"].as_array().into_iter().flatten().map(percent).collect();
    let _ = write!(
        lines,
        "ramp of {}  {}  step {} of {} ({})",
        text(&ramp["arm"]),
        text(&ramp["phase"]),
        ramp["step"],
        steps.len(),
        steps.join(" ")
    );
    if let Some(left) = ramp["next_in"].as_f64() {
        let _ = write!(lines, "  next in {left:.0} s");
    }
    lines.push('\n');
    if let Some(reason) = ramp["reason"].as_str() {
        let _ = writeln!(lines, "  {reason}");
    }
    let last = &ramp["last_window"];
    if !last.is_null() {
        for (who, seen) in [("arm", &last["arm"]), ("control", &last["control"])] {
            let (requests, errors) = (seen["requests"].as_u64().unwrap_or_default(), seen["errors"].as_u64().unwrap_or_default());
            let share = if requests == 0 { 0.0 } else { errors as f64 * 100.0 / requests as f64 };
            let p99 = seen["p99"].as_f64().map_or_else(String::new, |p99| format!("  p99 {:.1} ms", p99 * 1e3));
            let _ = writeln!(lines, "  {who:7}  {requests} requests  {errors} errors ({share:.2}%){p99}");
        }
        if let Some(complaint) = last["complaint"].as_str() {
            let _ = writeln!(lines, "  bad: {complaint} ({} in a row)", ramp["bad_windows"]);
        }
    }
    if let Some(probability) = ramp["mismatch"].as_f64().filter(|probability| *probability < 0.001) {
        let _ = writeln!(lines, "  users are not distributed as the shares say (by chance: {probability:.1e})");
    }
    lines
}
