"""One run of the command: files to outcomes, or to what would become of them."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from itertools import count, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import click

from service.client import Client, CouldNotSend
from service.send.display import Display
from service.send.progress import STORED, Progress
from service.send.records import Record, Records, Unreadable, fault_of

NAME = "care-trials send"
"""Of all files: what tells one batch from another is what is in it, and its place."""

READ_AT_ONCE = 1000
LOCK_SECONDS = 0.1
FAULTS_SHOWN = 10
"""Of a file, by --check."""


class File(NamedTuple):
    """A file, how it is read, and where its outcomes go.

    A stream (standard input, as -, or a pipe) is read once, and has no progress.
    """

    path: Path
    is_stream: bool
    format_name: str
    delimiter: str
    failed: Path
    outcomes: Path
    keeps_outcomes: bool


class Run:
    """Sends files, one after the other."""

    def __init__(self, client: Client, files: Sequence[File], display: Display) -> None:
        self._client = client
        self._display = display
        self._files = {
            file: Progress(
                None if file.is_stream else file.path,
                *(file.failed, file.outcomes, client.url, client.database),
            )
            for file in files
        }

    @property
    def counts(self) -> Counter[int]:
        """How many records have which status."""
        return sum((progress.counts for progress in self._files.values()), Counter())

    def summary(self, seconds: float) -> Iterator[str]:
        """Yield what became of all records, and where that is written, in lines."""
        yield f"created   {self.counts[201]:,}"
        yield f"updated   {self.counts[200]:,}"
        for status in sorted(self.counts.keys() - {*STORED}):
            yield f"failed    {self.counts[status]:,} ({status})"
        yield f"sent      {self.counts.total():,} in {seconds:.1f} s"
        for file, progress in self._files.items():
            if progress.counts.keys() - {*STORED}:
                yield f"reasons   {file.failed}"
            if progress.counts and (file.keeps_outcomes or progress.has_keyless):
                yield f"outcomes  {file.outcomes}"

    def check(self) -> Iterator[str]:
        """Yield what each file holds, and its first faults, in lines. Raises Unreadable."""
        for file in self._files:
            count = keyless = bad = 0
            shown: list[str] = []
            with _opened(file) as (_, records):
                for record in records:
                    count += 1
                    keyless += record.key == 0
                    if fault := fault_of(record):
                        bad += 1
                        if bad <= FAULTS_SHOWN:
                            shown.append(f"  record {record.number}: {fault}")
            yield f"{file.path}: {count:,} records, {keyless:,} without a key, {bad:,} bad"
            yield from shown

    async def send(self) -> None:
        """Send all that no earlier run has finished. Raises CouldNotSend, Unreadable, OSError."""
        for file in self._files:
            if not file.is_stream:
                # Before the first byte goes out.
                with _opened(file):
                    pass
        async with self._client:
            for file, progress in self._files.items():
                with _opened(file) as (source, records):
                    if not file.is_stream:
                        await self._wait_for_others(file, source)
                    await self._send(file, records, progress)
        for progress in self._files.values():
            progress.remove()

    async def _send(self, file: File, records: Records, progress: Progress) -> None:
        iterator = iter(records)
        place = await asyncio.to_thread(progress.resume, iterator)
        self._display.begin(file.path.name, progress.counts, records.share)
        async with aclosing(self._client.batches(_rest(iterator), NAME, place)) as batches:
            async for batch in batches:
                for record, outcome in batch:
                    if outcome.status == 503 and record.key == 0:
                        # Created once with its batch only: by itself it might be created twice.
                        raise CouldNotSend(
                            f"record {record.number} got 503: {outcome.body}", 503, 0
                        )
                progress.finish(batch)
                self._display.advance(progress.counts, records.share)
        if not (file.keeps_outcomes or progress.has_keyless):
            file.outcomes.unlink(missing_ok=True)

    async def _wait_for_others(self, file: File, source: BinaryIO) -> None:
        """Let another command that sends the file end: both keep its progress in one place."""
        with suppress(OSError):  # of a file system without locks: the work is done twice, no harm
            for attempt in count():
                try:
                    flock(source, LOCK_EX | LOCK_NB)
                    break
                except BlockingIOError:
                    if attempt == 0:
                        self._display.tell(f"Waiting for another command, which sends {file.path}")
                    await asyncio.sleep(LOCK_SECONDS)


async def _rest(records: Iterator[Record]) -> AsyncIterator[Record]:
    # In a thread: standard input may keep the reader waiting.
    while chunk := await asyncio.to_thread(lambda: list(islice(records, READ_AT_ONCE))):
        for record in chunk:
            yield record


@contextmanager
def _opened(file: File) -> Iterator[tuple[Any, Records]]:
    try:
        with click.open_file(str(file.path), "rb") as source:
            yield source, Records(source, file.format_name, file.delimiter)  # type: ignore[arg-type]
    except Unreadable as error:
        raise Unreadable(f"{file.path}: {error}") from None
