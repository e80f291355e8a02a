//! What operators see and ask: the admin API.
//!
//! Runs on a thread of its own, so that a scrape never delays a request. GET never changes anything.

pub mod client;
pub mod http;
mod view;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use http::{Answer, Request};
use tokio::sync::mpsc;

use crate::explain::{self, Asked, Wrong};
use crate::route;
use crate::services::split::ramp::{Moment, Order};
use crate::supervisor::{AdminSocket, Handle, Phase, Planned, Reloaded};

/// Starts the thread. It serves whichever socket it was sent last, and ends with the sender.
pub fn start(handle: Handle, mut sockets: mpsc::Receiver<Option<AdminSocket>>) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "cannot start the admin API"),
        };
        runtime.block_on(async move {
            let answer = Arc::new(move |request: Request| {
                let handle = handle.clone();
                async move { answer(&handle, &request).await }
            });
            let served = Arc::new(http::Served::new(CONNECTIONS_MAX));
            let mut serving: Option<tokio::task::JoinHandle<()>> = None;
            while let Some(socket) = sockets.recv().await {
                if let Some(old) = serving.take() {
                    old.abort();
                }
                let Some(socket) = socket else { continue };
                match http::Listening::new(socket) {
                    Ok(listening) => serving = Some(tokio::spawn(http::serve(listening, Arc::clone(&answer), Arc::clone(&served)))),
                    Err(error) => tracing::error!(%error, "cannot serve the admin API"),
                }
            }
        });
    })
}

/// Operators, probes and scrapers are few.
const CONNECTIONS_MAX: usize = 256;

/// Every path and the method it takes.
const PATHS: &[(&str, &str)] = &[
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/status"),
    ("GET", "/config"),
    ("GET", "/listeners"),
    ("GET", "/services"),
    ("GET", "/services/NAME/hot"),
    ("GET", "/services/NAME/differences"),
    ("GET", "/services/NAME/ramp"),
    ("POST", "/services/NAME/ramp"),
    ("GET", "/explain"),
    ("POST", "/reload"),
    ("POST", "/drain"),
    ("POST", "/quit"),
];

