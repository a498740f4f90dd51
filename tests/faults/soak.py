"""Load under one fault after another: ``python -m tests.faults.soak --minutes 10``.

Prints what was sent, answered and verified; exits with 1 when an acknowledged item is lost, a
record without a key exists twice, or a living service sent an unfinished envelope.
"""

import argparse
import asyncio
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import aiohttp

from service.demo.postgres import EmbeddedPostgres
from service.migrations import migrate
from tests.harness.configuration import document, toml
from tests.harness.ledger import Ledger
from tests.harness.proxy import Proxy
from tests.harness.service import ServiceUnderTest, free_port

SENDERS = 8
CALM_SECONDS = 4


class Soak:
    """A service process, its database behind a proxy, and the faults that befall them."""

    def __init__(self, postgres: EmbeddedPostgres, proxy: Proxy, folder: Path) -> None:
        self._postgres = postgres
        self._proxy = proxy
        self._port = free_port()
        self._config = folder / "service.toml"
        content = document(
            {"acme": proxy.dsn}, database={"statement_timeout_seconds": 5}, port=self._port
        )
        self._config.write_text(toml(content))
        self._log = (folder / "log").open("wb")
        self._process = self._start()
        self.url = f"http://127.0.0.1:{self._port}"
        self.faults: Counter[str] = Counter()

    def _start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", "service", "serve", "--config", str(self._config)],
            stderr=self._log,
        )

    @property
    def resident_megabytes(self) -> float:
        """The memory of the service's process."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    async def kill_postgresql(self) -> None:
        """SIGKILL to all of it; back at once, after 2 or after 10 seconds."""
        await asyncio.to_thread(self._postgres.kill)
        await asyncio.sleep(random.choice([0, 2, 10]))
        await asyncio.to_thread(self._postgres.start)

    async def cut_connections(self) -> None:
        """Reset every connection to PostgreSQL, several times."""
        for _ in range(10):
            self._proxy.cut()
            await asyncio.sleep(random.uniform(0, 0.2))

    async def stall_connections(self) -> None:
        """Let no byte through to PostgreSQL for a while."""
        self._proxy.stall()
        await asyncio.sleep(random.uniform(1, 15))
        self._proxy.resume()

    async def kill_service(self) -> None:
        """SIGKILL, then a new process."""
        self._process.kill()
        await asyncio.to_thread(self._process.wait)
        self._process = self._start()

    async def stop_service(self) -> None:
        """SIGTERM, then a new process once the old one has drained."""
        self._process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(self._process.wait, 60)
        self._process = self._start()

    async def cause_faults(self, seconds: float) -> None:
        """Cause one fault after another, with calm between them."""
        until = time.monotonic() + seconds
        faults = [
            self.kill_postgresql,
            self.cut_connections,
            self.stall_connections,
            self.kill_service,
            self.stop_service,
        ]
        while time.monotonic() < until:
            await asyncio.sleep(CALM_SECONDS)
            fault = random.choice(faults)
            self.faults[fault.__name__] += 1
            await fault()

    def close(self) -> None:
        """Stop the service."""
        self._process.terminate()
        self._process.wait(60)
        self._log.close()


async def run(minutes: float, postgres: EmbeddedPostgres, folder: Path) -> bool:
    """Run the soak, print its figures; return whether every promise was kept."""
    await migrate(postgres.tcp_dsn("acme"))
    async with Proxy(postgres.tcp_dsn("acme")) as proxy, aiohttp.ClientSession() as session:
        soak = Soak(postgres, proxy, folder)
        service = ServiceUnderTest(soak.url, session, {"acme": postgres.tcp_dsn("acme")})
        while not await service.is_alive():
            await asyncio.sleep(0.1)
        ledger = Ledger(service, service_may_die=True)
        # What a first load allocates for good is no leak.
        async with ledger.under_load(SENDERS):
            await asyncio.sleep(5)
        before = soak.resident_megabytes
        async with ledger.under_load(SENDERS):
            await soak.cause_faults(minutes * 60)
            await ledger.assert_recovers(60)
            # The last process of the service may be young.
            await asyncio.sleep(5)
        after = soak.resident_megabytes
        soak.close()
        audit = await ledger.audit()
    print(f"minutes               {minutes:g}")
    print(f"faults                {dict(soak.faults)}")
    print(f"requests              {ledger.requests:,}")
    print(f"items                 {ledger.items:,}")
    print(f"outcomes by status    {dict(sorted(ledger.statuses.items()))}")
    print(f"refused requests      {dict(ledger.refusals)}")
    print(f"unanswered requests   {ledger.unanswered:,} (the service was killed or down)")
    print(f"records verified      {len(ledger.acknowledged) + len(ledger.created):,}")
    print(f"lost                  {audit['lost']}")
    print(f"doubled               {audit['doubled']}")
    print(f"unfinished envelopes  {ledger.unfinished}")
    print(f"memory, MB            {before:.0f} at the start, {after:.0f} at the end")
    return not (audit["lost"] or audit["doubled"] or ledger.unfinished)


def main() -> None:
    """Parse the arguments, run, exit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with EmbeddedPostgres(folder / "postgres", port=0) as postgres:
            postgres.create_database("acme")
            kept = asyncio.run(run(minutes, postgres, folder))
    sys.exit(not kept)


if __name__ == "__main__":
    main()
