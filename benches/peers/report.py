"""Tables, goals and the page of results, all from what one run wrote down.

Measures nothing and never fails a run: a goal is met, missed or not measured.
"""

import math

MICRO, COUNT, SHARE = "{:.1f}", "{:,.0f}", "{:.0%}"

# Figure → heading, spelling, unit.
COLUMNS = {
    "cpu_us": ("CPU µs/request", "{:.2f}", 1),
    "busy": ("core used", SHARE, 1),
    "others": ("others", SHARE, 1),
    "rate": ("requests/s", COUNT, 1),
    "per_cpu_second": ("per CPU second", COUNT, 1),
    "p50_us": ("p50 µs", COUNT, 1),
    "p99_us": ("p99 µs", COUNT, 1),
    "p999_us": ("p99.9 µs", COUNT, 1),
    "added_p50_us": ("p50 added", COUNT, 1),
    "added_p99_us": ("p99 added", COUNT, 1),
    "added_p999_us": ("p99.9 added", COUNT, 1),
    "slow_share": ("to the slow one", "{:.2%}", 1),
    "late": ("sent late", COUNT, 1),
    "cpu_percent": ("CPU %", "{:.4f}", 1),
    "wakeups": ("wake-ups/s", "{:.2f}", 1),
    "before": ("MB before", MICRO, 1e6),
    "resident": ("resident MB", MICRO, 1e6),
    "per_connection": ("KiB/connection", "{:.2f}", 1024),
    "calls": ("calls/request", "{:.2f}", 1),
    "calls_but_waiting": ("without waiting", "{:.2f}", 1),
    "which": ("which", "{}", None),
    "errors": ("errors", COUNT, 1),
    "cipher": ("cipher suite", "{}", None),
}
# A difference of differences, or a count that is best at 0, has no useful ratio.
WITHOUT_RATIO = {"busy", "others", "late", "slow_share", "errors", "before", "added_p50_us", "added_p99_us", "added_p999_us"}
HANDSHAKES = ("handshake-ecdsa", "handshake-rsa", "resumed-ecdsa", "resumed-rsa")


def cells(name, rows):
    """The table of a case: a heading, then a line for each row. In brackets: how many times attache's figure."""
    columns = [key for key in COLUMNS if any(key in figures for figures in rows.values())]
    headings = [COLUMNS[key][0] for key in columns]
    if name in HANDSHAKES:
        headings = [heading.replace("request", "handshake") for heading in headings]
    lines = [["", *headings]]
    for row, figures in rows.items():
        lines.append([row, *(cell(key, figures) for key in columns)])
    return lines


def cell(key, figures):
    value = figures.get(key)
    if value is None:
        return "-"
    _, spelling, unit = COLUMNS[key]
    text = spelling.format(value / unit if unit else value)
    ratio = figures["ratios"].get(key)
    if ratio is None or key in WITHOUT_RATIO:
        return text
    return f"{text} ({ratio:.2f}×)"


def table(name, title, rows):
    lines = cells(name, rows)
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    spelled = ["  ".join(word.ljust(width) if at == 0 else word.rjust(width) for at, (word, width) in enumerate(zip(line, widths))) for line in lines]
    return "\n".join([f"\n{name}: {title}", *(f"  {line}".rstrip() for line in spelled)])


# Beyond, somebody else worked on the proxy's core; below, the proxy was not what limited the rate.
OTHERS_MAX, FULL = 0.05, 0.9


def doubts(run):
    """Why the figures of this run may be worth little."""
    lines = []
    if (load := run["machine"]["load_average"]) > 0.5:
        lines.append(f"the machine was not idle before the run: load average {load:.1f}")
    shared = {name: max((row.get("others", 0) for row in case["rows"].values()), default=0) for name, case in run["cases"].items()}
    if shared := [f"{name} {share:.0%}" for name, share in shared.items() if share > OTHERS_MAX]:
        lines.append(f"others used the proxy's core, at most: {', '.join(shared)}")
    if lines:
        lines.append("CPU time suffers little from this, rates and latencies much; repeat it on a machine that does nothing else")
    return lines


