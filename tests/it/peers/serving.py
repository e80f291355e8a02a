"""What both servers share: their options, their end, and fates that clients may ask for.

A proxy hides from a client how the other end of a call or connection saw it end. So the server keeps that
as a fate under a key of the client's choice, and tells it on another call or connection.
"""

import argparse
import asyncio
import collections

from cases import host_and_port

# A server that nobody ends does not stay.
LIFETIME_SECONDS = 900
# How long a server waits for an end that must come, before it says that it did not.
FATE_SECONDS_MAX = 10
# Clients of one test ask for what they have just done.
FATES_MAX = 4096


class Fates:
    def __init__(self):
        self.by_key = collections.OrderedDict()

    def of(self, key):
        while len(self.by_key) >= FATES_MAX:
            self.by_key.popitem(last=False)
        return self.by_key.setdefault(key, asyncio.get_running_loop().create_future())

    def tell(self, key, fate):
        future = self.of(key)
        if not future.done():
            future.set_result(fate)

    async def wait(self, key):
        """`None` if the call or connection goes on."""
        try:
            return await asyncio.wait_for(asyncio.shield(self.of(key)), FATE_SECONDS_MAX)
        except TimeoutError:
            return None


def parser(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT", type=host_and_port, help="default: a free port, printed on stdout")
    parser.add_argument("--cert", metavar="FILE", help="speak TLS with this chain")
    parser.add_argument("--key", metavar="FILE", help="key of --cert")
    parser.add_argument("--lifetime", type=float, default=LIFETIME_SECONDS, metavar="SECONDS", help="end by itself after that (default: %(default)s)")
    return parser


def parsed(parser):
    args = parser.parse_args()
    if bool(args.cert) != bool(args.key):
        parser.error("--cert and --key belong together")
    return args


async def serve_for(lifetime_seconds, host, port):
    print(f"listening {host}:{port}", flush=True)
    await asyncio.sleep(lifetime_seconds)
