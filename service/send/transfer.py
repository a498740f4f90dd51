"""Transfer of one file: its records to outcomes, or to the faults that --check finds."""

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
from service.send.display import Display, print_lines, print_status
from service.send.progress import Progress, add_path_to_errors
from service.send.records import Records, Refused, find_fault, has_key_zero

STORED = (200, 201)
NAME = "care-trials send"
"""Name of all files' batches, which their contents and places distinguish."""

MAX_FAULTS_SHOWN = 10


class FileTransfer:
    """Sends one file and writes its outcomes; ``counts`` has the records by status.

    A stream (standard input or a pipe) is read once and has no progress. Output files of an earlier
    run are renamed to FILE.old; a run that resumes writes its own again.
    """

    def __init__(self, file: Records, outcomes: Path | None, **service: Any) -> None:
        self.counts: Counter[int] = Counter()
        self.failed = 0
        self.reports_outcomes = outcomes is not None
        self._file = file
        self._display = Display(file)
        self.client = Client(**service, pause=self._display.pause)
        self._is_stream = not file.path.is_file()
        base = "stdin" if self._is_stream else str(file.path)
        self.progress = Progress(
            Path(f"{base}.progress"), f"{service['url']} {service['database']}"
        )
        self.paths = outcomes or Path(f"{base}.outcomes.csv"), Path(f"{base}.failed.ndjson")
        self._outputs: dict[Path, BinaryIO] = {}

    def check(self, *, replaces: bool) -> None:
        """Print the number of records and the first faults. Raises Unreadable."""
        number = key_zero = 0
        shown: list[str] = []
        for number, record in enumerate(self._file, 1):
            key_zero += has_key_zero(record)
            fault = ("" if replaces else self._file.find_omission(record)) or find_fault(record)
            self.failed += bool(fault)
            if fault and self.failed <= MAX_FAULTS_SHOWN:
                shown.append(f"  record {number}: {fault}")
        summary = f"{self._file.path}: {number:,} records, {key_zero:,} with key 0"
        print_lines([f"{summary}, {self.failed:,} invalid", *shown])

    def open(self) -> None:
        """Check that all files can be written, before anything is sent. Raises OSError.

        No file is changed or created until there are outcomes. A device or a pipe is opened here
        and written in place.
        """
        files = [] if self._is_stream else [self.progress.path]
        for path in self.paths:
            if path.exists() and not path.is_file():
                with add_path_to_errors(path):
                    self._outputs[path] = path.open("wb")
            else:
                files += [path, _get_backup_path(path)]
        for path in files:
            with add_path_to_errors(path):
                if path.exists():
                    path.open("ab").close()
                # The file will be created or renamed in this folder.
                with TemporaryFile(dir=path.parent) as file:
                    file.write(bytes(2**16))

    def send(self) -> None:
        """Send the records that no earlier run has sent.

        Raises CouldNotSend, Unreadable and OSError.
        """
        try:
            with self._file.source as source:
                with suppress(OSError):  # a file system without locks: work is done twice
                    try:
                        flock(source, LOCK_EX | LOCK_NB)
                    except BlockingIOError:
                        print_status(
                            f"Another care-trials send is sending {self._file.path}; waiting"
                        )
                        flock(source, LOCK_EX)
                if not self._is_stream:
                    for batch in self.progress.resume(iter(self._file)):
                        self._add(batch, is_resumed=True)
                asyncio.run(self._send())
                self._close()
        finally:
            for file in self._outputs.values():
                with suppress(OSError):  # already raised
                    file.close()

    def _close(self) -> None:
        """Close the output files while the file is locked; remove those that are not wanted."""
        are_wanted = dict(zip(self.paths, (self.reports_outcomes, self.failed), strict=True))
        for path, file in self._outputs.items():
            with add_path_to_errors(path):
                if path.is_file():
                    file.truncate()
                    if not are_wanted[path]:
                        path.unlink()
                file.close()

    async def _send(self) -> None:
        batches = self.client.batches(self._file, NAME, place=self.counts.total())
        async with self.client, aclosing(batches):
            async for batch in batches:
                self._add(batch)

    def _add(self, batch: Sequence[tuple[Any, Outcome]], *, is_resumed: bool = False) -> None:
        """Count a batch, save its progress, and write its outcomes, in this order."""
        done = self.counts.total()
        self.counts.update(outcome.status for _, outcome in batch)
        self.failed = self.counts.total() - sum(self.counts[status] for status in STORED)
        self.reports_outcomes |= any(has_key_zero(record) for record, _ in batch)
        if not (is_resumed or self._is_stream):
            self.progress.append(batch)
        lines: tuple[list[bytes], list[bytes]] = [], []
        if not done:
            for path in self.paths:
                if path not in self._outputs:
                    if path.is_file() and not is_resumed:
                        path.replace(_get_backup_path(path))
                    self._outputs[path] = path.open("r+b" if path.is_file() else "wb")
            lines[0].append(b"record,key,status\r\n")
        for number, (record, outcome) in enumerate(batch, done + 1):
            key = "" if outcome.key is None else outcome.key
            lines[0].append(f"{number},{key},{outcome.status}\r\n".encode())
            if outcome.status not in STORED:
                reason, item = record if isinstance(record, Refused) else (outcome.body, record)
                if isinstance(item, dict):  # null for empty cells, so that no field is missing
                    item = dict.fromkeys(self._file.columns) | item
                reported = {
                    "record": number,
                    "status": outcome.status,
                    "reason": reason,
                    "item": item,
                }
                lines[1].append(msgspec.json.encode(reported) + b"\n")
        for path, new_lines in zip(self.paths, lines, strict=True):
            with add_path_to_errors(path):
                self._outputs[path].writelines(new_lines)
                self._outputs[path].flush()
        self._display.advance(self.counts.total(), self.failed)


def _get_backup_path(path: Path) -> Path:
    return Path(f"{path}.old")
