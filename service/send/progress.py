"""How far a file is sent, kept so that a later run can go on."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import msgspec
from msgspec import Struct

from service.send.records import FailedRecord, Fate, Record, failed_line

STORED = (200, 201)


class NotTheSame(Exception):
    """The kept progress belongs to another file, address or database, or to other batches."""


class _State(Struct):
    """The kept progress: all batches before number ``until`` are finished, and those ``beyond``."""

    size: int
    modified: int
    url: str
    database: str
    batch_size: int
    failed: str
    until: int
    beyond: set[int]
    counts: dict[str, int]


_IDENTITY = {
    "size": "the file's size",
    "modified": "the file's time",
    "url": "the URL",
    "database": "the database",
    "batch_size": "the batch size",
    "failed": "the file of failed records",
}


class Progress:
    """Keeps which batches are finished and which records failed.

    Without a source path (standard input) only the failed records are kept.
    """

    def __init__(
        self, source: Path | None, failed: Path, url: str, database: str, batch_size: int
    ) -> None:
        self._path = source and source.with_name(source.name + ".progress")
        self._failed = failed
        status = source.stat() if source else None
        size, modified = (status.st_size, status.st_mtime_ns) if status else (0, 0)
        self.source = f"{size} {modified}"
        """What tells one file from another, as long as nobody edits it."""
        self._state = _State(
            size, modified, url, database, batch_size, os.path.abspath(failed), 0, set(), {}
        )
        self.counts: Counter[str] = Counter()

    def load(self) -> bool:
        """Go on where an earlier run ended; tell whether there was one. Raises NotTheSame."""
        if self._path is None or not self._path.exists():
            return False
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=_State)
        except msgspec.DecodeError:
            raise NotTheSame(f"{self._path} is not a progress file") from None
        for name, meaning in _IDENTITY.items():
            if getattr(kept, name) != getattr(self._state, name):
                raise NotTheSame(f"{self._path} is of another run: {meaning} differs")
        self._state = kept
        self.counts.update(kept.counts)
        self._forget_unfinished_failures()
        return True

    def start_anew(self) -> None:
        """Forget earlier runs, but keep their failed records, as FILE.old."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        if self._failed.exists():
            self._failed.replace(self._failed.with_name(self._failed.name + ".old"))

    def unfinished(self, records: Iterable[Record]) -> Iterator[list[Record]]:
        """Cut a file into batches, in every run the same, and yield those to be sent."""
        records = iter(records)
        while batch := list(islice(records, self._state.batch_size)):
            if not self._is_finished(batch[0].number):
                yield batch

    def begin(self) -> None:
        """Note, before anything is sent, how the file is cut into batches."""
        if self._path is not None and not self._path.exists():
            self._save()

    def finish(self, batch: list[Record], fates: Mapping[int, Fate]) -> None:
        """Note that a batch is finished, and the fates of its records by their numbers."""
        self.counts.update(str(fates[record.number].status) for record in batch)
        failures = b"".join(
            failed_line(record, fates[record.number])
            for record in batch
            if fates[record.number].status not in STORED
        )
        if failures:
            with open(self._failed, "ab", opener=_private) as file:
                file.write(failures)
        state = self._state
        state.beyond.add(self._batch_of(batch[0].number))
        while state.until in state.beyond:
            state.beyond.remove(state.until)
            state.until += 1
        self._save()

    def remove(self) -> None:
        """Forget the progress: the file is sent to its end."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _is_finished(self, number: int) -> bool:
        batch = self._batch_of(number)
        return batch < self._state.until or batch in self._state.beyond

    def _batch_of(self, number: int) -> int:
        return (number - 1) // self._state.batch_size

    def _forget_unfinished_failures(self) -> None:
        """Drop the failures of a batch that a killed run did not note as finished any more.

        They will be told again: corrected and sent twice, they would be stored twice.
        """
        lines = self._failed.read_bytes().splitlines(True) if self._failed.exists() else []
        kept = [line for line in lines if self._is_finished(_number_in(line))]
        if len(kept) < len(lines):
            _replace(self._failed, b"".join(kept))

    def _save(self) -> None:
        if self._path is not None:
            self._state.counts = dict(self.counts)
            _replace(self._path, msgspec.json.encode(self._state))


def _number_in(line: bytes) -> int:
    """Return the number of a failed record, 0 of a line that is not ours."""
    try:
        return msgspec.json.decode(line, type=FailedRecord).record
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0


def _replace(path: Path, content: bytes) -> None:
    new = path.with_name(path.name + ".new")
    with open(new, "wb", opener=_private) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _private(path: str, flags: int) -> int:
    """Open a file that only its owner may read."""
    return os.open(path, flags, 0o600)
