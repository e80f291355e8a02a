//! The processes that take most, for people and programs: a page, plain text, or JSON.
//!
//! Asks for nothing from elsewhere, and shows no command line that it is not given.

use std::cmp::Ordering;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Row, Table};

/// What comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    Cpu,
    Memory,
    Descriptors,
    Threads,
}

impl Sort {
    const ALL: [Self; 4] = [Self::Cpu, Self::Memory, Self::Descriptors, Self::Threads];

    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|sort| sort.word() == word)
    }

    fn word(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Descriptors => "fds",
            Self::Threads => "threads",
        }
    }

    fn compare(self, a: &Row, b: &Row) -> Ordering {
        let by = match self {
            Self::Cpu => a.cpu.total_cmp(&b.cpu),
            Self::Memory => a.process.resident.cmp(&b.process.resident),
            Self::Descriptors => a.process.descriptors.cmp(&b.process.descriptors),
            Self::Threads => a.process.threads.cmp(&b.process.threads),
        };
        by.reverse().then(a.process.pid.cmp(&b.process.pid))
    }
}

/// In which shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Text,
    Json,
    Html,
}

impl Shape {
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; charset=utf-8",
            Self::Json => "application/json",
            Self::Html => "text/html; charset=utf-8",
        }
    }
}

/// The first `top` of `table`. `now` is in seconds since 1970.
pub fn write(table: &Table, top: usize, sort: Sort, shape: Shape, now: f64) -> String {
    let mut rows: Vec<&Row> = table.rows.iter().collect();
    rows.sort_by(|a, b| sort.compare(a, b));
    rows.truncate(top);
    match shape {
        Shape::Text => text(table, &rows, now),
        Shape::Json => document(table, &rows, sort).to_string(),
        Shape::Html => page(table, &rows, sort, now),
    }
}

fn document(table: &Table, rows: &[&Row], sort: Sort) -> Value {
    let machine = &table.machine;
    let processes: Vec<Value> = rows
        .iter()
        .map(|Row { process, cpu }| {
            let mut row = json!({
                "pid": process.pid, "name": process.name, "cpu": cpu, "cpu_seconds": process.cpu_seconds,
                "resident_bytes": process.resident, "virtual_bytes": process.virtual_bytes, "fds": process.descriptors,
                "threads": process.threads, "started": process.started,
            });
            if let (Some(command), Some(row)) = (&process.command, row.as_object_mut()) {
                row.insert("command".to_owned(), command.as_str().into());
            }
            row
        })
        .collect();
    json!({
        "sort": sort.word(),
        "machine": { "cpus": machine.cpus, "load": machine.load, "memory_bytes": machine.memory, "memory_available_bytes": machine.memory_available },
        "total": { "processes": table.processes, "threads": table.threads, "resident_bytes": table.resident },
        "processes": processes,
    })
}

fn text(table: &Table, rows: &[&Row], now: f64) -> String {
    let mut out = summary(table).join("   ");
    let _ = write!(
        out,
        "\n\n{:>8}  {:<16} {:>7} {:>10} {:>10} {:>6} {:>7} {:>8}",
        "PID", "NAME", "CPU %", "RESIDENT", "VIRTUAL", "FDS", "THREADS", "AGE"
    );
    for Row { process, cpu } in rows {
        let name: String = process.name.chars().map(|char| if char.is_control() { '?' } else { char }).collect();
        let fds = process.descriptors.map_or_else(|| "-".to_owned(), |count| count.to_string());
        let _ = write!(
            out,
            "\n{:>8}  {:<16} {:>7.1} {:>10} {:>10} {:>6} {:>7} {:>8}",
            process.pid,
            name,
            cpu * 100.0,
            bytes(process.resident),
            bytes(process.virtual_bytes),
            fds,
            process.threads,
            age(now - process.started)
        );
        if let Some(command) = &process.command {
            out.push_str("  ");
            out.extend(command.chars().map(|char| if char.is_control() { '?' } else { char }));
        }
    }
    out.push('\n');
    out
}

/// The machine in a few words.
fn summary(table: &Table) -> Vec<String> {
    let machine = &table.machine;
    let mut said = vec![format!("{} processes, {} threads", table.processes, table.threads), format!("{} CPUs", machine.cpus)];
    if let Some([one, five, fifteen]) = machine.load {
        said.push(format!("load {one:.2} {five:.2} {fifteen:.2}"));
    }
    if let (Some(all), Some(available)) = (machine.memory, machine.memory_available) {
        said.push(format!("memory {} of {} used", bytes(all.saturating_sub(available)), bytes(all)));
    }
    said
}

fn bytes(count: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if count >= 1 << shift {
            return format!("{:.1} {unit}", count as f64 / (1_u64 << shift) as f64);
        }
    }
    format!("{count} B")
}

fn age(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}

