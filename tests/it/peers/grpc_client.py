#!/usr/bin/env python3
"""Calls grpc_server.py, directly or through a proxy, and says what a call did not get.

One line a case, `ok NAME` or `FAILED NAME: why`. All cases share a channel, so that one call's end can be seen
to harm another.
"""

import asyncio
import hashlib
import itertools
import json
import sys
import uuid
from pathlib import Path

# Modules beside this file must not leave a directory of bytecode in the tree.
sys.dont_write_bytecode = True

import grpc

from cases import Cases, expect, main

SERVICE = "attache.Peer"
LARGE_BYTES = 8 << 20
# Calls at once, and how many of them a proxy must let through at the same time.
CALLS, CALLS_TOGETHER = 200, 50
DEADLINE_SECONDS = 0.5
# Deadlines travel as rounded numbers.
ROUNDING_SECONDS_MAX = 0.05
# What may lie between a server that sends without end and a client that does not read.
UNREAD_BYTES_MAX = 32 << 20
FLOW_MESSAGE_BYTES = 64 << 10
CALL_SECONDS_MAX = 20

CASES = Cases()
case, extra_case = CASES.case, CASES.extra_case


class Peer:
    """The server's methods, each with the kind of call that it is."""

    def __init__(self, channel, blocking_channel, idle_seconds):
        self.channel, self.blocking_channel, self.idle_seconds = channel, blocking_channel, idle_seconds

    def unary(self, method, request=b"", timeout=CALL_SECONDS_MAX, **more):
        return self.channel.unary_unary(f"/{SERVICE}/{method}")(request, timeout=timeout, **more)

    def download(self, method, request=b"", **more):
        return self.channel.unary_stream(f"/{SERVICE}/{method}")(request, **more)

    def upload(self, method, requests=None, **more):
        return self.channel.stream_unary(f"/{SERVICE}/{method}")(requests, **more)

    def both_ways(self, method, **more):
        return self.channel.stream_stream(f"/{SERVICE}/{method}")(**more)

    async def expect_cancelled(self, key):
        fate = json.loads(await self.unary("Fate", key))
        if fate is None:
            raise AssertionError("the server never saw the call end")
        expect(f"cancelled at the server ({fate['error']})", fate["is_cancelled"], True)
        return fate


def new_key():
    return uuid.uuid4().hex.encode()


