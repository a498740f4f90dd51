"""What is known of a file that is being sent, kept so that a later run can go on."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

from service.send.records import Record, failed_line

IN_DOUBT = "in doubt"
"""The status, in counts, of records of which nobody knows what became of them."""

STORED = (200, 201)

_Range = tuple[int, int]


class NotTheSame(Exception):
    """The kept progress belongs to another file, address or database."""


class _State(Struct):
    """The kept progress: ranges of record numbers, both ends included.

    ``begun`` are records that may have been sent and whose outcomes may not have been read.
    """

    size: int
    modified: int
    url: str
    database: str
    finished: list[_Range]
    begun: list[_Range]
    counts: dict[str, int]


_IDENTITY = {
    "size": "the file's size",
    "modified": "the file's time",
    "url": "the URL",
    "database": "the database",
}


class Progress:
    """Keeps which records are finished and which failed, on disk before anybody relies on it.

    Without a source path (standard input) only the failed records are kept.
    """

    def __init__(self, source: Path | None, failed: Path, url: str, database: str) -> None:
        self._path = source and source.with_name(source.name + ".progress")
        self._failed = failed
        status = source.stat() if source else None
        size, modified = (status.st_size, status.st_mtime_ns) if status else (0, 0)
        self._state = _State(size, modified, url, database, [], [], {})
        self.counts: Counter[str] = Counter()
        self._in_doubt: list[_Range] = []

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
        self._in_doubt, kept.begun = kept.begun, []
        return True

    def start_anew(self) -> None:
        """Forget earlier runs, but keep their failed records, as FILE.old."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        if self._failed.exists():
            self._failed.replace(self._failed.with_name(self._failed.name + ".old"))

    def is_finished(self, record: Record) -> bool:
        """Tell whether a run has finished the record."""
        return _contains(self._state.finished, record.number)

    def is_in_doubt(self, record: Record) -> bool:
        """Tell whether a run that was killed may have sent this record."""
        return _contains(self._in_doubt, record.number)

    def begin(self, batch: list[Record]) -> None:
        """Note that the batch is about to be sent: if this process dies, its fate is open."""
        self._state.begun = _joined(self._state.begun, batch)
        self._save()

    def note(self, record: Record, status: int | None, reason: str) -> None:
        """Count a record's outcome; write one that failed to a file only its owner may read."""
        self.counts[IN_DOUBT if status is None else str(status)] += 1
        if status in STORED:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        with open(os.open(self._failed, flags, 0o600), "ab") as file:
            file.write(failed_line(record, status, reason))

    def end(self, batch: list[Record], finished: Iterable[Record]) -> None:
        """Note which records of a batch are finished; the others wait for another run."""
        numbers = {record.number for record in batch}
        self._state.finished = _joined(self._state.finished, finished)
        self._state.begun = _merged(
            [
                (number, number)
                for first, last in self._state.begun
                for number in range(first, last + 1)
                if number not in numbers
            ]
        )
        self._save()

    def remove(self) -> None:
        """Forget the progress: the file is sent to its end."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _save(self) -> None:
        if self._path is None:
            return
        self._state.counts = dict(self.counts)
        # What an earlier run left in doubt stays so until its batch is ended.
        kept = msgspec.structs.replace(
            self._state, begun=_merged(self._state.begun + self._in_doubt)
        )
        new = self._path.with_name(self._path.name + ".new")
        with new.open("wb") as file:
            file.write(msgspec.json.encode(kept))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)


def _contains(ranges: list[_Range], number: int) -> bool:
    return any(first <= number <= last for first, last in ranges)


def _joined(ranges: list[_Range], records: Iterable[Record]) -> list[_Range]:
    return _merged(ranges + [(record.number, record.number) for record in records])


def _merged(ranges: list[_Range]) -> list[_Range]:
    merged: list[_Range] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return merged
