"""Loads a proxy, and returns what it cost. Every function returns one run's figures by name.

Knows nothing of cases, rounds or peers.
"""

import contextlib
import json
import re
import select
import shutil
import signal
import socket
import ssl
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

from processes import LOAD_CORE, PROXY_CORE, CannotRun, idle_seconds, pin
from proxies import built

REQUEST = b"GET /small HTTP/1.1\r\nHost: localhost\r\n\r\n"
# wrk itself prints nothing beyond 99 %.
WRK_REPORT = """
function done(summary, latency)
  local e = summary.errors
  io.write(string.format('\\n{"requests":%d,"us":%d,"p50_us":%d,"p99_us":%d,"p999_us":%d,"errors":%d}\\n', summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9), e.connect + e.read + e.write + e.status + e.timeout))
end
"""
# How many connections are opened at once.
OPENERS = 16
FAILURES_MAX = 20
WAITING = {"epoll_wait", "epoll_pwait", "epoll_pwait2"}
# Rarer calls belong to opening connections, timers and the like.
CALLS_PER_REQUEST_MIN = 0.02


class Meter:
    """What a proxy used between two moments."""

    def __init__(self, proxy):
        self.proxy, self.start, self.cpu, self.idle = proxy, time.monotonic(), proxy.cpu_ns(), idle_seconds(PROXY_CORE)

    def figures(self, requests):
        cpu_us = (self.proxy.cpu_ns() - self.cpu) / 1e3
        # The origin itself stands in for a proxy that costs nothing.
        if self.proxy.name == "origin":
            return {}
        wall = time.monotonic() - self.start
        busy = cpu_us / 1e6 / wall
        return {
            "cpu_us": cpu_us / max(requests, 1),
            "busy": busy,
            "others": max(0, 1 - busy - (idle_seconds(PROXY_CORE) - self.idle) / wall),
            "resident": self.proxy.resident_bytes(),
        }


def wrk(proxy, seconds, *, path="/small", connections=64, tls=False, closing=False, body_bytes=0, script_in):
    script = script_in / "wrk.lua"
    lines = ["wrk.headers['Connection'] = 'close'"] if closing else []
    if body_bytes:
        lines += ["wrk.method = 'POST'", f"wrk.body = string.rep('x', {body_bytes})"]
    script.write_text("\n".join(lines) + WRK_REPORT)
    url = f"{'https' if tls else 'http'}://127.0.0.1:{proxy.port}{path}"
    meter = Meter(proxy)
    argv = pin(LOAD_CORE, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script, url)
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise CannotRun(f"wrk: {done.stderr.strip() or done.stdout.strip()}")
    seen = json.loads(done.stdout.strip().splitlines()[-1])
    figures = meter.figures(seen["requests"])
    return figures | {"rate": seen["requests"] / (seen["us"] / 1e6), **{key: seen[key] for key in ("requests", "p50_us", "p99_us", "p999_us", "errors")}}


def h2load(proxy, seconds, *, streams, connections=8, grpc_in=None):
    argv = ["h2load", "-t1", f"-c{connections}", f"-m{streams}", f"-D{seconds}"]
    if grpc_in:
        body = grpc_in / "message"
        # A message is five bytes of framing and its own.
        body.write_bytes(b"\0\0\0\0\x64" + b"x" * 100)
        argv += ["-d", body, "-H", "content-type: application/grpc", "-H", "te: trailers"]
    meter = Meter(proxy)
    done = subprocess.run(pin(LOAD_CORE, *argv, f"http://127.0.0.1:{proxy.port}/small"), capture_output=True, text=True)
    seen = re.search(r"requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed", done.stdout)
    rate = re.search(r"([\d.]+) req/s", done.stdout)
    if not seen or not rate:
        raise CannotRun(f"h2load: {done.stderr.strip() or done.stdout.strip()}")
    requests, succeeded, failed = map(int, seen.groups())
    # What is still unanswered when the time is over counts as failed, at most one for each stream.
    errors = max(0, requests - succeeded, failed - streams * connections)
    return meter.figures(succeeded) | {"requests": succeeded, "rate": float(rate.group(1)), "errors": errors}


def websockets(proxy, seconds, *, connections=64):
    argv = pin(LOAD_CORE, built("examples/websockets"), f"127.0.0.1:{proxy.port}", connections, seconds)
    meter = Meter(proxy)
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise CannotRun(f"websockets with {proxy.name}: {done.stderr.strip()}")
    seen = json.loads(done.stdout)
    return meter.figures(seen["messages"]) | {"rate": seen["messages"] / seen["seconds"], "errors": seen["errors"]}


def handshakes(proxy, seconds, *, kind, connections=16):
    argv = pin(LOAD_CORE, built("examples/handshakes"), f"127.0.0.1:{proxy.port}", kind, connections, seconds)
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as load:
        if load.stdout.readline() != "ready\n":
            raise CannotRun(f"handshakes with {proxy.name}: {load.stderr.read().strip()}")
        meter = Meter(proxy)
        out, _ = load.communicate("go\n")
    seen = json.loads(out)
    count = seen["full"] + seen["resumed"]
    figures = meter.figures(count)
    # One of the other kind is an error: it would be another measurement.
    other = seen["resumed" if kind == "full" else "full"]
    return figures | {
        "rate": count / seen["seconds"],
        "per_cpu_second": 1e6 / figures["cpu_us"] if figures["cpu_us"] else None,
        **{key: seen[key] for key in ("p50_us", "p99_us", "p999_us")},
        "errors": seen["errors"] + other,
        "cipher": seen["cipher"],
    }


