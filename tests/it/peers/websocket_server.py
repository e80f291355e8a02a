#!/usr/bin/env python3
"""A WebSocket server for websocket_client.py: what its path says, and ends that a client can ask about.

Another upgrade than to WebSockets becomes raw bytes, on the same port. Prints `listening HOST:PORT`.
"""

import asyncio
import json
import logging
import socket
import ssl
import struct
import sys
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

# Modules beside this file must not leave a directory of bytecode in the tree.
sys.dont_write_bytecode = True

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

import serving
from cases import allow_many_files

MESSAGE_BYTES_MAX = 4 << 20
REFUSAL = "not today, and here is why: " + "why " * 5000
PINGS = 20
HEAD_BYTES_MAX = 64 << 10
TUNNEL_CHUNK_BYTES = 64 << 10
GREETING = b"right behind the head"
GOODBYE = b"and that was all"
# What the tunnel makes of bytes, so that none can come back unseen.
CHANGED = bytes(byte ^ 0x20 for byte in range(256))


class Connection(ServerConnection):
    """A WebSocket as ever, unless the first head asks to upgrade to something else."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.head, self.tunnel, self.digging = b"", None, None

    def data_received(self, data):
        if self.tunnel:
            self.tunnel.feed_data(data)
        elif self.head is None:
            super().data_received(data)
        else:
            self.head += data
            if b"\r\n\r\n" in self.head or len(self.head) > HEAD_BYTES_MAX:
                self.choose()

    def eof_received(self):
        if not self.tunnel:
            return super().eof_received()
        self.tunnel.feed_eof()
        # The other direction stays open, except over TLS, where asyncio cannot do that.
        return self.transport.get_extra_info("ssl_object") is None

    def connection_lost(self, error):
        if self.tunnel:
            self.tunnel.feed_eof()
        super().connection_lost(error)

    def choose(self):
        head, _, behind = self.head.partition(b"\r\n\r\n")
        if b"\r\nupgrade: echo-protocol" not in head.lower():
            head, self.head = self.head, None
            super().data_received(head)
            return
        self.tunnel = asyncio.StreamReader(limit=TUNNEL_CHUNK_BYTES)
        self.tunnel.set_transport(self.transport)
        self.tunnel.feed_data(behind)
        path = head.split(b" ", 2)[1]
        self.digging = asyncio.create_task(self.dig(GREETING if path == b"/greeting" else b""))

    async def dig(self, greeting):
        # In one piece, so that it travels as one.
        self.transport.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo-protocol\r\n\r\n" + greeting)
        while chunk := await self.tunnel.read(TUNNEL_CHUNK_BYTES):
            self.transport.write(chunk.translate(CHANGED))
            await self.drain()
        self.transport.write(GOODBYE)
        self.transport.close()


class Peer:
    def __init__(self):
        self.fates = serving.Fates()
        self.open = 0

    async def serve(self, connection):
        url = urlsplit(connection.request.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        # Refused paths never come here, and an unknown one is a mistake of the client's.
        behaviour = getattr(self, "on_" + url.path.strip("/"))
        self.open += 1
        try:
            await behaviour(connection, query)
            await connection.wait_closed()
        except ConnectionClosed:
            pass
        finally:
            self.open -= 1
            if "key" in query:
                self.fates.tell(query["key"], {"code": connection.close_code, "reason": connection.close_reason})

    async def on_echo(self, connection, query):
        async for message in connection:
            await connection.send(message)

    async def on_fragments(self, connection, query):
        """Gives each fragment back as it comes, of one message."""

        async def coming():
            async for fragment in connection.recv_streaming():
                yield fragment

        while True:
            await connection.send(coming())

    async def on_ping(self, connection, query):
        slowest = 0
        for _ in range(PINGS):
            slowest = max(slowest, await (await connection.ping()))
        await connection.send(json.dumps({"slowest_seconds": slowest}))

    async def on_close(self, connection, query):
        if "at_once" not in query:
            await connection.recv()
        await connection.close(int(query["code"]), query.get("reason", ""))

    async def on_abort(self, connection, query):
        await connection.recv()
        reset(connection)

    async def on_idle(self, connection, query):
        await asyncio.sleep(float(query["seconds"]))
        await connection.send("awake")

    async def on_facts(self, connection, query):
        facts = {
            "subprotocol": connection.subprotocol,
            "extensions": [extension.name for extension in connection.protocol.extensions],
            "open": self.open,
            "headers": list(connection.request.headers.raw_items()),
            "path": connection.request.path,
        }
        await connection.send(json.dumps(facts))
        await self.on_echo(connection, query)

    async def on_fate(self, connection, query):
        await connection.send(json.dumps(await self.fates.wait(await connection.recv())))


def reset(connection):
    """Ends with a TCP reset."""
    connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.transport.abort()


def refuse(connection, request):
    if request.path != "/refuse":
        return None
    response = connection.respond(HTTPStatus.FORBIDDEN, REFUSAL)
    response.headers["X-Reason"] = "a test"
    return response


def dress(connection, request, response):
    for name in request.headers.get_all("X-Wanted"):
        response.headers["X-Answered"] = name
    if request.headers.get_all("X-Wanted"):
        response.headers["Set-Cookie"] = "a=1; Path=/"
        response.headers["Set-Cookie"] = "b=2"
    return None


async def main():
    args = serving.parsed(serving.parser(__doc__.splitlines()[0]))
    allow_many_files()
    # Resets are what clients do here; they are told as fates.
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    tls = None
    if args.cert:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(args.cert, args.key)
    host, port = args.listen
    options = {"process_request": refuse, "process_response": dress, "create_connection": Connection, "ssl": tls, "backlog": 1024}
    # Silence is one of the things that are tested, and a tunnel never ends its opening.
    bounds = {"ping_interval": None, "open_timeout": None, "max_size": MESSAGE_BYTES_MAX}
    async with serve(Peer().serve, host, port, select_subprotocol=select, **options, **bounds) as server:
        await serving.serve_for(args.lifetime, host, server.sockets[0].getsockname()[1])


def select(connection, offered):
    """The last one we know: a proxy that reorders them, or keeps one, shows."""
    known = [name for name in offered if name.endswith(".example")]
    return known[-1] if known else None


asyncio.run(main())
