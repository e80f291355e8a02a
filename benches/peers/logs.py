#!/usr/bin/env python3
"""How many lines of logs a core reads, beside rsyslog and mtail.

Usage: logs.py TARGET-DIR, where `attache` is. Writes files of a million lines below a directory of its own, which it removes. Says
nothing about waiting: every program has all lines before it starts, and the processor time that it took for them is what counts.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

LINES = 1_000_000
PATIENCE = 120


def write_files(directory):
    with open(f"{directory}/raw.log", "w") as raw, open(f"{directory}/json.log", "w") as json, open(f"{directory}/clf.log", "w") as clf:
        for i in range(LINES):
            raw.write(f"line {i} of a program that says what it does, again and again, and then some more of it {i % 97}\n")
            json.write(
                f'{{"time":"2026-01-02T03:04:{i % 60:02}.{i % 1000:03}Z","level":"info","msg":"request {i} done","logger":"app.http",'
                f'"status":{200 + i % 3},"took":0.0{i % 900 + 100},"user":"u{i % 1000}","path":"/api/v1/items/{i}"}}\n'
            )
            clf.write(
                f'10.0.{i % 256}.{i % 251} - - [10/Oct/2026:13:55:{i % 60:02} +0000] "GET /api/v1/items/{i} HTTP/1.1" '
                f'{[200, 200, 404, 500][i % 4]} {i % 9000} "http://example.com/" "Mozilla/5.0 (X11; Linux x86_64)"\n'
            )


def processor(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port():
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def attache(target, directory, source, parse):
    out, admin = f"{directory}/out.json", free_port()
    with open(f"{directory}/attache.toml", "w") as config:
        config.write(
            f'[[listener]]\nlisten = "127.0.0.1:{free_port()}"\nservice = "l"\n[admin]\nlisten = "127.0.0.1:{admin}"\n'
            f'[service.l.logs]\nfrom = [{{ file = "{source}" }}]\n{parse}\nto = [{{ file = "{out}" }}]\ncheckpoint = "{directory}/checkpoint"\n'
        )
    process = subprocess.Popen([f"{target}/attache", "run", "-c", f"{directory}/attache.toml"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.time() + PATIENCE
        while time.time() < deadline:
            time.sleep(0.05)
            try:
                page = urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics").read().decode()
            except OSError:
                continue
            if any(line.startswith("attache_logs_records_total") and float(line.split()[-1]) >= LINES for line in page.splitlines()):
                return processor(process.pid)
        raise SystemExit("attache did not read everything")
    finally:
        process.kill()
        process.wait()
        for name in ("out.json", "checkpoint"):
            if os.path.exists(f"{directory}/{name}"):
                os.remove(f"{directory}/{name}")


def rsyslog(directory, source):
    """Lines of a file as lines of JSON with a time and a message."""
    out, state = f"{directory}/rsyslog.json", f"{directory}/rsyslog-state"
    os.makedirs(state, exist_ok=True)
    with open(f"{directory}/rsyslog.conf", "w") as config:
        config.write(
            f'global(workDirectory="{state}" maxMessageSize="64k")\nmodule(load="imfile" mode="inotify")\n'
            'template(name="json" type="list" option.jsonf="on") {\n'
            'property(outname="ts" name="timereported" dateFormat="rfc3339" format="jsonf")\n'
            'property(outname="msg" name="msg" format="jsonf")\nproperty(outname="source" name="$!metadata!filename" format="jsonf")\n}\n'
            f'input(type="imfile" file="{source}" tag="l" ruleset="r" addMetadata="on")\n'
            f'ruleset(name="r") {{ action(type="omfile" file="{out}" template="json" asyncWriting="off" ioBufferSize="256k") }}\n'
        )
    process = subprocess.Popen(
        ["rsyslogd", "-n", "-f", f"{directory}/rsyslog.conf", "-i", f"{directory}/rsyslog.pid"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline, size = time.time() + PATIENCE, -1
        while time.time() < deadline:
            time.sleep(0.5)
            now = os.path.getsize(out) if os.path.exists(out) else 0
            # What it holds back at the end is less than its buffer.
            if now == size and now > 0:
                if int(subprocess.run(["wc", "-l", out], capture_output=True, text=True).stdout.split()[0]) < LINES * 99 // 100:
                    raise SystemExit("rsyslog did not read everything")
                return processor(process.pid)
            size = now
        raise SystemExit("rsyslog did not end")
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(state)
        if os.path.exists(out):
            os.remove(out)


def mtail(directory, source):
    """Counts requests by status: it only counts."""
    programs = f"{directory}/programs"
    os.makedirs(programs, exist_ok=True)
    with open(f"{programs}/hits.mtail", "w") as program:
        program.write(
            "counter hits_total by status\n"
            '/^(?P<client>\\S+) \\S+ \\S+ \\[(?P<ts>[^\\]]+)\\] "(?P<method>\\S+) (?P<path>\\S+) (?P<protocol>[^"]+)" (?P<status>\\d+) (?P<bytes>\\S+)/ {\n'
            "  hits_total[$status]++\n}\n"
        )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        ["mtail", "--progs", programs, "--logs", source, "--one_shot", "--one_shot_format", "prometheus"], capture_output=True, text=True, timeout=PATIENCE
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    counted = sum(float(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith("hits_total{"))
    if counted != LINES:
        done = subprocess.run(["mtail", "--progs", programs, "--logs", source, "--one_shot"], capture_output=True, text=True, timeout=PATIENCE)
        print("  (mtail says:", (done.stdout + done.stderr)[-300:].strip(), ")")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


REGEX = (
    r"""parse = { regex = '^(?<client>\S+) \S+ \S+ \[(?<ts>[^\]]+)\] "(?<method>\S+) (?<path>\S+) (?<protocol>[^"]+)" (?<status>\d+) (?<bytes>\S+)' }"""
)


def main():
    target = sys.argv[1]
    directory = tempfile.mkdtemp(prefix="logs-")
    try:
        write_files(directory)
        runs = [
            ("attache, as they are", "raw.log", lambda path: attache(target, directory, path, "")),
            ("rsyslog, as they are", "raw.log", lambda path: rsyslog(directory, path)),
            ("attache, JSON", "json.log", lambda path: attache(target, directory, path, 'parse = "json"')),
            ("attache, combined", "clf.log", lambda path: attache(target, directory, path, 'parse = "combined"')),
            ("attache, regex", "clf.log", lambda path: attache(target, directory, path, REGEX)),
            ("attache, grok", "clf.log", lambda path: attache(target, directory, path, 'parse = { grok = "%{COMBINEDAPACHELOG}" }')),
            (
                "attache, regex and a count",
                "clf.log",
                lambda path: attache(target, directory, path, REGEX + '\ncount = [{ name = "hits_total", labels = { status = "/status" } }]'),
            ),
            ("mtail, regex and a count", "clf.log", lambda path: mtail(directory, path)),
        ]
        for name, source, run in runs:
            program = {"rsyslog": "rsyslogd", "mtail": "mtail"}.get(name.split(",")[0])
            if program and not shutil.which(program):
                print(f"{name}: not installed")
                continue
            path = f"{directory}/{source}"
            took = sorted(run(path) for _ in range(3))[1]
            print(f"{name:28} {took:6.2f} s   {LINES / took / 1000:7.0f} k lines/s   {os.path.getsize(path) / took / 1e6:6.0f} MB/s   of one core", flush=True)
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
