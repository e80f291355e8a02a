#!/usr/bin/env python3
"""What gathering costs beside nginx with Lua, Node and Python's asyncio: latency at a fixed rate, and processor time of a request.

    cargo build --profile quick --bin attache --example paced
    benches/peers/scatter.py target/quick

Each asks the same leaves at the same time and answers with an array of what they say. Leaves are nginx, which answers from memory, or with
Lua where they have to be slow. Rounds of all after each other; medians. Who is not installed is left out.
"""

import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROUNDS, SECONDS, CONNECTIONS = 5, 3, 8
CASES = [(8, 1 << 10, 500), (32, 64 << 10, 20)]
QUICK = 'ngx.header.content_type = "application/json" ngx.header.content_length = 3 ngx.print("[1]")'
LUA = "/usr/lib/nginx/modules/ngx_http_lua_module.so"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port):
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise SystemExit(f"nobody listens on {port}")


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


NODE = """
const http = require("http");
const [port, ...leaves] = process.argv.slice(2).map(Number);
const agent = new http.Agent({ keepAlive: true, maxSockets: 1000 });
const ask = (leaf, path) => new Promise((resolve, reject) => {
  http.get({ host: "127.0.0.1", port: leaf, path, agent }, answer => {
    const parts = [];
    answer.on("data", part => parts.push(part));
    answer.on("end", () => resolve(JSON.parse(Buffer.concat(parts))));
  }).on("error", reject);
});
http.createServer(async (request, answer) => {
  const all = await Promise.all(leaves.map(leaf => ask(leaf, request.url)));
  const body = JSON.stringify(all.flat());
  answer.writeHead(200, { "content-type": "application/json", "content-length": Buffer.byteLength(body) });
  answer.end(body);
}).listen(port, "127.0.0.1");
"""

PYTHON = """
import asyncio, json, sys
port, leaves = int(sys.argv[1]), [int(leaf) for leaf in sys.argv[2:]]
idle = {leaf: [] for leaf in leaves}

async def ask(leaf, path):
    reader, writer = idle[leaf].pop() if idle[leaf] else await asyncio.open_connection("127.0.0.1", leaf, limit=1 << 20)
    writer.write(f"GET {path} HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n".encode())
    head = await reader.readuntil(b"\\r\\n\\r\\n")
    length = int(next(line.split(b":")[1] for line in head.split(b"\\r\\n") if line.lower().startswith(b"content-length")))
    body = await reader.readexactly(length)
    idle[leaf].append((reader, writer))
    return json.loads(body)

async def serve(reader, writer):
    while head := await reader.readuntil(b"\\r\\n\\r\\n"):
        path = head.split(b" ", 2)[1].decode()
        rows = [row for rows in await asyncio.gather(*(ask(leaf, path) for leaf in leaves)) for row in rows]
        body = json.dumps(rows).encode()
        writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)

async def main():
    async with await asyncio.start_server(serve, "127.0.0.1", port) as server:
        await server.serve_forever()

asyncio.run(main())
"""


def nginx_config(directory, name, http):
    config = pathlib.Path(directory) / f"{name}.conf"
    modules = "".join(
        f"load_module {module};\n" for module in ("/usr/lib/nginx/modules/ndk_http_module.so", LUA) if os.path.exists(module)
    )
    config.write_text(
        f"{modules}daemon off; master_process off; worker_processes 1; pid {directory}/{name}.pid; error_log stderr crit;\n"
        f"events {{ worker_connections 4096; }}\nhttp {{ access_log off; keepalive_requests 10000000; "
        f"client_body_temp_path {directory}/b; proxy_temp_path {directory}/p; fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; "
        f"scgi_temp_path {directory}/s;\n{http}\n}}\n"
    )
    return ["nginx", "-e", "stderr", "-p", directory, "-c", str(config)]


def of_attache(directory, attache, port, scatter):
    """Starts it with what `scatter` says of the service `all`."""
    config = pathlib.Path(directory) / f"attache-{port}.toml"
    config.write_text(
        f'[process]\nworkers = 1\n[admin]\noff = true\n[[listener]]\nlisten = "127.0.0.1:{port}"\nservice = "all"\n{scatter}'
    )
    return [attache, "run", "-c", str(config)]


def aggregators(directory, attache, leaves):
    ports = {name: free_port() for name in ("attache", "nginx with Lua", "Node", "asyncio")}
    over = ", ".join(f'"127.0.0.1:{leaf}"' for leaf in leaves)
    scatter = f'[service.all.scatter]\nover = [{over}]\nmerge = "concat"\n'
    commands = {"attache": of_attache(directory, attache, ports["attache"], scatter)}
    if os.path.exists(LUA):
        upstreams = "".join(f"upstream l{n} {{ server 127.0.0.1:{leaf}; keepalive 100; }}\n" for n, leaf in enumerate(leaves))
        places = "".join(
            f'location /leaf{n} {{ internal; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffers 64 16k; '
            f"proxy_pass http://l{n}/; }}\n"
            for n in range(len(leaves))
        )
        asked = ", ".join(f'{{"/leaf{n}"}}' for n in range(len(leaves)))
        lua = (
            f"local all = {{ngx.location.capture_multi({{{asked}}})}} "
            'local parts = {} for i, answer in ipairs(all) do parts[i] = string.match(answer.body, "^%s*%[(.*)%]%s*$") end '
            'ngx.header.content_type = "application/json" local body = "[" .. table.concat(parts, ",") .. "]" '
            "ngx.header.content_length = #body ngx.print(body)"
        )
        http = f"{upstreams}server {{ listen 127.0.0.1:{ports['nginx with Lua']}; {places} location / {{ content_by_lua_block {{ {lua} }} }} }}"
        commands["nginx with Lua"] = nginx_config(directory, "lua", http)
    if shutil.which("node"):
        script = pathlib.Path(directory) / "gather.js"
        script.write_text(NODE)
        commands["Node"] = ["node", str(script), str(ports["Node"]), *map(str, leaves)]
    script = pathlib.Path(directory) / "gather.py"
    script.write_text(PYTHON)
    commands["asyncio"] = [sys.executable, str(script), str(ports["asyncio"]), *map(str, leaves)]
    return {name: (command, ports[name]) for name, command in commands.items()}


