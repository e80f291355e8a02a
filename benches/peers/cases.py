"""The cases: which proxies, set up how, under which load.

A case returns rows by name, each a median of its rounds. What a figure means is told in `report.py`.
"""

import contextlib
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import load
from processes import CannotRun
from proxies import Setup

PEERS = ("attache", "nginx", "haproxy", "envoy", "null")
DIRECT = "direct"


@dataclass(frozen=True)
class Options:
    rounds: int
    seconds: int
    idle_seconds: int
    settle_seconds: int
    idle_connections: int
    peers: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    name: str
    peer: str
    setup: Setup
    # The row that this one is compared with.
    base: str


@dataclass(frozen=True)
class Case:
    title: str
    # What measures all rows, given the running proxies by row.
    measure: Callable
    setup: Setup = Setup()
    rows: Callable = None
    with_direct: bool = False
    is_grpc: bool = False
    # Milliseconds by which each endpoint's answers are late; one endpoint that is not late, unless said.
    delays: tuple[int | None, ...] = (None,)

    def wanted(self, options):
        if self.rows:
            return self.rows(options.peers)
        # The null relay copies bytes, and knows nothing of TLS or HTTP/2.
        knows = self.setup in (Setup(), Setup(is_tcp=True), Setup(is_tunnel=True))
        return [Row(peer, peer, self.setup, "attache") for peer in options.peers if peer != "null" or knows]


def say(text):
    print(f"  {text}", file=sys.stderr, flush=True)


def run(case, workshop, options):
    """Rows by name, and what could not be measured."""
    missing = []
    with contextlib.ExitStack() as stack:
        origins = [workshop.grpc_origin()] if case.is_grpc else [workshop.origin(delay) for delay in case.delays]
        for origin in origins:
            stack.callback(origin.stop)
        running = {DIRECT: origins[0]} if case.with_direct else {}
        bases = {DIRECT: "attache"}
        for row in case.wanted(options):
            try:
                running[row.name] = workshop.start(row.peer, row.setup, [origin.port for origin in origins])
                bases[row.name] = row.base
                stack.callback(running[row.name].stop)
            except (CannotRun, OSError) as error:
                missing.append(f"{row.name}: {error}")
                say(missing[-1])
        rows = case.measure(running, workshop, options, missing)
    add_latency_over_direct(rows)
    for name, figures in rows.items():
        figures["ratios"] = ratios(figures, rows.get(bases[name]))
    return rows, missing


def ratios(figures, base):
    if not base:
        return {}
    return {key: value / base[key] for key, value in figures.items() if is_number(value) and is_number(base.get(key)) and base[key]}


def is_number(value):
    return isinstance(value, (int, float))


def add_latency_over_direct(rows):
    if direct := rows.get(DIRECT):
        for figures in rows.values():
            for key in ("p50_us", "p99_us", "p999_us"):
                figures[f"added_{key}"] = figures[key] - direct[key]


def median(runs):
    figures = {}
    for key in runs[0]:
        values = [run[key] for run in runs if run.get(key) is not None]
        if not all(map(is_number, values)):
            figures[key] = values[-1]
        elif key == "errors":
            figures[key] = sum(values)
        elif values:
            figures[key] = statistics.median(values)
    return figures


def interleaved(work, rounds=None):
    """A B C A B C, so that a noisy minute hits everybody; each is warmed up first."""

    def measure(running, workshop, options, missing):
        runs = {}
        for turn in range(-1, rounds or options.rounds):
            for name, proxy in list(running.items()):
                try:
                    figures = work(proxy, options.seconds if turn >= 0 else 1, workshop.directory)
                except (CannotRun, OSError, ValueError, subprocess.SubprocessError) as error:
                    missing.append(f"{name}: {error}")
                    say(missing[-1])
                    del running[name]
                    continue
                if turn >= 0:
                    runs.setdefault(name, []).append(figures)
        return {name: median(figures) for name, figures in runs.items()}

    return measure


def wrk(**how):
    return interleaved(lambda proxy, seconds, directory: load.wrk(proxy, seconds, script_in=directory, **how))


def h2load(**how):
    return interleaved(lambda proxy, seconds, _: load.h2load(proxy, seconds, **how))


def grpc(proxy, seconds, directory):
    return load.h2load(proxy, seconds, streams=10, grpc_in=directory)


def handshakes(kind):
    return interleaved(lambda proxy, seconds, _: load.handshakes(proxy, seconds, kind=kind))


def memory(tls):
    def measure(running, _, options, missing):
        rows = {}
        for name, proxy in running.items():
            try:
                rows[name] = load.idle_connections(proxy, options.settle_seconds, count=options.idle_connections, tls=tls)
            except (CannotRun, OSError) as error:
                missing.append(f"{name}: {error}")
                say(missing[-1])
        return rows

    return measure


def idle(running, _, options, __):
    return load.idle(running, options.idle_seconds)


def few_and_many_routes(peers):
    rows = []
    for count in (10, 10_000):
        rows += [Row(f"{peer}, {count} routes", peer, Setup(routes=count), f"attache, {count} routes") for peer in peers if peer != "null"]
    return rows


