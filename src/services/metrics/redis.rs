//! What a Redis says of itself as metrics, under the names that `redis_exporter` 1.x gives them.
//!
//! Asks nothing: `upkeep::collect` does.

use std::collections::HashMap;
use std::time::Duration;

use super::page::{About, Page};
use crate::proto::exposition::Kind;
use crate::proto::resp::Reply;

/// What is asked, all at once.
pub const COMMANDS: [&[&str]; 5] =
    [&["INFO", "ALL"], &["CONFIG", "GET", "*"], &["SLOWLOG", "LEN"], &["SLOWLOG", "GET", "1"], &["LATENCY", "LATEST"]];

/// Fields of INFO with the names that they have as gauges, where those are others.
const GAUGES: &[(&str, &str)] = &[
    ("client_recent_max_output_buffer", "client_recent_max_output_buffer_bytes"),
    ("client_recent_max_input_buffer", "client_recent_max_input_buffer_bytes"),
    ("allocator_active", "allocator_active_bytes"),
    ("allocator_allocated", "allocator_allocated_bytes"),
    ("allocator_resident", "allocator_resident_bytes"),
    ("used_memory", "memory_used_bytes"),
    ("used_memory_rss", "memory_used_rss_bytes"),
    ("used_memory_peak", "memory_used_peak_bytes"),
    ("used_memory_lua", "memory_used_lua_bytes"),
    ("used_memory_vm_eval", "memory_used_vm_eval_bytes"),
    ("used_memory_scripts_eval", "memory_used_scripts_eval_bytes"),
    ("used_memory_overhead", "memory_used_overhead_bytes"),
    ("used_memory_startup", "memory_used_startup_bytes"),
    ("used_memory_dataset", "memory_used_dataset_bytes"),
    ("used_memory_vm_functions", "memory_used_vm_functions_bytes"),
    ("used_memory_scripts", "memory_used_scripts_bytes"),
    ("used_memory_functions", "memory_used_functions_bytes"),
    ("used_memory_vm_total", "memory_used_vm_total"),
    ("maxmemory", "memory_max_bytes"),
    ("total_system_memory", "total_system_memory_bytes"),
    ("maxclients", "max_clients"),
    ("expired_stale_perc", "expired_stale_percentage"),
    ("mem_not_counted_for_evict", "mem_not_counted_for_eviction_bytes"),
    ("migrate_cached_sockets", "migrate_cached_sockets_total"),
    ("active_defrag_hits", "defrag_hits"),
    ("active_defrag_misses", "defrag_misses"),
    ("active_defrag_key_hits", "defrag_key_hits"),
    ("active_defrag_key_misses", "defrag_key_misses"),
    ("expired_time_cap_reached_count", "expired_time_cap_reached_total"),
    ("loading", "loading_dump_file"),
    ("rdb_last_save_time", "rdb_last_save_timestamp_seconds"),
    ("rdb_last_bgsave_time_sec", "rdb_last_bgsave_duration_sec"),
    ("rdb_current_bgsave_time_sec", "rdb_current_bgsave_duration_sec"),
    ("rdb_last_cow_size", "rdb_last_cow_size_bytes"),
    ("aof_last_rewrite_time_sec", "aof_last_rewrite_duration_sec"),
    ("aof_current_rewrite_time_sec", "aof_current_rewrite_duration_sec"),
    ("aof_last_cow_size", "aof_last_cow_size_bytes"),
    ("aof_current_size", "aof_current_size_bytes"),
    ("aof_base_size", "aof_base_size_bytes"),
    ("repl_backlog_size", "replication_backlog_bytes"),
    ("repl_backlog_active", "repl_backlog_is_active"),
    ("repl_backlog_histlen", "repl_backlog_history_bytes"),
    ("sync_full", "replica_resyncs_full"),
    ("sync_partial_ok", "replica_partial_resync_accepted"),
    ("sync_partial_err", "replica_partial_resync_denied"),
];

