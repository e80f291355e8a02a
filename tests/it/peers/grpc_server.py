#!/usr/bin/env python3
"""A gRPC server of bytes, for grpc_client.py: every kind of call, and ends that a client can ask about.

Knows no .proto: a request is bytes, or JSON where it must say something. Prints `listening HOST:PORT`.
"""

import asyncio
import hashlib
import json
import sys
from pathlib import Path

# Modules beside this file must not leave a directory of bytecode in the tree.
sys.dont_write_bytecode = True

import grpc

import serving

SERVICE = "attache.Peer"
FLOW_MESSAGE_BYTES = 64 << 10
FOREVER = 3600
ECHOED, TRAILED = "echo-", "trail-"


def as_json(value):
    return json.dumps(value).encode()


class Peer:
    def __init__(self):
        self.fates = serving.Fates()
        # By key: how many messages a flow could send, who waits in a meeting.
        self.sent, self.meetings = {}, {}

    # The four kinds of call.

    async def Echo(self, request, context):
        return request

    async def Collect(self, requests, context):
        count, total, digest = 0, 0, hashlib.sha256()
        async for message in requests:
            count, total = count + 1, total + len(message)
            digest.update(message)
        return as_json({"count": count, "bytes": total, "sha256": digest.hexdigest()})

    async def Count(self, request, context):
        wanted = json.loads(request)
        for number in range(wanted["count"]):
            yield number.to_bytes(4, "big") * (wanted["bytes"] // 4)

    async def PingPong(self, requests, context):
        async for message in requests:
            yield message[::-1]

    # What stands around messages.

    async def Metadata(self, requests, context):
        """Headers go out at once: a client must see them before it has sent a message."""
        metadata = context.invocation_metadata()
        await context.send_initial_metadata([(key[len(ECHOED):], value) for key, value in metadata if key.startswith(ECHOED)])
        context.set_trailing_metadata([(key[len(TRAILED):], value) for key, value in metadata if key.startswith(TRAILED)])
        async for message in requests:
            yield message

    async def Fail(self, request, context):
        """Ends with a status, after as many messages as wanted."""
        wanted = json.loads(request)
        for _ in range(wanted["messages"]):
            yield b"before the end"
        code = next(code for code in grpc.StatusCode if code.value[0] == wanted["code"])
        trailers = (("x-trailer", "of plain text"), ("x-trailer-bin", bytes(range(256))))
        await context.abort(code, wanted["details"], trailers)

    async def Refuse(self, requests, context):
        """Ends before it has read anything."""
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no more of this")

    # Calls that the client ends.

    async def Sleep(self, request, context):
        remaining = context.time_remaining()
        with self.fate_of(request, remaining_seconds=remaining):
            await asyncio.sleep(FOREVER)

    async def Flow(self, request, context):
        self.sent[request] = 0
        message = bytes(FLOW_MESSAGE_BYTES - 4)
        with self.fate_of(request):
            while True:
                yield self.sent[request].to_bytes(4, "big") + message
                self.sent[request] += 1

    async def Listen(self, requests, context):
        """Hears all and says nothing but that it has begun."""
        key = await anext(aiter(requests))
        with self.fate_of(key):
            yield b"listening"
            async for _ in requests:
                pass
            # grpcio may end the requests of a cancelled call as if its client had said all.
            await asyncio.sleep(FOREVER)

    # About other calls.

    async def Fate(self, request, context):
        return as_json(await self.fates.wait(request))

    async def Sent(self, request, context):
        return as_json(self.sent.get(request, 0))

    async def Meet(self, request, context):
        """Answers when as many calls as wanted are here at once."""
        wanted = json.loads(request)
        meeting = self.meetings.setdefault(wanted["key"], {"calls": 0, "complete": asyncio.Event()})
        meeting["calls"] += 1
        if meeting["calls"] >= wanted["together"]:
            meeting["complete"].set()
        await meeting["complete"].wait()
        return request

    def fate_of(self, key, **facts):
        return Fate(self.fates, key, facts)


class Fate:
    """Tells how the call inside ended."""

    def __init__(self, fates, key, facts):
        self.fates, self.key, self.facts = fates, key, facts

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        is_cancelled = kind is not None and issubclass(kind, (asyncio.CancelledError, GeneratorExit))
        self.fates.tell(self.key, {"is_cancelled": is_cancelled, "error": repr(error), **self.facts})


def handlers(peer):
    kinds = {
        grpc.unary_unary_rpc_method_handler: [peer.Echo, peer.Sleep, peer.Fate, peer.Sent, peer.Meet],
        grpc.stream_unary_rpc_method_handler: [peer.Collect, peer.Refuse],
        grpc.unary_stream_rpc_method_handler: [peer.Count, peer.Fail, peer.Flow],
        grpc.stream_stream_rpc_method_handler: [peer.PingPong, peer.Metadata, peer.Listen],
    }
    methods = {method.__name__: kind(method) for kind, methods in kinds.items() for method in methods}
    return grpc.method_handlers_generic_handler(SERVICE, methods)


async def main():
    args = serving.parsed(serving.parser(__doc__.splitlines()[0]))
    host, port = args.listen
    # Without reuse of ports: two servers must not share one by accident.
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)])
    server.add_generic_rpc_handlers([handlers(Peer())])
    if args.cert:
        pair = (Path(args.key).read_bytes(), Path(args.cert).read_bytes())
        port = server.add_secure_port(f"{host}:{port}", grpc.ssl_server_credentials([pair]))
    else:
        port = server.add_insecure_port(f"{host}:{port}")
    await server.start()
    await serving.serve_for(args.lifetime, host, port)
    await server.stop(0)


asyncio.run(main())
