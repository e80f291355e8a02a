//! What SQL servers say of themselves as metrics, and what becomes of the rows of any query.
//!
//! `MySQL` and `MariaDB` under the names of `mysqld_exporter`, `PostgreSQL` under those of `postgres_exporter`. Asks nothing.

use super::page::{About, Page};
use super::settings::Query;
use crate::proto::exposition::Kind;

type Labels = [(String, String)];

/// Rows, each with its columns by name; `None` is NULL.
pub type Rows = Vec<Row>;
pub type Row = Vec<(String, Option<String>)>;

/// Rows as they come, no more than there may be: a query that was to be of a few may turn out to be of a whole table.
pub struct Gathering {
    pub rows: Rows,
    most: usize,
    bytes: usize,
}

/// Of a server's own table, whose series are bounded one by one.
pub const OWN_ROWS_MAX: usize = 100_000;
/// Of all rows of one query, with what each column takes beside its text: of a table of NULLs that is all there is.
const BYTES_MAX: usize = 32 << 20;

impl Gathering {
    pub fn of(most: usize) -> Self {
        Self { rows: Vec::new(), most, bytes: 0 }
    }

    /// # Errors
    ///
    /// When there are too many, or they are too long.
    pub fn push(&mut self, row: Row) -> Result<(), String> {
        self.bytes +=
            row.iter().map(|column| size_of_val(column) + column.0.len() + column.1.as_ref().map_or(0, String::len)).sum::<usize>();
        if self.rows.len() >= self.most {
            return Err(format!("it has more than {} rows", self.most));
        }
        if self.bytes > BYTES_MAX {
            return Err(format!("its rows have more than {} MiB", BYTES_MAX >> 20));
        }
        self.rows.push(row);
        Ok(())
    }
}

/// What `MySQL` is asked beside the queries that are written.
pub const MYSQL: [&str; 2] = ["SHOW GLOBAL STATUS", "SHOW GLOBAL VARIABLES"];
/// And who is a replica: of newer servers, and of older ones.
pub const MYSQL_REPLICA: [&str; 2] = ["SHOW REPLICA STATUS", "SHOW SLAVE STATUS"];

/// A table with a name in front of those of its columns: those in `labels` are labels, others that have numbers are values.
pub struct Table {
    pub name: &'static str,
    pub sql: &'static str,
    labels: &'static [&'static str],
    counters: bool,
}

/// And these, where there are such tables.
pub const MYSQL_TABLES: [Table; 2] = [
    Table {
        name: "mysql_info_schema_innodb_cmp",
        sql: "SELECT page_size, compress_ops AS compress_ops_total, compress_ops_ok AS compress_ops_ok_total, \
              compress_time AS compress_time_seconds_total, uncompress_ops AS uncompress_ops_total, \
              uncompress_time AS uncompress_time_seconds_total FROM information_schema.innodb_cmp",
        labels: &["page_size"],
        counters: true,
    },
    Table {
        name: "mysql_info_schema_innodb_cmpmem",
        sql: "SELECT buffer_pool_instance AS buffer_pool, page_size, pages_used AS pages_used_total, pages_free AS pages_free_total, \
              relocation_ops AS relocation_ops_total, relocation_time / 1000 AS relocation_time_seconds_total \
              FROM information_schema.innodb_cmpmem",
        labels: &["page_size", "buffer_pool"],
        counters: true,
    },
];