const COUNTERS: &[(&str, &str)] = &[
    ("total_connections_received", "connections_received_total"),
    ("total_commands_processed", "commands_processed_total"),
    ("rejected_connections", "rejected_connections_total"),
    ("total_net_input_bytes", "net_input_bytes_total"),
    ("total_net_output_bytes", "net_output_bytes_total"),
    ("total_net_repl_input_bytes", "net_repl_input_bytes_total"),
    ("total_net_repl_output_bytes", "net_repl_output_bytes_total"),
    ("expired_keys", "expired_keys_total"),
    ("evicted_keys", "evicted_keys_total"),
    ("evicted_clients", "evicted_clients_total"),
    ("keyspace_hits", "keyspace_hits_total"),
    ("keyspace_misses", "keyspace_misses_total"),
    ("used_cpu_sys", "cpu_sys_seconds_total"),
    ("used_cpu_user", "cpu_user_seconds_total"),
    ("used_cpu_sys_children", "cpu_sys_children_seconds_total"),
    ("used_cpu_user_children", "cpu_user_children_seconds_total"),
    ("used_cpu_sys_main_thread", "cpu_sys_main_thread_seconds_total"),
    ("used_cpu_user_main_thread", "cpu_user_main_thread_seconds_total"),
];

/// Numbers that are none, or that change without meaning anything.
const LEFT_OUT: &[&str] = &[
    "redis_git_sha1",
    "redis_git_dirty",
    "arch_bits",
    "hz",
    "configured_hz",
    "lru_clock",
    "uptime_in_days",
    "server_time_usec",
    "tcp_port",
    "latest_fork_usec",
    "master_port",
    "redis_build_id",
];

const INSTANCE: [(&str, &str); 9] = [
    ("role", "role"),
    ("redis_version", "redis_version"),
    ("redis_build_id", "redis_build_id"),
    ("redis_mode", "redis_mode"),
    ("os", "os"),
    ("maxmemory_policy", "maxmemory_policy"),
    ("tcp_port", "tcp_port"),
    ("run_id", "run_id"),
    ("process_id", "process_id"),
];

type Labels<'a> = [(&'a str, &'a str)];

/// Writes `redis_` in front of every name.
struct Writer<'p> {
    page: &'p mut Page,
    labels: &'p [(String, String)],
}

impl Writer<'_> {
    fn put(&mut self, kind: Kind, name: &str, labels: &Labels<'_>, value: f64, help: &str) {
        self.part(kind, name, "", labels, value, help);
    }

    fn part(&mut self, kind: Kind, name: &str, suffix: &str, labels: &Labels<'_>, value: f64, help: &str) {
        let name = format!("redis_{name}");
        let own = self.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let labels: Vec<(&str, &str)> = labels.iter().copied().chain(own).collect();
        self.page.add_part(About { name: &name, kind, help }, suffix, &labels, value);
    }

    fn gauge(&mut self, name: &str, labels: &Labels<'_>, value: f64, help: &str) {
        self.put(Kind::Gauge, name, labels, value, help);
    }

    fn counter(&mut self, name: &str, labels: &Labels<'_>, value: f64, help: &str) {
        self.put(Kind::Counter, name, labels, value, help);
    }
}

/// What the answers to [`COMMANDS`] say. A command that a server does not let everybody use says nothing.
///
/// # Errors
///
/// When there is no INFO.
pub fn read(replies: &[Reply], labels: &[(String, String)], page: &mut Page) -> Result<(), String> {
    let [info, config, slow_count, slowest, latency] = replies else { return Err("it did not answer every command".to_owned()) };
    let info = match info {
        Reply::Bulk(text) => String::from_utf8_lossy(text).into_owned(),
        Reply::Error(error) => return Err(format!("answered `{error}`")),
        _ => return Err("its answer to INFO is no text".to_owned()),
    };
    let info = Info::of(&info);
    let mut writer = Writer { page, labels };
    read_info(&info, &mut writer)?;
    let databases = read_config(config, &mut writer);
    read_keyspace(&info, databases, &mut writer)?;
    if let Reply::Integer(count) = slow_count {
        writer.gauge("slowlog_length", &[], *count as f64, "Total slowlog");
        read_slowest(slowest, &mut writer);
    }
    for event in latency.items() {
        if let [name, Reply::Integer(at), Reply::Integer(milliseconds), ..] = event.items() {
            let name = name.text().unwrap_or_default();
            writer.gauge("latency_spike_last", &[("event_name", &name)], *at as f64, "When the latency spike last occurred");
            writer.gauge(
                "latency_spike_duration_seconds",
                &[("event_name", &name)],
                *milliseconds as f64 / 1e3,
                "Length of the last latency spike in seconds",
            );
        }
    }
    Ok(())
}

