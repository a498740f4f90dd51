"""A service that tells what its work costs: ``python -m tests.support.observed CONFIG``.

On SIGUSR1 it prints, as a line of JSON, what has been since the last one.
"""

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp

from service.config import load
from service.http.server import serve
from tests.support.configuration import document, toml
from tests.support.embedded import free_port
from tests.support.service import ServiceUnderTest


class Cost(NamedTuple):
    """What some work cost the service's process, PostgreSQL not counted.

    ``held`` is the most CPU that the event loop used between two turns for everybody: unlike its
    lag, it does not depend on who else uses the machine. Times are in seconds.
    """

    cpu: float
    held: float
    peak_bytes: int


def _resident(what: str) -> int:
    match = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


class _Observer:
    def start(self, _host: str, _port: int) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, self._tell)
        self._sampling = loop.create_task(self._sample())
        self._begin()

    def _begin(self) -> None:
        self._held = 0.0
        self._cpu = time.process_time()
        self._resident = _resident("VmRSS")
        # Forgets the peak (man 5 proc).
        Path("/proc/self/clear_refs").write_text("5")

    async def _sample(self) -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.001)
            self._held = max(self._held, time.thread_time() - before)

    def _tell(self) -> None:
        cpu = time.process_time() - self._cpu
        peak = _resident("VmHWM") - self._resident
        print(json.dumps(Cost(cpu, self._held, peak)), flush=True)
        self._begin()


class Measure:
    """Sends requests to such a service, and measures what they cost."""

    def __init__(self, service: ServiceUnderTest, process: asyncio.subprocess.Process) -> None:
        self.service = service
        self._process = process

    async def __call__(self, body: bytes, encoding: str = "identity") -> tuple[int, Cost]:
        """Send a body; return the status of the response, and what it cost."""
        await self.cost()
        status = await self.service.send(body, encoding)
        return status, await self.cost()

    async def cost(self) -> Cost:
        """Return the cost of everything since the last call."""
        assert self._process.stdout is not None
        self._process.send_signal(signal.SIGUSR1)
        return Cost(*json.loads(await asyncio.wait_for(self._process.stdout.readline(), 60)))


@asynccontextmanager
async def observed(databases: Mapping[str, str], folder: Path) -> AsyncIterator[Measure]:
    """Run such a service; yield what sends requests to it and measures their cost."""
    port = free_port()
    config = folder / "observed.toml"
    config.write_text(toml(document(databases, port=port)))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.observed",
        str(config),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(300)) as session:
        service = ServiceUnderTest(f"http://127.0.0.1:{port}", session, databases)
        async with asyncio.timeout(30):
            while not await service.is_alive():
                await asyncio.sleep(0.05)
        try:
            yield Measure(service, process)
        finally:
            process.terminate()
            await process.wait()


if __name__ == "__main__":
    path = Path(sys.argv[1])
    serve(load(path), lambda: load(path), _Observer().start)