/// What `PostgreSQL` is asked beside the queries that are written.
pub const POSTGRES: [Table; 7] = [
    Table { name: "pg_stat_database", sql: "SELECT * FROM pg_stat_database", labels: &["datid", "datname"], counters: true },
    Table {
        name: "pg_stat_activity",
        sql: "SELECT datname, state, count(*) AS count FROM pg_stat_activity WHERE datname IS NOT NULL AND state IS NOT NULL GROUP BY 1, 2",
        labels: &["datname", "state"],
        counters: false,
    },
    Table {
        name: "pg_database",
        sql: "SELECT datname, pg_database_size(oid) AS size_bytes FROM pg_database \
              WHERE datallowconn AND has_database_privilege(oid, 'CONNECT')",
        labels: &["datname"],
        counters: false,
    },
    Table {
        name: "pg_locks",
        sql: "SELECT d.datname, lower(l.mode) AS mode, count(*) AS count FROM pg_locks l JOIN pg_database d ON d.oid = l.database GROUP BY 1, 2",
        labels: &["datname", "mode"],
        counters: false,
    },
    Table { name: "pg_stat_bgwriter", sql: "SELECT * FROM pg_stat_bgwriter", labels: &[], counters: true },
    Table {
        name: "pg_replication",
        sql: "SELECT CASE WHEN NOT pg_is_in_recovery() OR (pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() \
              AND EXISTS (SELECT 1 FROM pg_stat_wal_receiver)) THEN 0 \
              ELSE greatest(0, extract(epoch FROM now() - pg_last_xact_replay_timestamp())) END AS lag_seconds, \
              CASE WHEN pg_is_in_recovery() THEN 1 ELSE 0 END AS is_replica",
        labels: &[],
        counters: false,
    },
    Table {
        name: "pg_settings",
        sql: "SELECT * FROM (VALUES ('max_connections', current_setting('max_connections')), \
              ('superuser_reserved_connections', current_setting('superuser_reserved_connections'))) AS s (name, setting)",
        labels: &["name"],
        counters: false,
    },
];

impl Table {
    /// Of a table of the server's own.
    pub fn read(&self, rows: &Rows, ours: &Labels, page: &mut Page) {
        // Settings are a metric each.
        if self.name == "pg_settings" {
            for row in rows {
                if let (Some(name), Some(value)) = (column(row, "name"), column(row, "setting").and_then(number)) {
                    page.add(About::gauge(&format!("pg_settings_{name}"), "A setting of the server."), ours, value);
                }
            }
            return;
        }
        let kind = if self.counters { Kind::Counter } else { Kind::Gauge };
        add_rows(self.name, &|name| self.labels.contains(&name), kind, "", rows, ours, page);
    }
}

/// Rows of a query that somebody wrote: columns in `labels` are labels, others values.
pub fn query(query: &Query, rows: &Rows, ours: &Labels, page: &mut Page) {
    let is_label = |name: &str| query.labels.iter().any(|label| label == name);
    add_rows(&query.name.0, &is_label, query.r#type.kind(), &query.help, rows, ours, page);
}

fn add_rows(name: &str, is_label: &dyn Fn(&str) -> bool, kind: Kind, help: &str, rows: &Rows, ours: &Labels, page: &mut Page) {
    for row in rows {
        let labels = row.iter().filter(|(column, _)| is_label(column));
        let mut labels: Vec<(String, String)> = labels.map(|(column, value)| (column.clone(), value.clone().unwrap_or_default())).collect();
        labels.extend_from_slice(ours);
        for (column, value) in row.iter().filter(|(column, _)| !is_label(column)) {
            if let Some(value) = value.as_deref().and_then(number) {
                let name = if column == "value" { name.to_owned() } else { format!("{name}_{column}") };
                page.add(About { name: &name, kind, help }, &labels, value);
            }
        }
    }
}

fn column<'r>(row: &'r [(String, Option<String>)], name: &str) -> Option<&'r str> {
    row.iter().find(|(column, _)| column.eq_ignore_ascii_case(name))?.1.as_deref()
}

/// A number, or a word that stands for one.
fn number(text: &str) -> Option<f64> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "on" | "true" | "t" | "primary" => Some(1.0),
        "no" | "off" | "false" | "f" | "disabled" | "connecting" | "non-primary" | "disconnected" => Some(0.0),
        _ => text.trim().parse().ok(),
    }
}

/// Pairs of a `SHOW`.
fn pairs(rows: &Rows) -> impl Iterator<Item = (String, &str)> {
    rows.iter().filter_map(|row| match row.as_slice() {
        [(_, Some(name)), (_, Some(value)), ..] => Some((name.to_ascii_lowercase(), value.as_str())),
        _ => None,
    })
}

