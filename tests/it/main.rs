//! The integration tests: one binary, so that it links once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests that measure or skip say so")]
#![allow(clippy::large_stack_arrays, clippy::format_push_string, clippy::format_collect, reason = "speed is no concern here")]
#![allow(clippy::float_cmp, reason = "metrics are whole numbers in a float")]

mod admin; // every endpoint of the admin API, asked well and badly
mod chaos; // endpoints that stall, reset, fail and vanish: nobody notices, and shares stay fair
mod cli; // every verb, what it prints and how it exits
mod config; // wrong configurations: every mistake, its place and its remedy
mod discovery; // endpoints that DNS and files name, and what happens when they do not
mod engine; // exchanges: framing, persistence, pipelining, timeouts, limits
mod explain; // what explain says is what happens
mod exporters; // metrics of other programs, over real servers
mod health; // probes: who gets requests by what they find
mod health_servers; // probes of real Redis, memcached, MariaDB, PostgreSQL and gRPC
mod hostile_exporters; // peers of exporters that mean harm: they are down, and nobody else notices
mod http2; // HTTP/2 from clients: translation, windows, limits, the end
mod http2_pairs; // every protocol of clients with every protocol of endpoints
mod http2_upstream; // HTTP/2 to endpoints: sharing, refusals, ends, settings
mod http2_attacks; // floods, bombs and resets: the offender is cut off, others are served
mod http2_ends; // how HTTP/2 connections end, and what reloads are to them
mod http2_strictness; // what HTTP/2 requests are refused, by raw frames
mod http2_windows; // bodies over HTTP/2, at the pace of the slower side
mod instructions; // what an exchange costs in instructions, against what it did
mod leader; // pools with a leader: where requests go while the lead moves
mod lifecycle; // waiting for other processes, ending with them, being ready once they are
mod logs; // logs of other programs: files, sinks, kills
mod memory; // bodies, idle connections, bugs: what they cost
mod migrations; // a service that is left for a shard, a key at a time
mod mirrors; // copies of requests: what gets there, that nobody waits, what differs
mod network; // black holes, distance, loss, partitions: real packets in namespaces
mod parsers; // what the parsers accept, others read alike
mod patience; // clients that say how long they wait, and clients that leave
mod peers; // gRPC and `WebSockets` between real clients and servers
mod placement_peers; // nginx, twemproxy and Envoy: the same keys at the same places
mod plan; // what another configuration would change, and that nothing does
mod pod; // the pod of deploy/, run for real
mod pools; // limits, ejection, zones, clients that stay with their endpoint
mod probes; // targets that whoever scrapes names, and who may not be
mod processes; // who runs on this machine, and what that takes
mod programs; // real programs on both sides
mod proxy_protocol; // clients named by PROXY headers, also before TLS
mod ramps; // arms that grow by themselves, and are taken back
mod reload; // reloads: all or nothing, and nobody notices
mod reports; // health reports over real servers
mod retries; // requests that go out again, and those that are asked twice
mod rotations; // files that are renamed, copied and cut: each line once
mod routing; // which route takes a request, and what it does to it
mod scatters; // one question to many leaves, whatever becomes of them
mod searches; // the book's two searches over a corpus on disk
mod serving; // the smallest path through real bytes
mod shards; // whose key goes where, whatever happens to its member
mod sinks; // where records go, whatever becomes of who takes them
mod slow; // slow clients, scarce resources
mod splits; // who is in which arm, and what becomes of those whose arm has nobody
mod statsd; // metrics that programs send, over real sockets
mod storm; // reloads and the end under load: nobody notices
mod strictness; // every clause of CONFIG "HTTP strictness", by raw bytes
mod support; // the rig: real binary, scripted origins, raw clients
mod tcp; // streams of bytes: ends, resets, server names, PROXY headers
mod tidy; // the house rules as assertions
mod upgrades; // what follows a 101: WebSockets and other protocols
mod upstream; // turns, weights, unix sockets
mod upstream_tls; // endpoints behind TLS: whom to believe, and what is kept apart
