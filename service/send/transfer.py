"""A file on its way: from records to outcomes, or to what would become of them."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import msgspec

from service.client import Client, Outcome
from service.send.display import Display, print_status, report
from service.send.progress import Progress, naming
from service.send.records import Records, Refused, find_fault, has_key_zero

STORED = (200, 201)
NAME = "care-trials send"
"""Of all files: what tells one batch from another is what is in it, and its place."""

FAULTS_SHOWN = 10  # by a check


class FileTransfer:
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
        self.client = Client(**service, pause=self._display.pause)
        self._is_stream = not file.path.is_file()
        base = "stdin" if self._is_stream else str(file.path)
        self.progress = Progress(
            Path(f"{base}.progress"), f"{service['url']} {service['database']}"
        )
        self.paths = outcomes or Path(f"{base}.outcomes.csv"), Path(f"{base}.failed.ndjson")
        self._results: dict[Path, BinaryIO] = {}

    def check(self, *, replaces: bool) -> None:
        """Print the number of records and the first faults. Raises Unreadable."""
        number = key_zero = 0
        shown: list[str] = []
        for number, record in enumerate(self._file, 1):
            key_zero += has_key_zero(record)
            fault = ("" if replaces else self._file.find_omission(record)) or find_fault(record)
            self.failed += bool(fault)
            if fault and self.failed <= FAULTS_SHOWN:
                shown.append(f"  record {number}: {fault}")
        text = f"{self._file.path}: {number:,} records, {key_zero:,} without a key"
        report([f"{text}, {self.failed:,} bad", *shown])

    def open(self) -> None:
        """Open whatever will be written, before anything is sent. Raises OSError.

        Files stay as they are until there are outcomes, and none appears. A device or a pipe
        stays open, and is written in place.
        """
        files = [] if self._is_stream else [self.progress.path]
        for path in self.paths:
            if path.exists() and not path.is_file():
                with naming(path):
                    self._results[path] = path.open("wb")
            else:
                files += [path, _old(path)]
        for path in files:
            with naming(path):
                if path.exists():
                    path.open("ab").close()
                with TemporaryFile(dir=path.parent) as file:  # where it is created or renamed
                    file.write(bytes(2**16))

    def send(self) -> None:
        """Send all that no earlier run has sent. Raises CouldNotSend, Unreadable, OSError."""
        try:
            with self._file.source as source:
                with suppress(OSError):  # of a file system without locks: work is done twice
                    try:
                        flock(source, LOCK_EX | LOCK_NB)
                    except BlockingIOError:
                        print_status(f"Waiting for another command, which sends {self._file.path}")
                        flock(source, LOCK_EX)
                if not self._is_stream:
                    for batch in self.progress.resume(iter(self._file)):
                        self._note(batch, is_resumed=True)
                asyncio.run(self._send())
                self._close()
        finally:
            for file in self._results.values():
                with suppress(OSError):  # it has been raised before
                    file.close()

    def _close(self) -> None:
        """Close what was written, while no other command sends the file; remove what is empty."""
        are_wanted = dict(zip(self.paths, (self.tells_outcomes, self.failed), strict=True))
        for path, file in self._results.items():
            with naming(path):
                if path.is_file():
                    file.truncate()
                    if not are_wanted[path]:
                        path.unlink()
                file.close()

    async def _send(self) -> None:
        batches = self.client.batches(self._file, NAME, place=self.counts.total())
        async with self.client, aclosing(batches):
            async for batch in batches:
                self._note(batch)

    def _note(self, batch: Sequence[tuple[Any, Outcome]], *, is_resumed: bool = False) -> None:
        """Count a batch, then keep its outcomes, then report them, whatever ends the run."""
        done = self.counts.total()
        self.counts.update(outcome.status for _, outcome in batch)
        self.failed = self.counts.total() - sum(self.counts[status] for status in STORED)
        self.tells_outcomes |= any(has_key_zero(record) for record, _ in batch)
        if not (is_resumed or self._is_stream):
            self.progress.keep(batch)
        lines: tuple[list[bytes], list[bytes]] = [], []
        if not done:
            for path in self.paths:
                if path not in self._results:
                    if path.is_file() and not is_resumed:
                        path.replace(_old(path))
                    self._results[path] = path.open("r+b" if path.is_file() else "wb")
            lines[0].append(b"record,key,status\r\n")
        for number, (record, outcome) in enumerate(batch, done + 1):
            key = "" if outcome.key is None else outcome.key
            lines[0].append(f"{number},{key},{outcome.status}\r\n".encode())
            if outcome.status not in STORED:
                reason, item = record if isinstance(record, Refused) else (outcome.body, record)
                if isinstance(item, dict):  # what an empty cell erases is no omission
                    item = dict.fromkeys(self._file.columns) | item
                reported = {
                    "record": number,
                    "status": outcome.status,
                    "reason": reason,
                    "item": item,
                }
                lines[1].append(msgspec.json.encode(reported) + b"\n")
        for path, texts in zip(self.paths, lines, strict=True):
            with naming(path):
                self._results[path].writelines(texts)
                self._results[path].flush()
        self._display.advance(self.counts.total(), self.failed)


def _old(path: Path) -> Path:
    return Path(f"{path}.old")
