//! `attache plan`: what another configuration would change, and which keys of its shards would move.
//!
//! Reads two configurations and touches nothing.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use super::{FAILED, fail, out, say, show};
use crate::explain::{self, Balance, Moves, Plan};
use crate::generation::Generation;
use crate::refusal::Refusal;
use crate::supervisor::{Carried, Origin, assemble, available_cpus};
use crate::telemetry::Metrics;
use crate::tls::Sessions;
use crate::value::Share;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The configuration that serves: a file, or a directory of *.toml
    old: PathBuf,
    /// The one that is to
    new: PathBuf,
    /// Keys as the shards would read them, one in a line
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// Exit 1 if more of any shard's keys would move, such as 5%
    #[arg(long, value_name = "SHARE", value_parser = share)]
    max_move: Option<Share>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn share(text: &str) -> Result<Share, String> {
    Share::parse(text).ok_or_else(|| "write a number from 0 to 100 with its sign, such as 5% or 0.5%".to_owned())
}

pub(super) fn plan(args: &Args) -> ExitCode {
    let (Some(old), Some(new)) = (compiled(&args.old), compiled(&args.new)) else { return ExitCode::from(FAILED) };
    let keys = match args.keys.as_ref().map(std::fs::read).transpose() {
        Ok(keys) => keys.map(|text| lines(&text)),
        Err(error) => return fail(&format!("cannot read {}: {error}", args.keys.as_deref().unwrap_or(&args.old).display())),
    };
    let plan = explain::plan(&old, &new, keys.as_deref());
    if args.json {
        out(&format!("{:#}\n", serde_json::json!(plan)));
    } else {
        out(&render(&plan));
    }
    let Some(most) = args.max_move else { return ExitCode::SUCCESS };
    let too_many: Vec<&Moves> = plan.shards.iter().filter(|moves| moves.worst() > most.fraction()).collect();
    for moves in &too_many {
        say(&format!("attache: {} of the keys of {} would move, and {most} is allowed\n", percent(moves.worst()), moves.service));
    }
    if too_many.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
}

/// `None` if it is wrong; what is, has been said.
fn compiled(path: &std::path::Path) -> Option<Generation> {
    let workers = available_cpus();
    let carried = Carried { metrics: Metrics::new(workers, Refusal::LABELS), sessions: Sessions::new(), workers };
    match assemble(&Origin::Paths(vec![path.to_owned()]), &carried, None) {
        Ok(assembled) => Some(assembled.generation),
        Err(failed) => {
            show(&failed.sources, &failed.found);
            None
        }
    }
}

/// A tab stands between the parts of a key that is several values, where a request's key has a NUL.
fn lines(text: &[u8]) -> Vec<Vec<u8>> {
    let line = |line: &[u8]| -> Vec<u8> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        line.iter().map(|&byte| if byte == b'\t' { 0 } else { byte }).collect()
    };
    text.split(|&byte| byte == b'\n').map(line).filter(|line| !line.is_empty()).collect()
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

pub(super) fn render(plan: &Plan) -> String {
    let mut text = String::new();
    if plan.changes.is_empty() {
        text.push_str("nothing changes\n");
    }
    for change in &plan.changes {
        let _ = writeln!(text, "{} {}, {}", change.what, change.kind, change.effect);
    }
    for moves in &plan.shards {
        let error = if moves.error > 0.0 { format!(" (± {:.1}, by {} keys)", moves.error * 100.0, moves.keys) } else { String::new() };
        let _ = writeln!(text, "\nshard {}: {} of its keys move{error}", moves.service, percent(moves.moved));
        if let Some(note) = &moves.note {
            let _ = writeln!(text, "  {note}");
        }
        let shown = moves.matrix.iter().take(SHOWN).filter(|one| one.share >= LEAST).count();
        for one in &moves.matrix[..shown] {
            let _ = writeln!(text, "  {:>7}  {} → {}", percent(one.share), one.from, one.to);
        }
        let rest: f64 = moves.matrix[shown..].iter().map(|one| one.share).sum();
        if rest > 0.0 {
            let _ = writeln!(text, "  {:>7}  between {} other pairs", percent(rest), moves.matrix.len() - shown);
        }
        if moves.moved > 0.0 {
            let _ = writeln!(text, "  before   {}\n  after    {}", balance(&moves.before), balance(&moves.after));
        }
        if let Some(given) = &moves.given {
            let _ = writeln!(text, "  of {} keys given, {} different: {} move", given.keys, given.different, percent(given.moved));
            for mover in &given.hottest {
                let _ = writeln!(text, "  {:>7}  {}  {} → {}", format!("{}×", mover.count), mover.key, mover.from, mover.to);
            }
        }
    }
    for note in &plan.notes {
        let _ = writeln!(text, "\n{note}");
    }
    text
}

/// Pairs and members that are shown.
const SHOWN: usize = 10;
/// A pair of members that this share moves between is shown.
const LEAST: f64 = 0.001;

fn balance(balance: &Balance) -> String {
    let members: Vec<String> =
        balance.members.iter().take(SHOWN).map(|member| format!("{} {}", member.name, percent(member.share))).collect();
    let more = if balance.members.len() > SHOWN { ", …" } else { "" };
    format!("{}, peak {:.2}: {}{more}", balance.method, balance.peak, members.join(", "))
}
