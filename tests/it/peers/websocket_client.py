#!/usr/bin/env python3
"""Speaks to websocket_server.py, directly or through a proxy, and says what did not get through.

One line a case, `ok NAME` or `FAILED NAME: why`. Knows WebSockets over HTTP/1.1 only, as its library does.
"""

import asyncio
import json
import os
import socket
import ssl
import struct
import sys
import uuid
from urllib.parse import quote

# Modules beside this file must not leave a directory of bytecode in the tree.
sys.dont_write_bytecode = True

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from cases import Cases, allow_many_files, expect, main

MIB = 1 << 20
MESSAGE_BYTES_MAX = 4 * MIB
PINGS = 20
# Generous: a ping that waits for something else waits longer.
LATENCY_SECONDS_MAX = 1
CONNECTIONS, OPENING_AT_ONCE = 1000, 50
STEP_SECONDS_MAX = 15
CLOSES = [(1000, ""), (1000, "done"), (1001, "going away"), (4000, "ünïcode, and of our own")]
TUNNEL_BYTES = 4 * MIB
TUNNEL_CHUNK_BYTES = 64 << 10
# As the server has them.
GREETING = b"right behind the head"
GOODBYE = b"and that was all"
CHANGED = bytes(byte ^ 0x20 for byte in range(256))

CASES = Cases()
case, extra_case = CASES.case, CASES.extra_case


class Peer:
    def __init__(self, args):
        self.host, self.port = args.target
        self.tls = ssl.create_default_context(cafile=args.ca) if args.ca else None
        self.name = args.name if args.ca else self.host
        self.idle_seconds = args.idle

    def open(self, path, **more):
        """A connection without own pings: silence stays silent. Large messages are not made small unless asked."""
        scheme = "wss" if self.tls else "ws"
        options = {"proxy": None, "ping_interval": None, "compression": None, "max_size": MESSAGE_BYTES_MAX} | more
        if self.tls:
            options["ssl"] = self.tls
        url = f"{scheme}://{self.name}:{self.port}{path}"
        return connect(url, host=self.host, port=self.port, open_timeout=STEP_SECONDS_MAX, close_timeout=STEP_SECONDS_MAX, **options)

    async def raw(self):
        return await asyncio.open_connection(self.host, self.port, ssl=self.tls, server_hostname=self.name if self.tls else None)

    async def fate(self, key):
        """How the server saw a connection end."""
        async with self.open("/fate") as connection:
            await connection.send(key)
            fate = json.loads(await connection.recv())
        if fate is None:
            raise AssertionError("the server never saw the connection end")
        return fate


def new_key():
    return uuid.uuid4().hex


async def expect_echo(connection, message):
    await connection.send(message)
    expect("echo", await connection.recv(), message)


async def expect_closed(connection, code, reason):
    """The end, and nothing before it."""
    try:
        message = await connection.recv()
    except ConnectionClosed:
        expect("code and reason at the client", (connection.close_code, connection.close_reason), (code, reason))
        return
    raise AssertionError(f"a message instead of the end: {message[:64]!r}")


@case
async def echo(peer):
    async with peer.open("/echo") as connection:
        for message in ["text", "", "ünïcode ☃ 𝄞", b"binary \x00\xff", b""]:
            await expect_echo(connection, message)


@case
async def lengths(peer):
    """Around the two places where a frame's length is written in more bytes, and a MiB."""
    async with peer.open("/echo") as connection:
        for length in [1, 125, 126, 127, 65535, 65536, MIB]:
            await expect_echo(connection, os.urandom(length))
            await expect_echo(connection, "t" * length)


@case
async def many_messages(peer):
    """Sent while others come back."""
    messages = [f"{number} ".encode() * (number % 700) for number in range(2000)]
    async with peer.open("/echo") as connection:

        async def send():
            for message in messages:
                await connection.send(message)

        sending = asyncio.create_task(send())
        for number, message in enumerate(messages):
            expect(f"message {number}", await connection.recv(), message)
        await sending


@case
async def fragments(peer):
    """The next fragment is not sent before the last has come back: nothing may wait for a whole message."""
    async with peer.open("/fragments") as connection:
        for parts in [["one, ", "two, ☃, ", "", "three"], [b"\x00" * 70_000, b"1", b"\xff" * 300]]:
            returned = asyncio.Queue()

            async def slowly():
                for part in parts:
                    yield part
                    # The server is at liberty to say nothing of an empty one.
                    if part:
                        expect("fragment", await asyncio.wait_for(returned.get(), STEP_SECONDS_MAX), part)
                        await asyncio.wait_for(await connection.ping(), STEP_SECONDS_MAX)

            async def receive():
                async for part in connection.recv_streaming():
                    if part:
                        returned.put_nowait(part)

            receiving = asyncio.create_task(receive())
            await connection.send(slowly())
            await receiving


