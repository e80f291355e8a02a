//! What a report says to whom: everything in JSON, readiness in a word, the role of a server by its status.
//!
//! Writes no HTTP: the status, the fields and the body are `serve`'s to send.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Check, Facts, Health, Role, Standing};
use crate::route::Head;
use crate::services::Report;
use crate::value::parse_duration;

/// How the whole stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Overall {
    All(Standing),
    /// Something fails that may.
    Degraded,
}

impl Overall {
    fn word(self) -> &'static str {
        match self {
            Self::All(standing) => standing.word(),
            Self::Degraded => "degraded",
        }
    }

    fn status(self) -> u16 {
        if matches!(self, Self::All(Standing::Ok) | Self::Degraded) { 200 } else { 503 }
    }
}

impl Health {
    /// What is said to a request. The end of the path says what is wanted; anything else is told all.
    pub fn report(&self, head: &Head<'_>, now: Instant) -> Report {
        if !matches!(head.method, b"GET" | b"HEAD") {
            return Report::of_method();
        }
        let path = String::from_utf8_lossy(head.path);
        let mut segments = path.trim_end_matches('/').rsplit('/');
        let (last, before) = (segments.next().unwrap_or_default(), segments.next().unwrap_or_default());
        // First, since a check may be called as another end of a path is.
        if let ("checks", Some(check)) = (before, self.check(last)) {
            let status = if check.standing(now) == Standing::Ok { 200 } else { 503 };
            return self.json(now, status, &check.view(now));
        }
        match (last, before) {
            ("live", _) => self.text(now, 200, "ok\n".to_owned()),
            ("ready", _) => self.ready(now),
            ("primary", "role") => self.role(Role::Primary, head, now),
            ("replica", "role") => self.role(Role::Replica, head, now),
            (_, "checks") => self.text(now, 404, "no such check\n".to_owned()),
            _ => self.json(now, self.overall(now).status(), &self.view(now)),
        }
    }

    fn overall(&self, now: Instant) -> Overall {
        let standings: Vec<(bool, Standing)> = self.checks.iter().map(|check| (check.settings.critical, check.standing(now))).collect();
        // The worst of those that count.
        for bad in [Standing::Failing, Standing::Stale, Standing::Starting] {
            if standings.contains(&(true, bad)) {
                return Overall::All(bad);
            }
        }
        if standings.iter().all(|(_, standing)| *standing == Standing::Ok) { Overall::All(Standing::Ok) } else { Overall::Degraded }
    }

    /// Everything.
    pub fn view(&self, now: Instant) -> Value {
        let checks: Map<String, Value> = self.checks.iter().map(|check| (check.name.clone(), check.view(now))).collect();
        json!({ "status": self.overall(now).word(), "checks": checks })
    }

    fn ready(&self, now: Instant) -> Report {
        let overall = self.overall(now);
        let mut text = format!("{}\n", overall.word());
        for check in &self.checks {
            let standing = check.standing(now);
            if standing != Standing::Ok {
                let why = check.why(standing).map_or_else(String::new, |why| format!(": {why}"));
                text.push_str(&check.name);
                text.push(' ');
                text.push_str(standing.word());
                text.push_str(&why);
                text.push('\n');
            }
        }
        self.text(now, overall.status(), text)
    }

    /// 200 if a server that is well has this role, and is near enough.
    fn role(&self, wanted: Role, head: &Head<'_>, now: Instant) -> Report {
        let written = head.query_values(b"max_lag").next();
        let max_lag = written.map(|text| parse_duration(&String::from_utf8_lossy(text)));
        if max_lag == Some(None) {
            return self.text(now, 400, "max_lag is a duration such as 5s\n".to_owned());
        }
        let max_lag = max_lag.flatten();
        let mut knows = self.checks.iter().filter(|check| check.settings.question.tells_role()).peekable();
        if knows.peek().is_none() {
            return self.text(now, 404, "no check tells a role\n".to_owned());
        }
        let has = knows.any(|check| {
            let facts = check.state().facts.clone();
            let is_near = max_lag.is_none_or(|most| wanted == Role::Primary || facts.lag.is_some_and(|lag| lag <= most));
            check.standing(now) == Standing::Ok && facts.role == Some(wanted) && is_near
        });
        let (status, word) = if has { (200, "ok") } else { (503, "no") };
        self.text(now, status, format!("{word}\n"))
    }

    fn text(&self, now: Instant, status: u16, text: String) -> Report {
        self.answer(now, status, "text/plain; charset=utf-8", text.into_bytes())
    }

    fn json(&self, now: Instant, status: u16, value: &Value) -> Report {
        self.answer(now, status, "application/json", format!("{value}\n").into_bytes())
    }

    fn answer(&self, now: Instant, status: u16, kind: &str, body: Vec<u8>) -> Report {
        let fields = vec![
            ("Content-Type", kind.to_owned()),
            ("Cache-Control", "no-store".to_owned()),
            ("X-Attache-Health", self.overall(now).word().to_owned()),
        ];
        Report { status, fields, body }
    }
}

impl Check {
    fn why(&self, standing: Standing) -> Option<String> {
        let state = self.state();
        match (standing, &state.health.last) {
            (Standing::Failing, Some(last)) => last.result.as_ref().err().map(ToString::to_string),
            _ => None,
        }
    }

    /// Durations in milliseconds, but for `lag_s`.
    fn view(&self, now: Instant) -> Value {
        let state = self.state();
        let milliseconds = |duration: Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
        let Facts { role, lag, detail } = &state.facts;
        let last = state.health.last.as_ref();
        let mut view = json!({
            "status": state.standing(self, now).word(),
            "kind": self.settings.question.word(),
            "critical": self.settings.critical,
        });
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                view[name] = value;
            }
        };
        put("latency_ms", last.map(|_| milliseconds(state.took).into()));
        put("age_ms", last.map(|last| milliseconds(now.saturating_duration_since(last.at)).into()));
        put("since", state.since.and_then(|since| Timestamp::try_from(since).ok()).map(|since| format!("{since:.3}").into()));
        put("reason", last.and_then(|last| last.result.as_ref().err()).map(|reason| reason.as_str().into()));
        put("role", role.map(|role| role.word().into()));
        put("lag_s", lag.map(|lag| lag.as_secs_f64().into()));
        put("detail", detail.as_ref().map(|detail| detail.as_str().into()));
        view
    }
}