def routes(running, workshop, options, missing):
    """Every request meets the last route."""
    last = {id(proxy): int(name.split()[1]) - 1 for name, proxy in running.items()}
    work = lambda proxy, seconds, directory: load.wrk(proxy, seconds, path=f"/r{last[id(proxy)]}/x", script_in=directory)
    return interleaved(work)(running, workshop, options, missing)


def log_off_and_on(peers):
    rows = [Row(f"{peer}, log off", peer, Setup(), "attache, log off") for peer in peers if peer != "null"]
    return rows + [Row(f"{peer}, log on", peer, Setup(is_logging=True), "attache, log on") for peer in peers if peer != "null"]


# Ways to balance, in each one's own words.
BALANCES = {
    "attache": ("round-robin", "least-requests", "p2c", "ewma"),
    "nginx": ("least_conn", "random two least_conn"),
    "haproxy": ("leastconn", "random(2)"),
}
GOOD_MS, SLOW_MS = 2, 20
GOOD, ALL = "4 good", "with a slow one"


def good_and_all(peers):
    """Each way to balance twice: what the slow endpoint changes is compared with the same way without it."""
    rows = []
    for peer in peers:
        for balance in BALANCES.get(peer, ()):
            name = f"{peer} {balance}"
            rows += [Row(f"{name}, {which}", peer, Setup(balance=balance, endpoints=count), f"{name}, {GOOD}")
                     for which, count in ((GOOD, 4), (ALL, 5))]
    return rows


def slow_endpoint(running, workshop, options, missing):
    slow = workshop.delayed[-1]

    def work(proxy, seconds, _):
        before = load.answers_of(slow)
        figures = load.paced(proxy, seconds, rate=1000, connections=32)
        # Asking for the count counts too.
        return figures | {"slow_share": (load.answers_of(slow) - before - 1) / figures["asked"]}

    return interleaved(work)(running, workshop, options, missing)


ECDSA, RSA = Setup(key="ecdsa"), Setup(key="rsa")

CASES = {
    "keepalive-1": Case("100 B, keep-alive, 1 connection", wrk(connections=1)),
    "keepalive-64": Case("100 B, keep-alive, 64 connections", wrk()),
    "keepalive-256": Case("100 B, keep-alive, 256 connections", wrk(connections=256)),
    "10k": Case("10 KB answers, 64 connections", wrk(path="/bytes/10000")),
    "1m": Case("1 MiB answers, 16 connections", wrk(path="/bytes/1048576", connections=16)),
    "upload": Case("64 KiB uploads, 64 connections", wrk(path="/upload", body_bytes=64 << 10)),
    "connect": Case("100 B, a new connection per request, 64 at a time", wrk(closing=True)),
    "tls-64": Case("100 B, TLS keep-alive, 64 connections", wrk(tls=True), ECDSA),
    "h2-1": Case("100 B, HTTP/2, 8 connections of 1 stream", h2load(streams=1), Setup(is_http2=True)),
    "h2-100": Case("100 B, HTTP/2, 8 connections of 100 streams", h2load(streams=100), Setup(is_http2=True)),
    "grpc": Case("gRPC, unary calls of 100 B, 8 connections of 10 streams", interleaved(grpc), Setup(is_http2=True, is_http2_upstream=True), is_grpc=True),
    "websocket": Case("WebSocket messages of 100 B echoed, 64 connections", interleaved(lambda p, s, _: load.websockets(p, s)), Setup(is_tunnel=True)),
    "tcp-1m": Case("1 MiB answers through a TCP stream, 16 connections", wrk(path="/bytes/1048576", connections=16), Setup(is_tcp=True)),
    "tcp-64": Case("100 B through TCP streams, 64 connections", wrk(), Setup(is_tcp=True)),
    "handshake-ecdsa": Case("Full TLS handshakes, ECDSA P-256", handshakes("full"), ECDSA),
    "handshake-rsa": Case("Full TLS handshakes, RSA-2048", handshakes("full"), RSA),
    "resumed-ecdsa": Case("Resumed TLS handshakes, ECDSA P-256", handshakes("resumed"), ECDSA),
    "resumed-rsa": Case("Resumed TLS handshakes, RSA-2048", handshakes("resumed"), RSA),
    "fixed-rate": Case("5,000 requests/s, 64 connections, open loop", interleaved(lambda p, s, _: load.paced(p, s)), with_direct=True),
    "slow-endpoint": Case(f"Four endpoints that take {GOOD_MS} ms and one that takes {SLOW_MS} ms, 1,000 requests/s over 32 connections, open loop",
                          slow_endpoint, rows=good_and_all, delays=(GOOD_MS,) * 4 + (SLOW_MS,)),
    "routes": Case("10 and 10,000 routes, 64 connections, the last one asked for", routes, rows=few_and_many_routes),
    "access-log": Case("JSON access log to a file, 64 connections", wrk(), rows=log_off_and_on),
    "memory-plain": Case("Memory of idle connections", memory(tls=False)),
    "memory-tls": Case("Memory of idle TLS connections", memory(tls=True), ECDSA),
    "idle": Case("Idle, no connections", idle),
    "system-calls": Case("System calls per keep-alive request, 64 connections",
                         interleaved(lambda p, s, directory: load.system_calls(p, s, script_in=directory), rounds=1)),
}
