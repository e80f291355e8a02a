//! attache: a single-binary L7 proxy.
//!
//! # Bird's-eye view
//!
//! Text becomes a *generation*, and every request is answered under exactly one:
//!
//! ```text
//! config     paths → Loaded → File            typed text, comparable, every mistake at once
//! generation File → Generation                compiled, immutable, numbered; or all diagnostics
//! supervisor stage → publish → retire         binds what is new, swaps one pointer, drains what went
//!
//! serve/accept      accept, PROXY header, TLS              → Client
//! serve/connection  wait, read one head, keep or close; or
//! serve/h2            take in streams, a task for each        the same exchanges, in other words
//! serve/exchange    check it; walk: route → service → Decision (no await); answer, or
//! serve/forward       a place, a lease, dial or reuse; once more where `tries` allows it; settle
//! serve/answer        pump both bodies, the kept part of the first from `tape`; `hedge` asks a second endpoint
//! serve/copies      what mirrors want: requests of attache's own, by serve/inner
//! serve/fan         what scatters want: a question for each leaf, and one answer of theirs
//! serve/switch      after a 101, serve/tunnel passes bytes on
//! serve/exchange    count and log
//! serve/stream      protocol = "tcp": choose a pool by name or client, pass bytes on
//!
//! explain           the same walk without a client: why a request would go there; what a change would move
//!
//! upkeep            probes endpoints, looks for them by DNS, finds out who leads; bars and finds in `upstream`; has ramps go on
//! upkeep/checks     what health reports look at; upkeep/collect, what pages of metrics want of other programs. serve/adapt answers
//! upkeep/logs       brings lines to logs and takes records to sinks, a thread for each; services/logs makes the ones of the others
//! ```
//!
//! A process is one supervisor thread, one admin thread, one upkeep thread (probes, discovery, adapters), one that hears statsd where that is wanted, and workers: a thread each, with a
//! current-thread runtime, listening sockets of its own (`SO_REUSEPORT`) and its own idle connections
//! to endpoints. Workers share nothing that is written per request but what is known of an endpoint: how many requests it has, and,
//! where its pool asks for that, how they went.
//!
//! # Lexicon
//!
//! *listener* a bound address with its protocol and TLS · *route* predicates over a head, and the
//! service that answers · *head* what is known of a request before its body · *service* something
//! that answers: a pool, a choice among other services (a *shard*, a *split*), or attache itself · *member* a service or an endpoint that a
//! shard places keys on · *leaf* a service that a *scatter* asks with others · *copy* a request that a *mirror* makes of another, its *original* · *arm* a service that a split gives a share to, the *control* arm what the others leave · *pool* endpoints with one balancing policy · *endpoint*
//! one address · *bar* why an endpoint takes no requests now · *ear* a socket that an adapter hears by · *lease* the right to send one request to one endpoint · *walk* the synchronous
//! decision · *way* whom each service on it chose · *exchange* one request with its response · *refusal* why attache itself answered ·
//! *filter* what may edit a request on its way · *generation* one compiled configuration.
//!
//! # Invariants
//!
//! - A request pins one generation and never sees two. `Live::publish` is called by a reload only, when
//!   nothing can fail any more.
//! - Deciding (`generation`, `services`, `route`, `filters`) does no I/O, reads no clock and cannot
//!   await, so it can be explained, tested and measured as it runs.
//! - `proto` turns bytes into messages and back and never indexes by a number from the network.
//! - What a buffer, a queue, a retry or a wait may grow to is a constant or a setting.
//! - A connection to an endpoint is used again only after both messages ended cleanly on it, or shared if it speaks HTTP/2;
//!   and only under the TLS identity it was made under.
//! - A socket whose address stays is never bound again.
//! - Only `cli` prints, and only `cli` exits.
//!
//! # Modules
//!
//! A module imports only from those listed below it; `tests/it/tidy.rs` reads this list and enforces it.

pub mod cli;
pub mod admin;
pub mod supervisor;
pub mod explain;
pub mod serve;
pub mod upkeep;
pub mod dial;
pub mod generation;
pub mod config;
pub mod services;
pub mod filters;
pub mod route;
pub mod upstream;
pub mod tls;
pub mod telemetry;
pub mod proto;
pub mod refusal;
pub mod value;
pub mod algo;