def leaves_of(directory, contents):
    """An nginx with a leaf for each of these."""
    leaves = [free_port() for _ in contents]
    servers = "".join(f"server {{ listen 127.0.0.1:{leaf}; location / {{ {content} }} }}\n" for leaf, content in zip(leaves, contents))
    return nginx_config(directory, "leaves", "open_file_cache max=10;\n" + servers), leaves


def measure(directory, contents, rate, asked):
    """What `asked`, given the ports of leaves, says to start, by name; each at its port under the same load."""
    children = []

    def start(command, port):
        children.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        wait_for(port)
        return children[-1].pid, port

    try:
        command, leaves = leaves_of(directory, contents)
        started = {"a leaf alone": start(command, leaves[0])}
        for name, (command, port) in asked(leaves).items():
            started[name] = start(command, port)
        seen = {name: [] for name in started}
        for _ in range(ROUNDS):
            for name, (pid, port) in started.items():
                before = cpu_seconds(pid)
                run = [BINARIES / "examples" / "paced", f"127.0.0.1:{port}", "/", str(rate), str(CONNECTIONS), str(SECONDS)]
                result = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
                result["cpu_us"] = (cpu_seconds(pid) - before) * 1e6 / max(result["requests"], 1)
                seen[name].append(result)
        for name, results in seen.items():
            of = lambda key: statistics.median(result[key] for result in results)
            errors = sum(result["errors"] for result in results)
            cpu = "" if name == "a leaf alone" else f"  {of('cpu_us'):7.0f} us of processor"
            print(f"  {name:18} p50 {of('p50_us'):9.0f} us  p99 {of('p99_us'):9.0f} us{cpu}  {errors} errors", flush=True)
    finally:
        for child in children:
            child.terminate()
            child.wait()


def merging(count, size, rate):
    """What it costs where leaves are quick."""
    with tempfile.TemporaryDirectory() as directory:
        body = json.dumps([{"id": number, "text": "x" * 80} for number in range(size // 110 + 1)])
        (pathlib.Path(directory) / "page.json").write_text(body)
        print(f"{count} leaves of {len(body)} bytes, {rate} requests a second")
        page = f"root {directory}; default_type application/json; try_files /page.json =404;"
        measure(directory, [page] * count, rate, lambda leaves: aggregators(directory, BINARIES / "attache", leaves))


def sleeping(count, seconds, rate):
    """Leaves that all take as long: whoever asks one after another takes the sum."""
    with tempfile.TemporaryDirectory() as directory:
        print(f"{count} leaves that sleep {seconds} s, {rate} requests a second")
        content = f"content_by_lua_block {{ ngx.sleep({seconds}) {QUICK} }}"
        measure(directory, [content] * count, rate, lambda leaves: aggregators(directory, BINARIES / "attache", leaves))


def hanging(rate):
    """One leaf of eight never answers."""
    with tempfile.TemporaryDirectory() as directory:
        print(f"8 leaves, one of which hangs, deadline 100 ms less 5 ms of reserve, {rate} requests a second")
        contents = [f"content_by_lua_block {{ {QUICK} }}"] * 7 + ["content_by_lua_block { ngx.sleep(30) }"]

        def asked(leaves):
            over, port = ", ".join(f'"127.0.0.1:{leaf}"' for leaf in leaves), free_port()
            scatter = f'[service.all.scatter]\nover = [{over}]\nmerge = "concat"\nrequire = 1\ndeadline = "100ms"\n'
            return {"attache": (of_attache(directory, BINARIES / "attache", port, scatter), port)}

        measure(directory, contents, rate, asked)


def straggling(rate):
    """Ten leaves of two replicas each; one answer of a hundred takes a second."""
    with tempfile.TemporaryDirectory() as directory:
        print(f"10 leaves of two replicas, 1 % of answers take 1 s, {rate} requests a second")
        content = f"content_by_lua_block {{ if math.random(100) == 1 then ngx.sleep(1) else ngx.sleep(0.01) end {QUICK} }}"

        def asked(leaves):
            pools = "".join(
                f'[service.leaf-{n}]\nendpoints = ["127.0.0.1:{leaves[2 * n]}", "127.0.0.1:{leaves[2 * n + 1]}"]\n' for n in range(10)
            )
            over = ", ".join(f'"leaf-{n}"' for n in range(10))
            ways = {"attache, no hedges": "", "attache, hedges": 'hedge = { after = "p95", budget = "5%" }\n'}
            started = {}
            for name, hedge in ways.items():
                port = free_port()
                scatter = f'[service.all.scatter]\nover = [{over}]\nmerge = "concat"\ndeadline = "5s"\n{hedge}{pools}'
                started[name] = (of_attache(directory, BINARIES / "attache", port, scatter), port)
            return started

        measure(directory, [content] * 20, rate, asked)


def main():
    for count, size, rate in CASES:
        merging(count, size, rate)
    if not os.path.exists(LUA):
        print("no Lua in nginx: no slow leaves")
        return
    sleeping(100, 0.1, 10)
    hanging(50)
    straggling(50)


if __name__ == "__main__":
    BINARIES = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "target/quick").resolve()
    main()