/// What the exporter says of itself that alerts are made of.
pub(super) fn about_scrape(error: Option<&str>, took: Duration, labels: &[(String, String)], page: &mut Page) {
    let mut writer = Writer { page, labels };
    let err = error.unwrap_or_default();
    writer.gauge("exporter_last_scrape_error", &[("err", err)], f64::from(error.is_some()), "The last scrape error status.");
    writer.gauge("exporter_last_scrape_duration_seconds", &[], took.as_secs_f64(), "The last scrape duration");
}

/// Fields of INFO. Whoever answers may have a hundred thousand, and many of them are looked up for another one.
struct Info<'i> {
    fields: Vec<(&'i str, &'i str)>,
    /// The first of those with one name.
    by_name: HashMap<&'i str, &'i str>,
}

impl<'i> Info<'i> {
    fn of(text: &'i str) -> Self {
        let lines = text.lines().map(str::trim_end).filter(|line| !line.starts_with('#'));
        let fields: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(':')).collect();
        Self { by_name: fields.iter().rev().copied().collect(), fields }
    }

    fn value(&self, name: &str) -> Option<&'i str> {
        self.by_name.get(name).copied()
    }
}

fn read_info(info: &Info<'_>, writer: &mut Writer<'_>) -> Result<(), String> {
    let value = |wanted: &str| info.value(wanted);
    let instance: Vec<(&str, &str)> = INSTANCE.iter().map(|(name, field)| (*name, value(field).unwrap_or_default())).collect();
    writer.gauge("instance_info", &instance, 1.0, "Information about the Redis instance");
    if let (Some(now), Some(uptime)) = (value("server_time_usec").and_then(number), value("uptime_in_seconds").and_then(number)) {
        writer.gauge(
            "start_time_seconds",
            &[],
            (now / 1e6).floor() - uptime,
            "Start time of the Redis instance since unix epoch in seconds.",
        );
    }
    if let Some(microseconds) = value("latest_fork_usec").and_then(number) {
        writer.gauge("latest_fork_seconds", &[], microseconds / 1e6, "latest_fork_seconds metric");
    }
    let master = [("master_host", value("master_host").unwrap_or_default()), ("master_port", value("master_port").unwrap_or_default())];
    for (name, text) in info.fields.iter().copied() {
        writer.page.in_time()?;
        if let Some(command) = name.strip_prefix("cmdstat_") {
            read_command(command, text, writer);
        } else if let Some(error) = name.strip_prefix("errorstat_") {
            if let Some(count) = part(text, "count") {
                writer.counter("errors_total", &[("err", error)], count, "Total number of errors per error type");
            }
        } else if let Some(command) = name.strip_prefix("latency_percentiles_usec_") {
            read_percentiles(command, text, info, writer);
        } else if is_replica(name) {
            read_replica(text, writer);
        } else if matches!(name, "master_last_io_seconds_ago" | "slave_repl_offset" | "master_sync_in_progress") {
            if let Some(number) = number(text) {
                writer.gauge(name, &master, number, &format!("{name} metric"));
            }
        } else if name == "master_link_status" {
            writer.gauge("master_link_up", &master, f64::from(text == "up"), "Master link status on Redis slave");
        } else if let Some(number) = status(name, text).or_else(|| number(text)).filter(|_| !LEFT_OUT.contains(&name) && !is_database(name))
        {
            let known = |names: &[(&str, &'static str)]| names.iter().find(|(field, _)| *field == name).map(|(_, known)| *known);
            if let Some(name) = known(COUNTERS) {
                writer.counter(name, &[], number, &format!("{name} metric"));
            } else {
                let name = known(GAUGES).unwrap_or(name);
                writer.gauge(name, &[], number, &format!("{name} metric"));
            }
        }
    }
    Ok(())
}

fn number(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|number| number.is_finite())
}

/// Fields that say `ok`.
fn status(name: &str, text: &str) -> Option<f64> {
    (name.ends_with("_status") && name != "master_link_status").then(|| f64::from(text == "ok"))
}

/// Of `keys=3,expires=1`.
fn part(text: &str, name: &str) -> Option<f64> {
    text_part(text, name).and_then(number)
}

fn text_part<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.split(',').filter_map(|part| part.split_once('=')).find(|(part, _)| *part == name).map(|(_, value)| value)
}