@case
async def ping_from_client(peer):
    async with peer.open("/echo") as connection:
        for payload in [None, b"", b"p" * 125]:
            await asyncio.wait_for(await connection.ping(payload), STEP_SECONDS_MAX)
        for _ in range(PINGS):
            latency = await asyncio.wait_for(await connection.ping(), STEP_SECONDS_MAX)
            expect(f"{latency:.3f} s are little", latency < LATENCY_SECONDS_MAX, True)


@case
async def ping_from_server(peer):
    async with peer.open("/ping") as connection:
        slowest = json.loads(await connection.recv())["slowest_seconds"]
        expect(f"{slowest:.3f} s are little", slowest < LATENCY_SECONDS_MAX, True)


@case
async def close_by_client(peer):
    for code, reason in CLOSES:
        key = new_key()
        connection = await peer.open(f"/echo?key={key}")
        await expect_echo(connection, "before the end")
        await connection.close(code, reason)
        expect("code and reason at the client", (connection.close_code, connection.close_reason), (code, reason))
        expect("fate at the server", await peer.fate(key), {"code": code, "reason": reason})


@case
async def close_by_server(peer):
    for code, reason in CLOSES:
        key = new_key()
        async with peer.open(f"/close?code={code}&reason={quote(reason)}&key={key}") as connection:
            await connection.send("now")
            await expect_closed(connection, code, reason)
        expect("fate at the server", await peer.fate(key), {"code": code, "reason": reason})


@case
async def close_by_server_at_once(peer):
    """The closing frame follows the 101 as closely as it can."""
    for _ in range(20):
        async with peer.open("/close?code=4000&at_once=yes") as connection:
            await expect_closed(connection, 4000, "")


@case
async def abort_by_client(peer):
    key = new_key()
    connection = await peer.open(f"/echo?key={key}")
    await expect_echo(connection, "before the end")
    connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.transport.abort()
    expect("code at the server", (await peer.fate(key))["code"], 1006)


@case
async def abort_by_server(peer):
    async with peer.open("/abort") as connection:
        await connection.send("now")
        await expect_closed(connection, 1006, "")


@case
async def subprotocol(peer):
    for offered, chosen in [(["a.example", "x", "b.example"], "b.example"), (["b.example", "a.example"], "a.example"), (["x"], None), (None, None)]:
        async with peer.open("/facts", subprotocols=offered) as connection:
            facts = json.loads(await connection.recv())
            expect(f"of {offered}, at client and server", (connection.subprotocol, facts["subprotocol"]), (chosen, chosen))


@case
async def deflate(peer):
    async with peer.open("/facts", compression="deflate") as connection:
        facts = json.loads(await connection.recv())
        expect("extensions at the server", facts["extensions"], ["permessage-deflate"])
        expect("at the client", [extension.name for extension in connection.protocol.extensions], ["permessage-deflate"])
        # The second one is made with what both ends remember of the first.
        for message in ["again and again " * 65536, "again and again " * 65536, os.urandom(MIB), ""]:
            await expect_echo(connection, message)
    async with peer.open("/facts") as connection:
        expect("extensions nobody asked for", json.loads(await connection.recv())["extensions"], [])


@case
async def headers(peer):
    sent = [
        ("X-Wanted", "first, with a comma"),
        ("X-Wanted", "second"),
        ("Cookie", "session=abc; other=d"),
        ("Authorization", "Bearer token=="),
        ("X-Long", "l" * 4000),
    ]
    path = "/facts?a=%2F%20b&c=%E2%98%83"
    async with peer.open(path, additional_headers=sent, origin="https://other.example") as connection:
        facts = json.loads(await connection.recv())
        expect("path", facts["path"], path)
        for name, values in grouped([*sent, ("Origin", "https://other.example")]):
            expect(name, [value for seen, value in facts["headers"] if seen.lower() == name.lower()], values)
        answered = connection.response.headers
        expect("X-Answered", answered.get_all("X-Answered"), ["first, with a comma", "second"])
        expect("Set-Cookie", answered.get_all("Set-Cookie"), ["a=1; Path=/", "b=2"])


def grouped(pairs):
    return {name: [value for other, value in pairs if other == name] for name, _ in pairs}.items()