async def expect_status(what, call, code):
    """The error with which a call must end."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        expect(f"status of {what} ({error.details()})", error.code(), code)
        return error
    raise AssertionError(f"{what}: succeeded, expected {code}")


async def drained(call):
    return [message async for message in call]


async def alternate(stream, rounds, size=64):
    """Strictly in turns: a message that is held back stops all."""
    for number in range(rounds):
        message = number.to_bytes(4, "big") * (size // 4)
        try:
            await stream.write(message)
        except asyncio.InvalidStateError:
            raise AssertionError(f"ended before message {number}: {await stream.code()}, {await stream.details()}") from None
        expect(f"answer {number}", await stream.read(), message[::-1])


async def finish(stream):
    await stream.done_writing()
    expect("what follows the last answer", await stream.read(), grpc.aio.EOF)
    expect("status", await stream.code(), grpc.StatusCode.OK)


@case
async def unary(peer):
    # Nothing, the lengths around a frame's, and a bit of everything.
    for size in [0, 1, 16378, 16379, 16380, 100_000]:
        message = bytes(number % 251 for number in range(size))
        expect(f"{size} bytes", await peer.unary("Echo", message), message)


@case
async def client_streaming(peer):
    messages = [number.to_bytes(4, "big") * 2500 for number in range(100)]
    answer = json.loads(await peer.upload("Collect", iter(messages), timeout=CALL_SECONDS_MAX))
    joined = b"".join(messages)
    expect("what was collected", answer, {"count": 100, "bytes": len(joined), "sha256": hashlib.sha256(joined).hexdigest()})
    nothing = json.loads(await peer.upload("Collect", iter([]), timeout=CALL_SECONDS_MAX))
    expect("messages of an empty stream", nothing["count"], 0)


@case
async def server_streaming(peer):
    for count, size in [(0, 0), (1, 0), (500, 4000)]:
        request = json.dumps({"count": count, "bytes": size}).encode()
        got = await drained(peer.download("Count", request, timeout=CALL_SECONDS_MAX))
        expect(f"{count} messages", got == [number.to_bytes(4, "big") * (size // 4) for number in range(count)], True)


@case
async def bidi(peer):
    stream = peer.both_ways("PingPong", timeout=CALL_SECONDS_MAX)
    await alternate(stream, 200)
    await finish(stream)


@case
async def large(peer):
    message = hashlib.sha256(b"large").digest() * (LARGE_BYTES // 32)
    expect("8 MiB there and back", await peer.unary("Echo", message), message)
    stream = peer.both_ways("PingPong", timeout=CALL_SECONDS_MAX)
    await alternate(stream, 2, LARGE_BYTES)
    await finish(stream)


@case
async def metadata(peer):
    sent = [
        ("x-plain", "text with spaces, commas; and = signs"),
        ("x-empty", ""),
        ("x-many", "first"),
        ("x-many", "second"),
        ("x-long", "l" * 2000),
        ("x-every-bin", bytes(range(256))),
        ("x-none-bin", b""),
        ("x-one-bin", b"\xff"),
        ("x-two-bin", b"\x00,\x00"),
    ]
    there = [(prefix + key, value) for prefix in ("echo-", "trail-") for key, value in sent]
    stream = peer.both_ways("Metadata", metadata=there, timeout=CALL_SECONDS_MAX)
    # Before any message: a proxy that waits for one holds both ends up.
    initial = await asyncio.wait_for(stream.initial_metadata(), CALL_SECONDS_MAX / 2)
    expect_metadata("initial", initial, sent)
    await stream.write(b"a message")
    expect("the message", await stream.read(), b"a message")
    await finish(stream)
    expect_metadata("trailing", await stream.trailing_metadata(), sent)


def expect_metadata(what, seen, sent):
    """Order matters within a key only."""
    for key in dict(sent):
        wanted = [value for name, value in sent if name == key]
        expect(f"{what} {key}", [value for name, value in seen if name == key], wanted)


@case
async def trailers(peer):
    details = "spaces, 100 %, ünïcode ☃ and\na second line"
    for messages in [0, 3]:
        request = json.dumps({"code": grpc.StatusCode.FAILED_PRECONDITION.value[0], "details": details, "messages": messages})
        call = peer.download("Fail", request.encode(), timeout=CALL_SECONDS_MAX)
        got = []
        error = await expect_status(f"{messages} messages", gather_into(got, call), grpc.StatusCode.FAILED_PRECONDITION)
        expect("messages before the status", got, [b"before the end"] * messages)
        expect("details", error.details(), details)
        expect_metadata("trailing", error.trailing_metadata(), [("x-trailer", "of plain text"), ("x-trailer-bin", bytes(range(256)))])


async def gather_into(got, call):
    async for message in call:
        got.append(message)


@case
async def statuses(peer):
    for code in grpc.StatusCode:
        if code is grpc.StatusCode.OK:
            continue
        for messages in [0, 1]:
            request = json.dumps({"code": code.value[0], "details": code.name, "messages": messages}).encode()
            error = await expect_status(code.name, drained(peer.download("Fail", request, timeout=CALL_SECONDS_MAX)), code)
            expect(f"details of {code.name}", error.details(), code.name)
    await expect_status("no such method", peer.unary("Nothing"), grpc.StatusCode.UNIMPLEMENTED)


@case
async def early_status(peer):
    """The server has enough of an upload that it has not read."""
    error = await asyncio.to_thread(refused_upload, peer)
    expect(f"status ({error.details()})", error.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
    expect("details", error.details(), "no more of this")


def refused_upload(peer):
    """Without asyncio, where grpcio lets a failed write replace the status that explains it."""
    with peer.blocking_channel() as channel:
        try:
            channel.stream_unary(f"/{SERVICE}/Refuse")(itertools.repeat(bytes(FLOW_MESSAGE_BYTES)), timeout=CALL_SECONDS_MAX)
        except grpc.RpcError as error:
            return error
    raise AssertionError("the upload succeeded")


@case
async def deadline(peer):
    key = new_key()
    await expect_status("a slow call", peer.unary("Sleep", key, timeout=DEADLINE_SECONDS), grpc.StatusCode.DEADLINE_EXCEEDED)
    fate = await peer.expect_cancelled(key)
    remaining = fate["remaining_seconds"]
    expect(f"the server knew of the deadline ({remaining} s)", remaining is not None and 0 < remaining <= DEADLINE_SECONDS + ROUNDING_SECONDS_MAX, True)


@case
async def cancel_waiting(peer):
    """Neither side is saying anything, and no deadline will help the server."""
    key = new_key()
    stream = peer.both_ways("Listen")
    await stream.write(key)
    expect("the first message", await stream.read(), b"listening")
    stream.cancel()
    await peer.expect_cancelled(key)


@case
async def cancel_download(peer):
    key = new_key()
    call = peer.download("Flow", key)
    for _ in range(5):
        await call.read()
    call.cancel()
    await peer.expect_cancelled(key)


@case
async def cancel_upload(peer):
    key = new_key()
    stream = peer.both_ways("Listen")
    await stream.write(key)
    await stream.read()

    async def push():
        while True:
            await stream.write(bytes(FLOW_MESSAGE_BYTES))

    pushing = asyncio.create_task(push())
    await asyncio.wait([pushing], timeout=0.1)
    stream.cancel()
    await asyncio.gather(pushing, return_exceptions=True)
    await peer.expect_cancelled(key)


@case
async def slow_reader(peer):
    """A client that does not read slows its server, and later gets every message."""
    key = new_key()
    call = peer.download("Flow", key)
    first = await call.read()
    expect("the first message", first[:4], bytes(4))
    sent = await settled(lambda: peer.unary("Sent", key))
    expect(f"{sent * FLOW_MESSAGE_BYTES >> 20} MiB unread stay bounded", sent * FLOW_MESSAGE_BYTES <= UNREAD_BYTES_MAX, True)
    for number in range(1, sent + 100):
        expect(f"message {number}", int.from_bytes((await call.read())[:4], "big"), number)
    call.cancel()
    await peer.expect_cancelled(key)


async def settled(ask):
    """A count, as soon as it stays the same for a while. One that never does is far too large in the end."""
    seen, same = -1, 0
    while same < 5:
        await asyncio.sleep(0.1)
        now = json.loads(await ask())
        same = same + 1 if now == seen else 0
        seen = now
        if seen * FLOW_MESSAGE_BYTES > UNREAD_BYTES_MAX:
            break
    return seen


@case
async def concurrent(peer):
    """Calls that cannot end before many of them have arrived."""
    key = new_key().decode()
    requests = [json.dumps({"key": key, "together": CALLS_TOGETHER, "number": number}).encode() for number in range(CALLS)]
    answers = await asyncio.gather(*(peer.unary("Meet", request) for request in requests))
    expect("every answer is its own", answers == requests, True)


@case
async def neighbours(peer):
    """What happens to other calls leaves this one alone."""
    stream = peer.both_ways("PingPong", timeout=CALL_SECONDS_MAX)
    for _ in range(20):
        await alternate(stream, 5)
        key = new_key()
        cancelled = peer.download("Flow", key)
        await cancelled.read()
        failing = json.dumps({"code": 13, "details": "", "messages": 1}).encode()
        await expect_status("a neighbour", drained(peer.download("Fail", failing, timeout=CALL_SECONDS_MAX)), grpc.StatusCode.INTERNAL)
        cancelled.cancel()
    await finish(stream)


@case
async def idle(peer):
    stream = peer.both_ways("PingPong")
    await alternate(stream, 1)
    await asyncio.sleep(peer.idle_seconds)
    await alternate(stream, 1)
    await finish(stream)


@extra_case
async def unavailable(peer):
    """For a proxy whose endpoint is gone: it must say so as gRPC does, not with an HTTP status and not by hanging up."""
    error = await expect_status("a call", peer.unary("Echo"), grpc.StatusCode.UNAVAILABLE)
    own_words = ["failed to connect to all addresses", "http2 header with status", "Socket closed", "GOAWAY", "Connection reset", "recvmsg"]
    expect(f"said by the proxy, not by the client ({error.details()})", any(words in error.details() for words in own_words), False)


async def run():
    args = CASES.parser(__doc__.splitlines()[0]).parse_args()
    target = "{}:{}".format(*args.target)
    options = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.enable_http_proxy", 0),
        # A call that was tried twice would hide that it failed once.
        ("grpc.enable_retries", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]

    def channel_of(kind):
        if not args.ca:
            return kind.insecure_channel(target, options)
        credentials = grpc.ssl_channel_credentials(Path(args.ca).read_bytes())
        return kind.secure_channel(target, credentials, [*options, ("grpc.ssl_target_name_override", args.name)])

    async with channel_of(grpc.aio) as channel:
        return await CASES.run(args.case, args.idle, Peer(channel, lambda: channel_of(grpc), args.idle))


main(run)