def paced(proxy, seconds, *, rate=5000, connections=64):
    argv = pin(LOAD_CORE, built("examples/paced"), f"127.0.0.1:{proxy.port}", "/small", rate, connections, seconds)
    meter = Meter(proxy)
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise CannotRun(f"paced with {proxy.name}: {done.stderr.strip()}")
    seen = json.loads(done.stdout)
    # Its warm-up asks twice on each connection.
    asked = seen["requests"] + 2 * connections
    return meter.figures(asked) | {"asked": asked} | {key: seen[key] for key in ("p50_us", "p99_us", "p999_us", "late", "errors")} | {"rate": seen["requests"] / seen["seconds"]}


def answers_of(origin):
    """How many answers an origin with a delay has begun, this one included."""
    with socket.create_connection(("127.0.0.1", origin.port), 10) as connection:
        connection.sendall(REQUEST)
        received = b""
        while b"\r\n\r\n" not in received:
            part = connection.recv(4096)
            if not part:
                raise ConnectionError("closed before the answer")
            received += part
    return int(re.search(rb"X-Count: (\d+)", received).group(1))


def unverified():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def opened(port, context):
    """A connection that has had one answer, and waits."""
    connection = socket.create_connection(("127.0.0.1", port), 10)
    if context:
        connection = context.wrap_socket(connection)
    connection.sendall(REQUEST)
    received = b""
    while not received.endswith(b"0123456789"):
        part = connection.recv(4096)
        if not part:
            raise ConnectionError("closed before the answer")
        received += part
    return connection


def idle_connections(proxy, settle_seconds, *, count, tls):
    """Memory that `count` connections hold once each has had an answer."""
    # One for all: a context takes longer to make than a connection.
    context = unverified() if tls else None
    opened(proxy.port, context).close()
    time.sleep(settle_seconds)
    before = proxy.resident_bytes()
    connections, failures = [], []

    def open_one(_):
        # Each may have waited for ten seconds.
        if len(failures) > FAILURES_MAX:
            return
        try:
            connections.append(opened(proxy.port, context))
        except OSError as error:
            failures.append(error)

    try:
        # Some at a time, or the first would be closed as idle before the last is open.
        with ThreadPoolExecutor(OPENERS) as openers:
            list(openers.map(open_one, range(count)))
        errors = count - len(connections)
        time.sleep(settle_seconds)
        after = proxy.resident_bytes()
        poll = select.poll()
        for connection in connections:
            poll.register(connection, select.POLLIN | select.POLLRDHUP)
        errors += len(poll.poll(0))
    finally:
        for connection in connections:
            connection.close()
    return {"before": before, "resident": after, "per_connection": (after - before) / count, "errors": errors}


def idle(proxies, seconds):
    """All at once: who does nothing does not disturb the others."""
    meters = {name: (Meter(proxy), proxy.wakeups()) for name, proxy in proxies.items()}
    time.sleep(seconds)
    figures = {}
    for name, (meter, wakeups) in meters.items():
        woken = meter.proxy.wakeups() - wakeups
        used = meter.figures(1)
        figures[name] = {"cpu_percent": used["busy"] * 100, "wakeups": woken / seconds, "resident": used["resident"]}
    return figures


def system_calls(proxy, seconds, *, script_in, connections=64):
    """Calls per request. strace slows the proxy down much, so nothing else is taken from this run, and it takes longer."""
    if not shutil.which("strace"):
        raise CannotRun("strace is not installed")
    counts = script_in / "strace.out"
    attach = [word for pid in proxy.pids() for word in ("-p", str(pid))]
    tracer = subprocess.Popen(["strace", "-c", "-f", "-o", counts, *attach], stderr=subprocess.PIPE, text=True)
    try:
        # It says so once for each process.
        for _ in proxy.pids():
            if "attached" not in tracer.stderr.readline():
                raise CannotRun("strace may not trace here")
        seen = wrk(proxy, seconds + 3, script_in=script_in, connections=connections)
    finally:
        with contextlib.suppress(OSError):
            tracer.send_signal(signal.SIGINT)
        tracer.wait()
        tracer.stderr.close()
    # wrk leaves one request on each connection without counting it.
    requests = seen["requests"] + connections
    rows = re.findall(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", counts.read_text(), re.M)
    calls = {name: int(number) / requests for number, name in rows if name != "total"}
    common = {name: number for name, number in sorted(calls.items(), key=lambda call: -call[1]) if number >= CALLS_PER_REQUEST_MIN}
    return {
        "calls": sum(common.values()),
        "calls_but_waiting": sum(number for name, number in common.items() if name not in WAITING),
        "which": ", ".join(f"{name} {number:.2f}" for name, number in common.items()),
        "errors": seen["errors"],
    }