async fn answer(handle: &Handle, request: &Request) -> Answer {
    let path = request.target.split('?').next().unwrap_or_default();
    let method = if request.method == "HEAD" { "GET" } else { request.method.as_str() };
    // Browsers let any page send a POST anywhere, and say whose page it was.
    if method != "GET" && request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("origin")) {
        return Answer::text(403, "not from a web page\n");
    }
    match (method, path) {
        ("GET", "/") => Answer::text(200, index()),
        ("GET", "/healthz") => Answer::text(200, "ok\n"),
        ("GET", "/readyz") => readiness(handle),
        ("GET", "/metrics") => {
            Answer { status: 200, content_type: "text/plain; version=0.0.4; charset=utf-8", fields: "", body: metrics_page(handle) }
        }
        ("GET", "/status") => Answer::json(200, &view::status(handle)),
        ("GET", "/config") => Answer::json(200, &serde_json::from_str(&handle.live.pin().document).unwrap_or_default()),
        ("GET", "/listeners") => Answer::json(200, &view::listeners(handle)),
        ("GET", "/services") => Answer::json(200, &view::services(handle)),
        ("GET", "/explain") => explain(handle, request.target.split_once('?').map_or("", |(_, query)| query)),
        ("POST", "/reload") if is_dry(&request.target) => match handle.plan().await {
            Some(Ok(Planned { generation, plan, warnings })) => {
                let changes = &plan.changes;
                Answer::json(200, &serde_json::json!({ "generation": generation, "changes": changes, "plan": plan, "warnings": warnings }))
            }
            Some(Err(errors)) => Answer::json(422, &serde_json::json!({ "errors": errors })),
            None => Answer::json(503, &serde_json::json!({ "errors": ["the process is ending"] })),
        },
        ("POST", "/reload") => match handle.reload().await {
            Some(Reloaded::Done { generation, changes, warnings }) => {
                Answer::json(200, &serde_json::json!({ "generation": generation, "changes": changes, "warnings": warnings }))
            }
            Some(Reloaded::Refused { errors }) => Answer::json(422, &serde_json::json!({ "errors": errors })),
            None => Answer::json(503, &serde_json::json!({ "errors": ["the process is ending"] })),
        },
        ("POST", "/drain") => {
            handle.drain().await;
            Answer::text(202, "draining\n")
        }
        ("POST", "/quit") => {
            handle.quit().await;
            Answer::text(202, "ending\n")
        }
        ("GET", path) if of_service(path, "hot").is_some() => {
            let name = of_service(path, "hot").unwrap_or_default();
            match view::hot(handle, name) {
                Some(hot) => Answer::json(200, &hot),
                None => Answer::text(404, format!("there is no shard `{name}`; /services lists them\n")),
            }
        }
        ("GET", path) if of_service(path, "differences").is_some() => {
            let name = of_service(path, "differences").unwrap_or_default();
            match view::differences(handle, name) {
                Some(differences) => Answer::json(200, &differences),
                None => Answer::text(404, format!("there is no mirror `{name}`; /services lists them\n")),
            }
        }
        ("GET", path) if of_service(path, "ramp").is_some() => ramp(handle, of_service(path, "ramp").unwrap_or_default()),
        ("POST", path) if of_service(path, "ramp").is_some() => steer(handle, of_service(path, "ramp").unwrap_or_default(), request),
        _ => {
            let is_it =
                |known: &str| known == path || known.strip_prefix("/services/NAME/").is_some_and(|what| of_service(path, what).is_some());
            match PATHS.iter().find(|(_, known)| is_it(known)) {
                Some(("POST", _)) => Answer { fields: "Allow: POST\r\n", ..Answer::text(405, "use POST\n") },
                Some(_) if of_service(path, "ramp").is_some() => {
                    Answer { fields: "Allow: GET, HEAD, POST\r\n", ..Answer::text(405, "use GET or POST\n") }
                }
                Some(_) => Answer { fields: "Allow: GET, HEAD\r\n", ..Answer::text(405, "use GET\n") },
                None => Answer::text(404, index()),
            }
        }
    }
}

fn ramp(handle: &Handle, name: &str) -> Answer {
    match view::ramp(handle, name) {
        Some(ramp) => Answer::json(200, &ramp),
        None => Answer::text(404, format!("there is no split `{name}`; /services lists them\n")),
    }
}

/// Steers a ramp: `pause`, `resume`, `abort`, `step`, or `step N`, counted from 1, as a word, as JSON or in the query.
fn steer(handle: &Handle, name: &str, request: &Request) -> Answer {
    let order = match order(request) {
        Ok(order) => order,
        Err(reason) => return Answer::json(400, &serde_json::json!({ "errors": [reason] })),
    };
    let generation = handle.live.pin();
    let Some(split) = generation.split(name) else {
        return Answer::json(404, &serde_json::json!({ "errors": [format!("there is no split `{name}`; /services lists them")] }));
    };
    match split.steer(order, Moment::read()) {
        Ok(_) => ramp(handle, name),
        Err(senseless) => Answer::json(409, &serde_json::json!({ "errors": [senseless.to_string()] })),
    }
}

fn order(request: &Request) -> Result<Order, String> {
    use serde_json::Value;
    const HELP: &str =
        "send {\"pause\": true}, {\"resume\": true}, {\"abort\": true}, {\"step\": true}, or {\"step\": 2} for the second one";
    let body = String::from_utf8_lossy(&request.body);
    let query = request.target.split_once('?').map_or("", |(_, query)| query);
    let (word, value) = match serde_json::from_str::<Value>(&body) {
        Ok(Value::Object(fields)) if fields.len() == 1 => fields.into_iter().next().unwrap_or_default(),
        Ok(Value::String(word)) => (word, Value::Bool(true)),
        Ok(_) => return Err(HELP.to_owned()),
        Err(_) => {
            let text = if body.trim().is_empty() { query } else { body.trim() };
            let (word, number) = text.split_once([' ', '=']).unwrap_or((text, ""));
            let value = match number.trim() {
                "" | "true" | "1" if word != "step" => Value::Bool(true),
                "" | "true" => Value::Bool(true),
                number => number.parse::<u64>().map(Value::from).map_err(|_| HELP.to_owned())?,
            };
            (word.to_owned(), value)
        }
    };
    match (word.as_str(), value) {
        ("pause", Value::Bool(true) | Value::Null) => Ok(Order::Pause),
        ("resume", Value::Bool(true) | Value::Null) => Ok(Order::Resume),
        ("abort", Value::Bool(true) | Value::Null) => Ok(Order::Abort),
        ("step", Value::Bool(true) | Value::Null) => Ok(Order::Step(None)),
        ("step", Value::Number(number)) => {
            let number = number.as_u64().and_then(|number| usize::try_from(number).ok()).and_then(|number| number.checked_sub(1));
            number.map(|number| Order::Step(Some(number))).ok_or_else(|| HELP.to_owned())
        }
        _ => Err(HELP.to_owned()),
    }
}