const STYLE: &str = "\
:root{color-scheme:light dark;--paper:#fbfbf9;--ink:#1d2126;--soft:#69727d;--line:#e3e5e2;--bar:#c9dff2;--mark:#0b62a8}\
@media(prefers-color-scheme:dark){:root{--paper:#14171a;--ink:#e4e7ea;--soft:#929ba5;--line:#2a2f34;--bar:#1f4264;--mark:#79b8ef}}\
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.45 system-ui,sans-serif}\
main{max-width:68rem;margin:0 auto;padding:2rem 1.25rem 3rem}h1{font-size:1.35rem;margin:0 0 .35rem}\
p{margin:0 0 1.4rem;color:var(--soft)}p span{white-space:nowrap;margin-right:1.3rem}\
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}\
th,td{padding:.42rem .7rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}\
th{font-weight:500;color:var(--soft);font-size:.86rem}th a{color:inherit;text-decoration:none}th a:hover{text-decoration:underline}\
th a[aria-current]{color:var(--mark);font-weight:650}th a[aria-current]::after{content:\" \\2193\"}\
.text{text-align:left}td.name{font-weight:550}td.soft{color:var(--soft)}tr:hover td{background:color-mix(in srgb,var(--bar) 22%,transparent)}\
td.command{width:100%;min-width:12rem;max-width:0;overflow:hidden;text-overflow:ellipsis;font:13px ui-monospace,monospace;color:var(--soft)}\
.bar{display:inline-block;min-width:7.5rem;padding:.05rem .4rem;border-radius:3px;\
background:linear-gradient(to left,var(--bar) var(--full),transparent var(--full))}";

fn page(table: &Table, rows: &[&Row], sort: Sort, now: f64) -> String {
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <meta http-equiv=\"refresh\" content=\"5\"><title>topz</title><style>{STYLE}</style></head><body><main><h1>Processes</h1><p>"
    );
    for said in summary(table) {
        let _ = write!(out, "<span>{}</span> ", escaped(&said));
    }
    let head = |of: Sort, title: &str| {
        let current = if of == sort { " aria-current=\"true\"" } else { "" };
        format!("<th><a href=\"?sort={}\"{current}>{title}</a></th>", of.word())
    };
    let has_commands = rows.iter().any(|row| row.process.command.is_some());
    let _ = write!(
        out,
        "</p><div class=\"wide\"><table><thead><tr><th>PID</th><th class=\"text\">Name</th>{}{}<th>Virtual</th>{}{}<th>Age</th>{}</tr></thead><tbody>",
        head(Sort::Cpu, "CPU"),
        head(Sort::Memory, "Resident"),
        head(Sort::Descriptors, "Descriptors"),
        head(Sort::Threads, "Threads"),
        if has_commands { "<th class=\"text\">Command</th>" } else { "" },
    );
    let memory = table.machine.memory.unwrap_or(table.resident).max(1) as f64;
    let cpus = table.machine.cpus.max(1) as f64;
    for Row { process, cpu } in rows {
        let full = |share: f64| (share * 100.0).clamp(0.0, 100.0);
        let fds = process.descriptors.map_or_else(|| "–".to_owned(), |count| count.to_string());
        let _ = write!(
            out,
            "<tr><td class=\"soft\">{}</td><td class=\"text name\">{}</td><td><span class=\"bar\" style=\"--full:{:.1}%\">{:.1} %</span></td>\
             <td><span class=\"bar\" style=\"--full:{:.1}%\">{}</span></td><td class=\"soft\">{}</td><td>{fds}</td><td>{}</td><td class=\"soft\">{}</td>",
            process.pid,
            escaped(&process.name),
            full(cpu / cpus),
            cpu * 100.0,
            full(process.resident as f64 / memory),
            bytes(process.resident),
            bytes(process.virtual_bytes),
            process.threads,
            age(now - process.started),
        );
        if has_commands {
            let command = escaped(process.command.as_deref().unwrap_or_default());
            let _ = write!(out, "<td class=\"text command\" title=\"{command}\">{command}</td>");
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div></main></body></html>\n");
    out
}

/// Whoever runs a program chooses its name.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            char if char.is_control() => out.push('\u{fffd}'),
            char => out.push(char),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::{Machine, Process};
    use super::*;

    fn table(name: &str, command: Option<&str>) -> Table {
        let process = |pid, resident| Process {
            pid,
            birth: 1,
            name: name.to_owned(),
            cpu_seconds: 1.0,
            resident,
            virtual_bytes: 1 << 30,
            descriptors: None,
            threads: 1,
            started: 0.0,
            command: command.map(str::to_owned),
        };
        let rows = vec![Row { process: process(1, 2 << 20), cpu: 0.5 }, Row { process: process(2, 1 << 20), cpu: 1.5 }];
        Table { rows, machine: Machine { cpus: 2, ..Machine::default() }, processes: 2, threads: 2, resident: 3 << 20 }
    }

    #[test]
    fn nothing_that_a_process_is_called_is_html() {
        for shape in [Shape::Html, Shape::Text] {
            let page = write(&table("<script>\"'&\n", Some("a<b>\u{1b}[2J")), 10, Sort::Cpu, shape, 60.0);
            assert!(!page.contains('\u{1b}'), "{page}");
            assert!(shape == Shape::Text || (!page.contains("<script") && !page.contains("<b>")), "{page}");
        }
    }

    #[test]
    fn the_first_are_those_with_most_of_it() {
        let first = |sort: &str| {
            let document: Value = serde_json::from_str(&write(&table("a", None), 1, Sort::of(sort).unwrap(), Shape::Json, 0.0)).unwrap();
            assert_eq!(document["processes"].as_array().unwrap().len(), 1);
            document["processes"][0]["pid"].as_i64().unwrap()
        };
        assert_eq!((first("cpu"), first("memory"), first("fds")), (2, 1, 1));
        assert_eq!(Sort::of("name"), None);
    }
}
