#!/usr/bin/env python3
"""What clients notice of a mirror: latency at a fixed rate with copies that are answered, dead, slow or lost, against no mirror at all.

    cargo build --profile quick --bin attache --example paced
    benches/peers/mirror.py target/quick

Rounds of every case after each other, and the median of the ratios within a round: a noisy neighbour is noisy for all of them.
"""

import json
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

RATE, CONNECTIONS, SECONDS, ROUNDS = 2000, 16, 3, 9


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port):
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise SystemExit(f"nobody listens on {port}")


def slow_origin():
    """Answers after 200 ms."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)

    def serve(connection):
        with connection:
            while connection.recv(65536):
                time.sleep(0.2)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow")

    def accept():
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def main():
    binaries = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "target/quick")
    attache, paced = binaries / "attache", binaries / "examples" / "paced"
    children = []
    try:
        ports = {"app": free_port(), "next": free_port()}
        for port in ports.values():
            children.append(subprocess.Popen([attache, "origin", "--listen", f"127.0.0.1:{port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            wait_for(port)
        deaf = socket.create_server(("127.0.0.1", 0), backlog=512)
        copies = {
            "none": None,
            "answered, 5 %": (ports["next"], "5%"),
            "answered, all": (ports["next"], "100%"),
            "dead, all": (free_port(), "100%"),
            "slow, all": (slow_origin(), "100%"),
            "lost, all": (deaf.getsockname()[1], "100%"),
        }
        edges = {}
        with tempfile.TemporaryDirectory() as directory:
            for number, (name, copy) in enumerate(copies.items()):
                edges[name] = free_port()
                service = f'service = "127.0.0.1:{ports["app"]}"\n'
                if copy:
                    service = f'[[listener.route]]\nmirror = {{ to = "127.0.0.1:{ports["app"]}", copy = "127.0.0.1:{copy[0]}", share = "{copy[1]}" }}\n'
                config = pathlib.Path(directory) / f"{number}.toml"
                config.write_text(f'[process]\nworkers = 1\n[admin]\noff = true\n[[listener]]\nlisten = "127.0.0.1:{edges[name]}"\n{service}')
                children.append(subprocess.Popen([attache, "run", "-c", config], stderr=subprocess.DEVNULL))
                wait_for(edges[name])
            rounds = []
            for _ in range(ROUNDS):
                seen = {}
                for name, port in edges.items():
                    run = [paced, f"127.0.0.1:{port}", "/anything", str(RATE), str(CONNECTIONS), str(SECONDS)]
                    seen[name] = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
                rounds.append(seen)
        for name in copies:
            errors = sum(seen[name]["errors"] for seen in rounds)
            requests = sum(seen[name]["requests"] for seen in rounds)
            ratio = {share: statistics.median(seen[name][share] / seen["none"][share] for seen in rounds) for share in ("p50_us", "p99_us")}
            p99 = statistics.median(seen[name]["p99_us"] for seen in rounds)
            print(f"{name:14} {requests:7} requests {errors} errors  p99 {p99:7.0f} us  p50 x{ratio['p50_us']:.3f}  p99 x{ratio['p99_us']:.3f}")
    finally:
        for child in children:
            child.terminate()
            child.wait()


if __name__ == "__main__":
    main()
