#!/usr/bin/env python3
"""Measures attache beside its peers: CPU per request, requests per second, latency, memory.

Prints tables and the goals, and writes JSON. Asserts nothing: what cannot be started is said and left out.
README.md beside this file says how to read it.
"""

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Modules beside this file must not leave a directory of bytecode in the tree.
sys.dont_write_bytecode = True

import cases
import report
from processes import CORES, LOAD_CORE, CannotRun, allow_many_files
from proxies import ROOT, Workshop, built, envoy_binary


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", action="append", choices=cases.CASES, help="only this one; may be repeated")
    parser.add_argument("--only", default=",".join(cases.PEERS), help="proxies to measure (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each proxy in each case (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=4, help="length of each run (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="1 round of 1 s and little idling: to see that all works, not to compare")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parser.add_argument("--markdown", metavar="FILE", help="write the results there, between the marks if it has them, as README.md does")
    parser.add_argument("--from-json", metavar="FILE", help="measure nothing; show the results of an earlier run")
    args = parser.parse_args()
    args.only = tuple(args.only.split(","))
    if unknown := set(args.only) - set(cases.PEERS):
        parser.error(f"--only knows {', '.join(cases.PEERS)}, not {', '.join(unknown)}")
    return args


def first_match(pattern, *argv):
    """What a program says of its version, on whichever stream."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT)
    except OSError:
        return None
    found = re.search(pattern, done.stdout + done.stderr)
    return found.group(1) if found else None


def machine():
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return {"cpu": cpu.group(1) if cpu else platform.machine(), "cores": os.cpu_count(), "kernel": re.match(r"[\d.]*", platform.release()).group(),
            "load_average": os.getloadavg()[0]}


def versions():
    revision = first_match(r"(\w+)", "git", "rev-parse", "--short", "HEAD")
    changed = first_match(r"(\S)", "git", "status", "--porcelain", "--untracked-files=no", "--", "src", "Cargo.lock", "Cargo.toml")
    number = r"(\d+\.\d+[\w.]*)"
    found = {
        "attache": f"{first_match(number, built('attache'), '--version')} ({revision}{' and changes' if changed else ''})",
        "nginx": first_match(number, "nginx", "-v"),
        "HAProxy": first_match(number, "haproxy", "-v"),
        "OpenSSL": first_match(number, "openssl", "version"),
        "wrk": first_match(number, "wrk", "-v"),
        "h2load": first_match(number, "h2load", "--version"),
        "strace": first_match(number, "strace", "-V"),
    }
    try:
        found["Envoy"] = first_match(rf"/{number}/", envoy_binary(), "--version")
    except CannotRun:
        pass
    return {name: version for name, version in found.items() if version}


def measure(args):
    for tool in ("taskset", "openssl"):
        if not shutil.which(tool):
            sys.exit(f"the bench needs {tool}; `make bench` installs what is missing")
    if len(CORES) < 2:
        sys.exit("the bench needs two cores: one for the proxy, one for the load")
    # Load that Python itself makes belongs to the load's core.
    os.sched_setaffinity(0, {LOAD_CORE})
    settings = cases.Options(
        rounds=1 if args.quick else args.rounds,
        seconds=1 if args.quick else args.seconds,
        idle_seconds=5 if args.quick else 30,
        settle_seconds=1 if args.quick else 3,
        idle_connections=500 if args.quick else 5000,
        peers=args.only,
    )
    run = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine(),
        "versions": versions(),
        "options": {"rounds": settings.rounds, "seconds": settings.seconds, "idle_connections": settings.idle_connections},
        "cases": {},
    }
    files_max = allow_many_files()
    with tempfile.TemporaryDirectory(prefix="attache-bench-") as directory:
        # nginx's worker runs as another user, and reads its files.
        os.chmod(directory, 0o755)
        workshop = Workshop(Path(directory), files_max)
        for name in args.case or cases.CASES:
            case = cases.CASES[name]
            rows, missing = cases.run(case, workshop, settings)
            run["cases"][name] = {"title": case.title, "rows": rows, "missing": missing}
            if rows:
                print(report.table(name, case.title, rows), flush=True)
    run["goals"] = [dict(zip(("goal", "state", "figure"), line)) for line in report.Goals(run["cases"]).all()]
    return run


def main():
    args = options()
    # What was started is stopped on the way out, however we are asked to go.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # Debian keeps nginx and HAProxy where only root looks.
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    try:
        if args.from_json:
            run = json.loads(Path(args.from_json).read_text())
            for name, case in run["cases"].items():
                print(report.table(name, case["title"], case["rows"]))
        else:
            run = measure(args)
    except CannotRun as error:
        sys.exit(str(error))
    print(report.goals(run))
    if args.json:
        Path(args.json).write_text(json.dumps(run, indent=2, ensure_ascii=False) + "\n")
    if args.markdown:
        report.write_markdown(run, Path(args.markdown))


if __name__ == "__main__":
    main()
