"""The load generator: a process of its own that sends prebuilt requests and checks outcomes.

Reads a ``LoadSpec`` from standard input, writes the ``Figures`` to standard output.
"""

import asyncio
import itertools
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import msgspec
import uvloop
from msgspec import Struct

from service.wire import IDEMPOTENCY_HEADER, KEY_FIELD

from .figures import Figures
from .processes import cpu_seconds

ROOT = Path(__file__).parents[2]

NEW_KEYS_FROM = 10_000_000
"""New keys have eight digits, so that a body keeps its length when they change."""

_STATUS = re.compile(rb'"status": ?(\d{3})')
# The framing of chunked coding; JSON holds no bare line break, so it stands out.
_CHUNK_FRAME = re.compile(rb"(?:^|\r\n)[0-9a-fA-F]+\r\n")
_LAST_CHUNK = b"\r\n0\r\n\r\n"


class LoadSpec(Struct, kw_only=True):
    """What to send, how, and whose processor time to watch."""

    port: int
    head: str
    bodies: str
    items: int
    connections: int
    seconds: float
    warm_up_seconds: float
    are_new: bool
    has_idempotency_key: bool
    service_pids: list[int]
    postgres_pid: int


class Exchanges(asyncio.Protocol):
    """One kept-alive connection: a request, its whole response, the next request."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._head_end = 0
        self._length: int | None = None
        self._first_byte_at = 0.0
        self._done: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports derive from no class of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    async def send(self, request: bytes) -> tuple[Counter[str], float]:
        """Send a request; return how often each item status came, and when the first did."""
        self._received.clear()
        self._head_end = 0
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        await self._done
        body = bytes(self._received[self._head_end :])
        if self._length is None:
            body = _CHUNK_FRAME.sub(b"", body)
        statuses = Counter(status.decode() for status in _STATUS.findall(body))
        return statuses, self._first_byte_at

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._head_end:
            self._read_head()
        if not self._head_end or len(self._received) == self._head_end:
            return
        self._first_byte_at = self._first_byte_at or time.perf_counter()
        if self._length is None:
            is_complete = self._received.endswith(_LAST_CHUNK)
        else:
            is_complete = len(self._received) - self._head_end >= self._length
        if is_complete and self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _read_head(self) -> None:
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._received[:end]).lower()
        if head.split(None, 2)[1] not in (b"200", b"207"):
            self._fail(f"expected 200 or 207, got {self._received[:500]!r}")
        length = re.search(rb"content-length: *(\d+)", head)
        self._length = int(length[1]) if length else None
        self._head_end = end + 4
        self._first_byte_at = 0.0

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection was closed: {exc}")

    def _fail(self, reason: str) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError(reason))

    def close(self) -> None:
        self._transport.close()


class Lane:
    """One connection with the requests it sends, one after the other, and what it measures."""

    def __init__(self, exchanges: Exchanges, requests: Iterator[bytes], items: int) -> None:
        self.exchanges = exchanges
        self._requests = requests
        self._items = items
        self.delete_expired()

    def delete_expired(self) -> None:
        """Begin to measure anew."""
        self.latencies: list[float] = []
        self.first_bytes: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.started_at = self.ended_at = time.perf_counter()

    async def run(self, seconds: float) -> None:
        """Send requests until the time is over; at least one."""
        deadline = time.perf_counter() + seconds
        for request in self._requests:
            started_at = time.perf_counter()
            statuses, first_byte_at = await self.exchanges.send(request)
            self.ended_at = time.perf_counter()
            if statuses.total() != self._items:
                raise ValueError(f"expected {self._items} outcomes, got {statuses}")
            self.statuses += statuses
            self.latencies.append(self.ended_at - started_at)
            self.first_bytes.append(first_byte_at - started_at)
            if self.ended_at >= deadline:
                return

    @property
    def items_per_second(self) -> float:
        return self.statuses.total() / (self.ended_at - self.started_at)


async def measure(spec: LoadSpec, requests: Sequence[bytes]) -> Figures:
    """Send the load; return what was measured after the warm-up."""
    lanes = await _lanes(spec, requests)
    if spec.warm_up_seconds:
        await asyncio.gather(*(lane.run(spec.warm_up_seconds) for lane in lanes))
    before = _cpu(spec)
    load, started_at = time.process_time(), time.perf_counter()
    for lane in lanes:
        lane.delete_expired()
    await asyncio.gather(*(lane.run(spec.seconds) for lane in lanes))
    load, seconds = time.process_time() - load, time.perf_counter() - started_at
    service, postgres = (after - b for after, b in zip(_cpu(spec), before, strict=True))
    for lane in lanes:
        lane.exchanges.close()
    statuses = sum((lane.statuses for lane in lanes), Counter[str]())
    items = statuses.total()
    shares = [
        first / whole
        for lane in lanes
        for first, whole in zip(lane.first_bytes, lane.latencies, strict=True)
    ]
    figures = Figures(
        items=items,
        # By lane: each ends with its own last request, the slow ones later than the others.
        items_per_second=sum(lane.items_per_second for lane in lanes),
        first_byte_share=sorted(shares)[len(shares) // 2],
        statuses=dict(statuses),
        service_cpu_us=service / items * 1e6,
        postgres_cpu_us=postgres / items * 1e6,
        load_cpu_us=load / items * 1e6,
        load_cpu_share=load / seconds,
    )
    figures.tell_latencies([latency for lane in lanes for latency in lane.latencies])
    return figures


async def _lanes(spec: LoadSpec, requests: Sequence[bytes]) -> list[Lane]:
    loop = asyncio.get_running_loop()
    lanes = []
    for number in range(spec.connections):
        _, exchanges = await loop.create_connection(Exchanges, "127.0.0.1", spec.port)
        # Lanes share no key, so that they never wait for each other's row locks.
        own = requests[number :: spec.connections]
        endless = _with_new_keys(own) if spec.are_new else itertools.cycle(own)
        if spec.has_idempotency_key:
            endless = _with_idempotency_keys(endless, number)
        lanes.append(Lane(exchanges, endless, spec.items))
    return lanes


def _with_new_keys(requests: Sequence[bytes]) -> Iterator[bytes]:
    """Yield the requests again and again, each time with keys that were not there before."""
    first = f'"{KEY_FIELD}":{NEW_KEYS_FROM}'[:-6].encode()
    for number in range(90):
        other = first[:-2] + b"%d" % (int(first[-2:]) + number)
        for request in requests:
            yield request.replace(first, other)


_IDEMPOTENCY_KEY = f"{IDEMPOTENCY_HEADER}: {'0' * 16}\r\n".encode()


def _with_idempotency_keys(requests: Iterator[bytes], lane: int) -> Iterator[bytes]:
    """Yield each request with an Idempotency-Key of its own."""
    for request in requests:
        key = b"%03d%013d" % (lane, time.time_ns() // 1000 % 10**13)
        head, _, body = request.partition(b"\r\n")
        yield head + b"\r\n" + _IDEMPOTENCY_KEY.replace(b"0" * 16, key) + body


def requests_of(spec: LoadSpec) -> Sequence[bytes]:
    """Return the whole requests, ready to be sent."""
    return [
        f"{spec.head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        for body in Path(spec.bodies).read_bytes().splitlines()
    ]


def _cpu(spec: LoadSpec) -> tuple[float, float]:
    return sum(map(cpu_seconds, spec.service_pids)), cpu_seconds(spec.postgres_pid)


def start(spec: LoadSpec) -> "subprocess.Popen[bytes]":
    """Start a generator; ``finish`` waits for its figures."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.load"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(spec))
    process.stdin.close()
    process.stdin = None
    return process


def finish(process: "subprocess.Popen[bytes]") -> Figures:
    """Wait for a generator to end; return its figures."""
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the load generator failed with status {process.returncode}")
    return msgspec.json.decode(output, type=Figures)


if __name__ == "__main__":
    spec = msgspec.json.decode(sys.stdin.buffer.read(), type=LoadSpec)
    measured = uvloop.run(measure(spec, requests_of(spec)))
    sys.stdout.buffer.write(msgspec.json.encode(measured))