fn read_command(command: &str, text: &str, writer: &mut Writer<'_>) {
    let labels = [("cmd", command)];
    let mut put = |name: &str, field: &str, unit: f64, help: &str| {
        if let Some(value) = part(text, field) {
            writer.counter(name, &labels, value / unit, help);
        }
    };
    put("commands_total", "calls", 1.0, "Total number of calls per command");
    put("commands_duration_seconds_total", "usec", 1e6, "Total amount of time in seconds spent per command");
    put("commands_rejected_calls_total", "rejected_calls", 1.0, "Total number of errors within command execution per command");
    put("commands_failed_calls_total", "failed_calls", 1.0, "Total number of errors prior command execution per command");
}

fn read_percentiles(command: &str, text: &str, info: &Info<'_>, writer: &mut Writer<'_>) {
    const NAME: &str = "latency_percentiles_usec";
    const HELP: &str = "A summary of latency percentile distribution per command";
    for (quantile, microseconds) in text.split(',').filter_map(|part| part.split_once('=')) {
        if let (Some(quantile), Some(microseconds)) = (quantile.strip_prefix('p'), number(microseconds)) {
            writer.put(Kind::Summary, NAME, &[("cmd", command), ("quantile", quantile)], microseconds, HELP);
        }
    }
    if let Some(calls) = info.value(&format!("cmdstat_{command}")) {
        for (suffix, field) in [("_sum", "usec"), ("_count", "calls")] {
            if let Some(value) = part(calls, field) {
                writer.part(Kind::Summary, NAME, suffix, &[("cmd", command)], value, HELP);
            }
        }
    }
}

/// `slave0`.
fn is_replica(name: &str) -> bool {
    name.strip_prefix("slave").is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_database(name: &str) -> bool {
    name.strip_prefix("db").is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

fn read_replica(text: &str, writer: &mut Writer<'_>) {
    let of = |name: &str| text_part(text, name).unwrap_or_default();
    let labels = [("slave_ip", of("ip")), ("slave_port", of("port")), ("slave_state", of("state"))];
    if let Some(offset) = part(text, "offset") {
        writer.gauge("connected_slave_offset_bytes", &labels, offset, "Offset of connected slave");
    }
    if let Some(lag) = part(text, "lag") {
        writer.gauge("connected_slave_lag_seconds", &labels, lag, "Lag of connected slave");
    }
}

/// Those of the settings that are limits; and how many databases there are.
fn read_config(config: &Reply, writer: &mut Writer<'_>) -> u32 {
    let mut databases = 0;
    for pair in config.items().chunks_exact(2) {
        let (Some(name), Some(value)) = (pair[0].text(), pair[1].text()) else { continue };
        match (name.as_str(), number(&value)) {
            ("databases", Some(count)) => databases = count.clamp(0.0, 1024.0) as u32,
            ("maxmemory" | "maxclients" | "io-threads", Some(value)) => {
                let name = format!("config_{}", name.replace('-', "_"));
                writer.gauge(&name, &[], value, &format!("{name} metric"));
            }
            _ => {}
        }
    }
    databases
}

/// Databases that are empty are not in INFO, and their series must not come and go.
fn read_keyspace(info: &Info<'_>, databases: u32, writer: &mut Writer<'_>) -> Result<(), String> {
    let mut names: Vec<String> = (0..databases).map(|number| format!("db{number}")).collect();
    names.extend(info.fields.iter().map(|(name, _)| *name).filter(|name| is_database(name)).map(str::to_owned));
    names.sort_unstable();
    names.dedup();
    for name in &names {
        writer.page.in_time()?;
        let text = info.value(name).unwrap_or_default();
        let labels = [("db", name.as_str())];
        writer.gauge("db_keys", &labels, part(text, "keys").unwrap_or(0.0), "Total number of keys by DB");
        writer.gauge("db_keys_expiring", &labels, part(text, "expires").unwrap_or(0.0), "Total number of expiring keys by DB");
        if let Some(milliseconds) = part(text, "avg_ttl") {
            writer.gauge("db_avg_ttl_seconds", &labels, milliseconds / 1e3, "Avg TTL in seconds");
        }
    }
    Ok(())
}

fn read_slowest(slowest: &Reply, writer: &mut Writer<'_>) {
    let (id, microseconds) = match slowest.items().first().map(Reply::items) {
        Some([Reply::Integer(id), _, Reply::Integer(microseconds), ..]) => (*id, *microseconds),
        _ => (0, 0),
    };
    writer.gauge("slowlog_last_id", &[], id as f64, "Last id of slowlog");
    writer.gauge(
        "last_slow_execution_duration_seconds",
        &[],
        microseconds as f64 / 1e6,
        "The amount of time needed for last slow execution, in seconds",
    );
}