/// The answers to [`MYSQL`], and what a replica says of itself.
pub fn mysql(status: &Rows, variables: &Rows, replica: &Rows, ours: &Labels, page: &mut Page) {
    for (name, value) in pairs(status) {
        if let Some(value) = number(value) {
            read_status(&name, value, ours, page);
        }
    }
    let with = |more: &[(&str, &str)]| -> Vec<(String, String)> {
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        more.chain(ours.iter().cloned()).collect()
    };
    let variable = |wanted: &str| pairs(variables).find(|(name, _)| name == wanted).map_or("", |(_, value)| value);
    let version = ["innodb_version", "version", "version_comment"].map(|name| (name, variable(name)));
    page.add(About::gauge("mysql_version_info", "MySQL version and distribution."), &with(&version), 1.0);
    let level = [variable("transaction_isolation"), variable("tx_isolation")].into_iter().find(|level| !level.is_empty());
    if let Some(level) = level {
        page.add(About::gauge("mysql_transaction_isolation", "MySQL transaction isolation."), &with(&[("level", level)]), 1.0);
    }
    for (name, value) in pairs(variables) {
        if let Some(value) = number(value) {
            let name = format!("mysql_global_variables_{name}");
            page.add(About::gauge(&name, "Generic gauge metric from SHOW GLOBAL VARIABLES."), ours, value);
        }
    }
    for row in replica {
        let of = |names: [&str; 2]| names.iter().find_map(|name| column(row, name)).unwrap_or_default();
        let labels = with(&[
            ("channel_name", of(["channel_name", "channel_name"])),
            ("connection_name", of(["connection_name", "connection_name"])),
            ("master_host", of(["master_host", "source_host"])),
            ("master_uuid", of(["master_uuid", "source_uuid"])),
        ]);
        for (column, value) in row {
            if let Some(value) = value.as_deref().and_then(number) {
                // Under the names that the same columns had before they were renamed.
                let column = column.to_ascii_lowercase().replace("source", "master").replace("replica_", "slave_");
                let name = format!("mysql_slave_status_{column}");
                page.add(About { name: &name, kind: Kind::Untyped, help: "Generic metric from SHOW SLAVE STATUS." }, &labels, value);
            }
        }
    }
}

/// Families of status variables: what they begin with, the metric, its label.
const STATUS: [(&str, &str, &str, &str); 5] = [
    ("com_", "commands_total", "command", "Total number of executed MySQL commands."),
    ("handler_", "handlers_total", "handler", "Total number of executed MySQL handlers."),
    ("connection_errors_", "connection_errors_total", "error", "Total number of MySQL connection errors."),
    ("innodb_rows_", "innodb_row_ops_total", "operation", "Total number of MySQL InnoDB row operations."),
    (
        "performance_schema_",
        "performance_schema_lost_total",
        "instrumentation",
        "Total number of MySQL instrumentations that could not be loaded or created due to memory constraints.",
    ),
];

fn read_status(name: &str, value: f64, ours: &Labels, page: &mut Page) {
    let labelled = |label: &str, of: &str| -> Vec<(String, String)> {
        std::iter::once((label.to_owned(), of.to_owned())).chain(ours.iter().cloned()).collect()
    };
    for (prefix, metric, label, help) in STATUS {
        if let Some(of) = name.strip_prefix(prefix) {
            page.add(About::counter(&format!("mysql_global_status_{metric}"), help), &labelled(label, of), value);
            return;
        }
    }
    match name.strip_prefix("innodb_buffer_pool_pages_") {
        Some("total") => {}
        Some("dirty") => {
            page.add(About::gauge("mysql_global_status_buffer_pool_dirty_pages", "InnoDB buffer pool dirty pages."), ours, value);
        }
        Some(state @ ("data" | "free" | "misc" | "old")) => {
            page.add(
                About::gauge("mysql_global_status_buffer_pool_pages", "InnoDB buffer pool pages by state."),
                &labelled("state", state),
                value,
            );
        }
        Some(operation) => {
            let about = About::counter("mysql_global_status_buffer_pool_page_changes_total", "InnoDB buffer pool page state changes.");
            page.add(about, &labelled("operation", operation), value);
        }
        None => {
            let about = About {
                name: &format!("mysql_global_status_{name}"),
                kind: Kind::Untyped,
                help: "Generic metric from SHOW GLOBAL STATUS.",
            };
            page.add(about, ours, value);
        }
    }
}
