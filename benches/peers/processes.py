"""Starts programs on a core of their own, and reads from /proc what they use.

Ends only what it started itself.
"""

import contextlib
import os
import re
import resource
import signal
import socket
import subprocess
import time
from pathlib import Path

CORES = sorted(os.sched_getaffinity(0))
# The measured proxy has the first core to itself; origin and load share another one.
PROXY_CORE, LOAD_CORE = CORES[0], CORES[-1]
FILES_WANTED = 65536
# Envoy reads 10,000 routes for some seconds.
START_SECONDS_MAX = 60


class CannotRun(RuntimeError):
    """What is missing here, or does not start. The bench says so and goes on."""


def allow_many_files():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES_WANTED, max(FILES_WANTED, hard)))
        return FILES_WANTED
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def pin(core, *argv):
    return ["taskset", "-c", str(core), *map(str, argv)]


def idle_seconds(core):
    """For how long nobody has used the core, since the machine started."""
    fields = re.search(rf"^cpu{core} (.*)$", Path("/proc/stat").read_text(), re.M).group(1).split()
    return (int(fields[3]) + int(fields[4])) / os.sysconf("SC_CLK_TCK")


def tree(pid):
    """The process and everything below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                found += tree(int(child))
    return found


class Process:
    """A running program that listens on a port."""

    def __init__(self, name, argv, port, log, core=PROXY_CORE):
        self.name, self.port = name, port
        with open(log, "wb") as output:
            self.process = subprocess.Popen(pin(core, *argv), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            self.wait_until_it_listens(log)
        except BaseException:
            self.stop()
            raise

    def wait_until_it_listens(self, log):
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self.is_listening():
            if self.process.poll() is not None:
                words = Path(log).read_text(errors="replace").strip().splitlines()
                raise CannotRun(f"{self.name} ended with {self.process.returncode}: {words[-1] if words else 'it said nothing'}")
            if time.monotonic() > deadline:
                raise CannotRun(f"{self.name} does not listen")
            time.sleep(0.05)

    def is_listening(self):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def stop(self):
        for pid in reversed(tree(self.process.pid)):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def pids(self):
        return tree(self.process.pid)

    def _of_threads(self, file):
        for pid in self.pids():
            for path in Path(f"/proc/{pid}/task").glob(f"*/{file}"):
                with contextlib.suppress(OSError):
                    yield path.read_text()

    def cpu_ns(self):
        """Time on a core of all threads there are. `stat` counts in ticks of 10 ms, which is too coarse."""
        return sum(int(text.split()[0]) for text in self._of_threads("schedstat"))

    def wakeups(self):
        """Each time a thread begins to wait, it must have been woken before."""
        return sum(int(n) for text in self._of_threads("status") for n in re.findall(r"voluntary_ctxt_switches:\s+(\d+)", text))

    def resident_bytes(self):
        """Pages that master and worker share are counted once."""
        own, shared = 0, [0]
        for pid in self.pids():
            with contextlib.suppress(OSError):
                kilobytes = dict(re.findall(r"^(\w+):\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M))
                own += int(kilobytes["Private_Clean"]) + int(kilobytes["Private_Dirty"])
                shared.append(int(kilobytes["Shared_Clean"]) + int(kilobytes["Shared_Dirty"]))
        return (own + max(shared)) * 1024