/// `?dry_run=1`.
fn is_dry(target: &str) -> bool {
    parameters(target.split_once('?').map_or("", |(_, query)| query)).any(|(name, value)| name == "dry_run" && value != "0")
}

/// Names and values of a query, decoded.
fn parameters(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    })
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    route::key::write_decoded(text.as_bytes(), &mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `method=` (GET), `url=`, `header=` (any number), `from=`, `listener=`, `body=`.
fn explain(handle: &Handle, query: &str) -> Answer {
    let of = |wanted: &str| parameters(query).filter(|(name, _)| name == wanted).map(|(_, value)| value).collect::<Vec<_>>();
    let one = |name: &str| of(name).into_iter().next();
    let known = ["method", "url", "header", "from", "listener", "body"];
    if let Some((name, _)) = parameters(query).find(|(name, _)| !known.contains(&name.as_str())) {
        return Answer::text(400, format!("unknown parameter `{name}`; there is {}\n", known.join(", ")));
    }
    let explained = || {
        let url = one("url").ok_or_else(|| Wrong("no url=, such as url=https://shop.example/cart".to_owned()))?;
        let mut asked = Asked::new(one("method").as_deref().unwrap_or("GET"), &url)?;
        for line in of("header") {
            asked.header(&line)?;
        }
        if let Some(from) = one("from") {
            asked.client = from.parse().map_err(|_| Wrong(format!("`{from}` is not an address of a client, such as 192.0.2.1")))?;
        }
        asked.wanted = one("listener");
        asked.body = one("body").map(String::into_bytes);
        explain::explain(&handle.live.pin(), &asked, true)
    };
    match explained() {
        Ok(explanation) => Answer::json(200, &serde_json::json!(explanation)),
        Err(Wrong(reason)) => Answer::text(400, format!("{reason}\n")),
    }
}

/// The service of which a path asks for `what`.
fn of_service<'p>(path: &'p str, what: &str) -> Option<&'p str> {
    path.strip_prefix("/services/")?.strip_suffix(what)?.strip_suffix('/').filter(|name| !name.is_empty())
}

/// Whether clients should come. What is waited for, the configuration names.
/// attache's own metrics, and what logs count of their records.
fn metrics_page(handle: &Handle) -> Vec<u8> {
    let mut page = handle.metrics.render();
    handle.live.pin().logs().for_each(|logs| page.extend_from_slice(logs.flow.write_counts().as_bytes()));
    page
}

fn readiness(handle: &Handle) -> Answer {
    match handle.phase() {
        Phase::Starting => Answer::text(503, "starting\n"),
        Phase::LameDuck | Phase::Draining => Answer::text(503, "draining\n"),
        Phase::Serving => {
            let generation = handle.live.pin();
            let missing: Vec<&str> = generation.waits_for(Instant::now()).collect();
            if missing.is_empty() {
                Answer::text(200, "ready\n")
            } else {
                Answer::text(503, format!("waiting for {}\n", missing.join(", ")))
            }
        }
    }
}

fn index() -> String {
    let lines: Vec<String> = PATHS.iter().map(|(method, path)| format!("{method:4} {path}\n")).collect();
    lines.concat()
}
