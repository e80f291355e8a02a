#!/usr/bin/env python3
"""What gathering costs beside nginx with Lua, Node and Python's asyncio: latency at a fixed rate, and processor time of a request.

    cargo build --profile quick --bin attache --example paced
    benches/peers/scatter.py target/quick

Each asks the same leaves at the same time and answers with an array of what they say. Leaves are nginx, which answers from memory. Rounds
of all after each other; medians. Who is not installed is left out.
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


def aggregators(directory, attache, leaves):
    ports = {name: free_port() for name in ("attache", "nginx with Lua", "Node", "asyncio")}
    over = ", ".join(f'"127.0.0.1:{leaf}"' for leaf in leaves)
    config = pathlib.Path(directory) / "attache.toml"
    config.write_text(
        f'[process]\nworkers = 1\n[admin]\noff = true\n[[listener]]\nlisten = "127.0.0.1:{ports["attache"]}"\nservice = "all"\n'
        f'[service.all.scatter]\nover = [{over}]\nmerge = "concat"\n'
    )
    commands = {"attache": [attache, "run", "-c", str(config)]}
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


def measure(directory, binaries, count, size, rate):
    children = []
    try:
        leaves = [free_port() for _ in range(count)]
        body = json.dumps([{"id": number, "text": "x" * 80} for number in range(size // 110 + 1)])[: size * 2]
        page = pathlib.Path(directory) / "page.json"
        page.write_text(body)
        servers = "".join(
            f"server {{ listen 127.0.0.1:{leaf}; location / {{ root {directory}; default_type application/json; try_files /page.json =404; }} }}\n"
            for leaf in leaves
        )
        children.append(subprocess.Popen(nginx_config(directory, "leaves", "open_file_cache max=10;\n" + servers), stderr=subprocess.DEVNULL))
        for leaf in leaves:
            wait_for(leaf)
        started = {}
        for name, (command, port) in aggregators(directory, binaries / "attache", leaves).items():
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            children.append(child)
            wait_for(port)
            started[name] = (child.pid, port)
        seen = {name: [] for name in ["a leaf alone", *started]}
        for _ in range(ROUNDS):
            for name in seen:
                pid, port = started.get(name, (children[0].pid, leaves[0]))
                before = cpu_seconds(pid)
                run = [binaries / "examples" / "paced", f"127.0.0.1:{port}", "/", str(rate), str(CONNECTIONS), str(SECONDS)]
                result = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
                result["cpu_us"] = (cpu_seconds(pid) - before) * 1e6 / max(result["requests"], 1)
                seen[name].append(result)
        print(f"{count} leaves of {len(body)} bytes, {rate} requests a second")
        for name, results in seen.items():
            of = lambda key: statistics.median(result[key] for result in results)
            errors = sum(result["errors"] for result in results)
            cpu = "" if name == "a leaf alone" else f"  {of('cpu_us'):7.0f} us of processor"
            print(f"  {name:15} p50 {of('p50_us'):7.0f} us  p99 {of('p99_us'):7.0f} us{cpu}  {errors} errors")
    finally:
        for child in children:
            child.terminate()
            child.wait()


def main():
    binaries = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "target/quick").resolve()
    for count, size, rate in CASES:
        with tempfile.TemporaryDirectory() as directory:
            measure(directory, binaries, count, size, rate)


if __name__ == "__main__":
    main()