@case
async def many(peer):
    """All are open before the first of them says anything."""
    gate = asyncio.Semaphore(OPENING_AT_ONCE)
    connections = []

    async def open_one():
        async with gate:
            connections.append(await peer.open("/echo"))

    async def talk(number, connection):
        for size in [1, 1000, 5]:
            await expect_echo(connection, f"{number}." * size)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(open_one())
        async with peer.open("/facts") as connection:
            count = json.loads(await connection.recv())["open"]
            expect(f"{count} at once are all", count > CONNECTIONS, True)
        await asyncio.gather(*(talk(number, connection) for number, connection in enumerate(connections)))
    finally:
        await asyncio.gather(*(connection.close() for connection in connections))


@case
async def idle(peer):
    """Nothing in either direction for a while; then one connection hears from its client, another from its server."""

    async def client_wakes():
        async with peer.open("/echo") as connection:
            await asyncio.sleep(peer.idle_seconds)
            await expect_echo(connection, "awake")

    async def server_wakes():
        async with peer.open(f"/idle?seconds={peer.idle_seconds}") as connection:
            expect("after the silence", await connection.recv(), "awake")

    await asyncio.gather(client_wakes(), server_wakes())


@case
async def refused(peer):
    try:
        async with peer.open("/refuse"):
            pass
    except InvalidStatus as error:
        response = error.response
        expect("status", response.status_code, 403)
        expect("X-Reason", response.headers.get_all("X-Reason"), ["a test"])
        expect("body", response.body.decode(), "not today, and here is why: " + "why " * 5000)
        return
    raise AssertionError("it was not refused")


class Tunnel:
    """Another upgrade than to WebSockets, by hand."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.writer.transport.abort()

    async def expect_switched(self):
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), STEP_SECONDS_MAX)).decode()
        expect("status line", head.split("\r\n")[0].split(" ")[:2], ["HTTP/1.1", "101"])
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
        expect("Upgrade", fields.get("upgrade"), "echo-protocol")
        expect("Connection", fields.get("connection"), "upgrade")

    async def expect_bytes(self, what, wanted):
        expect(what, await asyncio.wait_for(self.reader.readexactly(len(wanted)), STEP_SECONDS_MAX), wanted)

    async def expect_echo(self, sent):
        self.writer.write(sent)
        await self.expect_bytes("echo", sent.translate(CHANGED))


async def tunnel(peer, path, behind=b""):
    """`behind` goes out with the head, in one piece."""
    own = Tunnel(*await peer.raw())
    head = f"GET {path} HTTP/1.1\r\nHost: {peer.name}:{peer.port}\r\nConnection: Upgrade\r\nUpgrade: echo-protocol\r\n\r\n"
    own.writer.write(head.encode() + behind)
    return own


@case
async def upgrade(peer):
    async with await tunnel(peer, "/") as own:
        await own.expect_switched()
        for number in range(50):
            await own.expect_echo(b"%d raw \x00\xff\r\n\r\n" % number)


@case
async def upgrade_without_waiting(peer):
    """Bytes right behind the request's head: a few, and more than a head's buffer takes."""
    for behind in [b"e", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", os.urandom(100_000)]:
        async with await tunnel(peer, "/", behind) as own:
            await own.expect_switched()
            await own.expect_bytes("echo of what came early", behind.translate(CHANGED))
            await own.expect_echo(b"and on")


@case
async def upgrade_with_greeting(peer):
    """Bytes from the server in the same segment as its 101."""
    for behind in [b"", b"early"]:
        async with await tunnel(peer, "/greeting", behind) as own:
            await own.expect_switched()
            await own.expect_bytes("greeting", GREETING)
            await own.expect_bytes("echo of what came early", behind.translate(CHANGED))
            await own.expect_echo(b"and on")


@case
async def upgrade_bulk(peer):
    """Both directions full at once."""
    message = os.urandom(TUNNEL_BYTES)
    async with await tunnel(peer, "/") as own:
        await own.expect_switched()

        async def send():
            for start in range(0, len(message), TUNNEL_CHUNK_BYTES):
                own.writer.write(message[start : start + TUNNEL_CHUNK_BYTES])
                await own.writer.drain()

        sending = asyncio.create_task(send())
        await own.expect_bytes("4 MiB back", message.translate(CHANGED))
        await sending


@extra_case
async def upgrade_half_close(peer):
    """A client that has said all still hears the rest. Not over TLS, where asyncio cannot say so; and nginx ends both
    directions here, so this is not among all."""
    message = os.urandom(300_000)
    async with await tunnel(peer, "/", message) as own:
        own.writer.write_eof()
        await own.expect_switched()
        await own.expect_bytes("all, and the goodbye", message.translate(CHANGED) + GOODBYE)
        expect("what follows", await asyncio.wait_for(own.reader.read(1), STEP_SECONDS_MAX), b"")


async def run():
    args = CASES.parser(__doc__.splitlines()[0]).parse_args()
    allow_many_files()
    return await CASES.run(args.case, args.idle, Peer(args))


main(run)
