"""A wire between two interfaces that takes time and loses frames, where the kernel has no netem.

`wire.py ONE OTHER DELAY_MS LOSS_PERCENT` passes frames on both ways until it is killed. Says "ready" when it does.
"""

import collections
import random
import select
import socket
import sys
import time

SOL_PACKET, PACKET_VNET_HDR, PACKET_OUTGOING, ETH_P_ALL = 263, 15, 4, 3
# A segment that nobody has cut yet, and the header that says so.
FRAME_MAX = 70_000
WAITING_MAX = 10_000


def end(name):
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    # What the sender left to the hardware (checksums, segments) goes along with each frame.
    raw.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    raw.bind((name, 0))
    raw.setblocking(False)
    return raw


def main():
    one, other, delay_ms, loss_percent = sys.argv[1:]
    one, other = end(one), end(other)
    across = {one: other, other: one}
    delay, loss = float(delay_ms) / 1000, float(loss_percent) / 100
    waiting = collections.deque()
    print("ready", flush=True)
    while True:
        left = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for readable in select.select([one, other], [], [], left)[0]:
            frame, where = readable.recvfrom(FRAME_MAX)
            if where[2] != PACKET_OUTGOING and random.random() >= loss and len(waiting) < WAITING_MAX:
                waiting.append((time.monotonic() + delay, across[readable], frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, to, frame = waiting.popleft()
            try:
                to.send(frame)
            except OSError as error:
                print(error, file=sys.stderr)


main()
