"""Runs a client's cases one after another, says how each went, and lets none take forever.

Knows no protocol: a case is a coroutine that raises when it sees something wrong.
"""

import argparse
import asyncio
import faulthandler
import resource
import sys

# Far above what a slow machine needs. A case that is meant to be idle gets that time on top.
CASE_SECONDS_MAX = 30
# A case that cannot even be cancelled ends with the process.
GRACE_SECONDS_MAX = 5
WHY_MAX = 300


class Cases:
    """Cases by name. `all` leaves out the extra ones, which need a proxy set up for them."""

    def __init__(self):
        self.of_all, self.extra = {}, {}

    def case(self, function):
        self.of_all[function.__name__] = function
        return function

    def extra_case(self, function):
        self.extra[function.__name__] = function
        return function

    def parser(self, description):
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("--target", required=True, metavar="HOST:PORT", type=host_and_port)
        parser.add_argument("--ca", metavar="FILE", help="speak TLS and trust this certificate")
        parser.add_argument("--name", default="localhost", help="whose certificate it is (default: %(default)s)")
        parser.add_argument("--idle", type=float, default=3, metavar="SECONDS", help="silence that a connection must survive (default: %(default)s)")
        parser.add_argument("--case", action="append", choices=["all", *self.of_all, *self.extra], help="may be repeated (default: all)")
        return parser

    async def run(self, names, idle_seconds, *context):
        """Prints a line for each case; the number of those that failed."""
        every = self.of_all | self.extra
        failed = 0
        for name in chosen(names or ["all"], self.of_all):
            seconds_max = CASE_SECONDS_MAX + idle_seconds
            faulthandler.dump_traceback_later(seconds_max + GRACE_SECONDS_MAX, exit=True)
            try:
                async with asyncio.timeout(seconds_max) as bound:
                    await every[name](*context)
            except (Exception, asyncio.CancelledError) as error:
                failed += 1
                why = f"not done after {seconds_max:g} s" if bound.expired() else reason(error)
                print(f"FAILED {name}: {why}", flush=True)
            else:
                print(f"ok {name}", flush=True)
        # What is left is closing; it is bounded as well.
        faulthandler.dump_traceback_later(GRACE_SECONDS_MAX, exit=True)
        return failed


def chosen(names, of_all):
    for name in names:
        yield from of_all if name == "all" else [name]


def reason(error):
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= WHY_MAX else text[:WHY_MAX] + "…"


def expect(what, seen, wanted):
    """Compares without ever printing a whole large message."""
    if seen != wanted:
        raise AssertionError(f"{what}: {shown(seen)}, expected {shown(wanted)}")


def shown(value):
    text = repr(value[:64] if isinstance(value, (bytes, str)) else value)
    return f"{text} … of {len(value)}" if isinstance(value, (bytes, str)) and len(value) > 64 else text


def host_and_port(text):
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isdigit()):
        raise argparse.ArgumentTypeError(f"{text} is no HOST:PORT")
    return host, int(port)


def allow_many_files():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(run):
    try:
        failed = asyncio.run(run())
    finally:
        faulthandler.cancel_dump_traceback_later()
    sys.exit(1 if failed else 0)