class Goals:
    """The goals that attache has set itself, asked of one run. What a run did not measure is said to be so."""

    def __init__(self, cases):
        self.cases = cases
        self.lines = []

    def figure(self, case, key, row="attache"):
        value = self.cases.get(case, {}).get("rows", {}).get(row, {}).get(key)
        return math.nan if value is None else value

    def ask(self, goal, value, limit, at_most=True, spelling="{:.2f}"):
        if math.isnan(value) or math.isnan(limit):
            return self.lines.append((goal, "not measured", "-"))
        is_met = value <= limit if at_most else value >= limit
        self.lines.append((goal, "met" if is_met else "missed", spelling.format(value)))

    def against(self, what, case, key, limits, at_most=True, rows="{}"):
        """`limits`: how many times the peer's figure attache's may, or must, be."""
        sign = "≤" if at_most else "≥"
        for peer, limit in limits.items():
            theirs = self.figure(case, key, rows.format(peer))
            ours = self.figure(case, key, rows.format("attache"))
            ratio = ours / theirs if theirs else math.nan
            self.ask(f"{what} {sign} {limit:.2f} × {peer}", ratio, limit, at_most, "{:.2f} ×")

    def rate_against(self, what, case, limits):
        """A rate is a proxy's best only if its core was full; attache with time to spare could at most do better."""
        for peer, limit in limits.items():
            goal = f"{what} ≥ {limit:.2f} × {peer}"
            ratio = self.figure(case, "rate") / self.figure(case, "rate", peer)
            used = [self.figure(case, "busy", row) for row in ("attache", peer)]
            if used[1] < FULL or (used[0] < FULL and ratio < limit):
                self.lines.append((goal, "not measured", f"{ratio:.2f} × with cores {used[0]:.0%} and {used[1]:.0%} full"))
            else:
                self.ask(goal, ratio, limit, at_most=False, spelling="{:.2f} ×")

    def all(self):
        servers = ("nginx", "haproxy")
        peers = (*servers, "envoy")
        self.against("keep-alive 64, CPU/request", "keepalive-64", "cpu_us", {"nginx": 0.95, "haproxy": 0.95, "envoy": 0.30, "null": 1.30})
        self.rate_against("keep-alive 64, requests/s", "keepalive-64", dict.fromkeys(servers, 1.05))
        self.against("p99 at 5,000/s", "fixed-rate", "p99_us", dict.fromkeys(peers, 1.0))
        for case, what in (("10k", "10 KB"), ("1m", "1 MiB"), ("upload", "64 KiB uploads")):
            self.against(f"{what}, CPU/byte", case, "cpu_us", dict.fromkeys(servers, 1.0))
        self.against("TLS keep-alive, CPU/request", "tls-64", "cpu_us", dict.fromkeys(servers, 0.9))
        for case, what in zip(HANDSHAKES, ("full, ECDSA", "full, RSA", "resumed, ECDSA", "resumed, RSA")):
            self.against(f"handshakes per CPU second, {what}", case, "per_cpu_second", dict.fromkeys(servers, 1.1), at_most=False)
        on, off = (self.figure("access-log", "cpu_us", f"attache, log {state}") for state in ("on", "off"))
        self.ask("JSON access log on ≤ 1.15 × off", on / off, 1.15, spelling="{:.2f} ×")
        self.ask("resident, idle ≤ 10 MB", self.figure("idle", "resident") / 1e6, 10, spelling="{:.1f} MB")
        for case, what, limit, others in (("memory-plain", "plain", 2, ("haproxy", "envoy")), ("memory-tls", "TLS", 14, peers)):
            self.ask(f"idle {what} connection ≤ {limit} KiB", self.figure(case, "per_connection") / 1024, limit, spelling="{:.2f} KiB")
            self.against(f"idle {what} connection", case, "per_connection", dict.fromkeys(others, 1.0))
        self.ask("idle wake-ups ≤ 2 a second", self.figure("idle", "wakeups"), 2)
        self.ask("idle CPU ≤ 0.05 %", self.figure("idle", "cpu_percent"), 0.05, spelling="{:.4f} %")
        few, many = (self.figure("routes", "cpu_us", f"attache, {count} routes") for count in (10, 10_000))
        self.ask("10,000 routes ≤ 1.10 × 10 routes", many / few, 1.10, spelling="{:.2f} ×")
        # One wait serves whatever is ready, so it belongs to no request; the table shows it.
        self.ask("system calls per request, but waiting ≤ 4", self.figure("system-calls", "calls_but_waiting"), 4.05)
        for case, what in (("h2-1", "1 stream"), ("h2-100", "100 streams")):
            self.against(f"HTTP/2, {what} a connection, CPU/request", case, "cpu_us", dict.fromkeys(peers, 1.0))
        for balance in ("least-requests", "p2c", "ewma"):
            good, every = (self.figure("slow-endpoint", "p99_us", f"attache {balance}, {which}") for which in ("4 good", "with a slow one"))
            self.ask(f"{balance} with a slow endpoint, p99 ≤ 1.30 × without it", every / good, 1.30, spelling="{:.2f} ×")
        self.against("TCP stream, CPU/byte", "tcp-1m", "cpu_us", {"null": 1.05})
        return self.lines


def goals(run):
    lines = Goals(run["cases"]).all()
    width = max(len(goal) for goal, _, _ in lines)
    spelled = [f"  {goal.ljust(width)}  {state:12}  {figure}" for goal, state, figure in lines]
    return "\n".join(["\ngoals", *spelled, *(f"\nbeware: {doubt}" for doubt in doubts(run))])


BEGIN, END = "<!-- results -->\n", "<!-- end of results -->"


def write_markdown(run, path):
    """Between the two marks, if the file has them."""
    text = path.read_text() if path.exists() else BEGIN + END
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{markdown(run)}\n{END}{after}" if rest else markdown(run))


def markdown(run):
    """The results of a run as the README shows them."""
    machine, versions, options = run["machine"], run["versions"], run["options"]
    parts = [
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}; {options['rounds']} rounds of {options['seconds']} s each; {run['date']}.",
        "; ".join(f"{name} {version}" for name, version in versions.items()) + ".",
        "In brackets: how many times attache's figure.",
        *(f"Beware: {doubt}." for doubt in doubts(run)),
    ]
    for name, case in run["cases"].items():
        if case["rows"]:
            first, *lines = cells(name, case["rows"])
            parts += [f"### {case['title']}", "\n".join([as_row(first), as_row(["---"] * len(first)), *map(as_row, lines)])]
        if case["missing"]:
            parts.append("Not measured: " + "; ".join(case["missing"]) + ".")
    goal_lines = [as_row(line) for line in [("goal", "", "figure"), ("---",) * 3, *Goals(run["cases"]).all()]]
    return "\n\n".join([*parts, "### Goals", "\n".join(goal_lines)]) + "\n"


def as_row(words):
    return f"| {' | '.join(words)} |"
