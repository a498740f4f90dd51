"""A file on its way: from records to outcomes, or to what would become of them."""

import asyncio
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from service.client import Client, Outcome
from service.send.display import Display, report, tell
from service.send.progress import Progress
from service.send.records import Records, Refused, fault_of, is_keyless

STORED = (200, 201)
NAME = "care-trials send"
"""Of all files: what tells one batch from another is what is in it, and its place."""

FAULTS_SHOWN = 10  # by a check


class Run:
    """The run of one file: what became of its records, by status, and where that is told.

    A stream (standard input, or a pipe) is read once, and has no progress. What another run told
    is kept as FILE.old; a run that goes on tells its own again.
    """

    def __init__(self, file: Records, outcomes: Path | None, **service: Any) -> None:
        self.counts: Counter[int] = Counter()
        self.failed = 0
        self.tells_outcomes = outcomes is not None
        self._file = file
        self._display = Display(file)
        self._client = Client(**service, pause=self._display.pause)
        self._is_stream = not file.path.is_file()
        base = "stdin" if self._is_stream else str(file.path)
        self.progress = Progress(
            Path(f"{base}.progress"), f"{service['url']} {service['database']}"
        )
        self.paths = outcomes or Path(f"{base}.outcomes.csv"), Path(f"{base}.failed.ndjson")
        self._results: list[BinaryIO] = []

    def check(self) -> None:
        """Print what the file holds, and its first faults. Raises Unreadable."""
        number = keyless = 0
        shown: list[str] = []
        for number, record in enumerate(self._file, 1):
            keyless += is_keyless(record)
            fault = fault_of(record)
            self.failed += bool(fault)
            if fault and self.failed <= FAULTS_SHOWN:
                shown.append(f"  record {number}: {fault}")
        text = f"{self._file.path}: {number:,} records, {keyless:,} without a key"
        report([f"{text}, {self.failed:,} bad", *shown])

    def send(self) -> None:
        """Send all that no earlier run has sent. Raises CouldNotSend, Unreadable, OSError."""
        with self._file.source as source:
            with suppress(OSError):  # of a file system without locks: work is done twice, no harm
                try:
                    flock(source, LOCK_EX | LOCK_NB)
                except BlockingIOError:
                    tell(f"Waiting for another command, which sends {self._file.path}")
                    flock(source, LOCK_EX)
            for batch in self.progress.resume(iter(self._file)) if not self._is_stream else ():
                self._note(batch, is_resumed=True)
            asyncio.run(self._send())
        for file, is_wanted in zip(self._results, (self.tells_outcomes, self.failed), strict=False):
            file.truncate()
            file.close()
            if not is_wanted:
                os.unlink(file.name)

    async def _send(self) -> None:
        batches = self._client.batches(self._file, NAME, place=self.counts.total())
        async with self._client, aclosing(batches):
            async for batch in batches:
                self._note(batch)
                if not self._is_stream:
                    self.progress.keep(batch)

    def _note(self, batch: Sequence[tuple[Any, Outcome]], *, is_resumed: bool = False) -> None:
        if not self._results:  # only now: nothing is left where nothing was sent
            for path in self.paths:
                if path.exists() and not is_resumed:
                    path.replace(f"{path}.old")
                self._results.append(path.open("r+b" if path.exists() else "wb"))
            self._results[0].write(b"record,key,status\r\n")
        for record, outcome in batch:
            self.counts[outcome.status] += 1
            number = self.counts.total()
            self.tells_outcomes |= is_keyless(record)
            key = "" if outcome.key is None else outcome.key
            self._results[0].write(f"{number},{key},{outcome.status}\r\n".encode())
            if outcome.status not in STORED:
                self.failed += 1
                reason, item = record if isinstance(record, Refused) else (outcome.body, record)
                told = {"record": number, "status": outcome.status, "reason": reason, "item": item}
                self._results[1].write(msgspec.json.encode(told) + b"\n")
        for file in self._results:
            file.flush()
        self._display.advance(self.counts.total(), self.failed)
