"""How far a file is sent, and what became of its records, kept beside it."""

import csv
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import msgspec
from msgspec import Raw, Struct

from service.client import Outcome
from service.send.records import FailedRecord, Record, Unreadable

STORED = (200, 201)


class _State(Struct):
    """The kept progress: the first ``done`` records are finished, and have this digest.

    ``way``: to which service and database they went, and where it is told what became of them.
    """

    way: list[str]
    done: int
    digest: str
    counts: dict[int, int]
    keyless: int
    sizes: list[int]


class Progress:
    """Keeps how many of a file's records are finished, which failed, and the outcome of each.

    Without a source path (standard input) only the outcomes and the failed records are kept.
    """

    def __init__(
        self, source: Path | None, failed: Path, outcomes: Path, url: str, database: str
    ) -> None:
        self._path = source and source.with_name(source.name + ".progress")
        self._outputs = [failed, outcomes]
        self._digest = hashlib.sha256()
        way = [url, database, *map(os.path.abspath, self._outputs)]
        self._state = _State(way, 0, "", {}, 0, [])

    @property
    def counts(self) -> Counter[int]:
        """How many records have which status."""
        return Counter(self._state.counts)

    @property
    def has_keyless(self) -> bool:
        """Whether a record had no key, so that its outcome tells the one that it got."""
        return self._state.keyless > 0

    def resume(self, records: Iterator[Record]) -> int:
        """Pass over the records that an earlier run finished; return how many these are.

        Passes over none if they went another way. Raises Unreadable where they are no longer
        those of the earlier run.
        """
        if self._path is None or not self._path.exists():
            return 0
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=_State, strict=False)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Unreadable(f"{self._path} is of another version; delete it") from None
        if kept.way != self._state.way:
            return 0
        for record in islice(records, kept.done):
            self._digest.update(record.item)
        if self._digest.hexdigest() != kept.digest:
            raise Unreadable(
                f"its first {kept.done:,} records were sent already, and are no longer the same;"
                f" delete {self._path} to send all anew (those without a key are created again)"
            )
        self._state = kept
        for path, size in zip(self._outputs, kept.sizes, strict=True):
            # What a killed run wrote after it had noted its progress will be told again.
            if path.exists() and path.stat().st_size > size:
                os.truncate(path, size)
        return kept.done

    def finish(self, finished: Sequence[tuple[Record, Outcome]]) -> None:
        """Note the next records as finished, with their outcomes."""
        if not self._state.done:
            self._start_anew()
        failed, outcomes = io.BytesIO(), io.StringIO()
        rows = csv.writer(outcomes)
        for record, outcome in finished:
            self._digest.update(record.item)
            rows.writerow([record.number, outcome.key, outcome.status])
            if outcome.status not in STORED:
                line = msgspec.json.format(record.item, indent=-1)
                reason = record.refusal or outcome.body
                told = FailedRecord(record.number, outcome.status, reason, Raw(line))
                failed.write(msgspec.json.encode(told) + b"\n")
        state = self._state
        state.counts = self.counts + Counter(outcome.status for _, outcome in finished)
        state.keyless += sum(record.key == 0 for record, _ in finished)
        state.done += len(finished)
        state.digest = self._digest.hexdigest()
        texts = [failed.getvalue(), outcomes.getvalue().encode()]
        state.sizes = [_append(*each) for each in zip(self._outputs, texts, strict=True)]
        if self._path is not None:
            new = self._path.with_name(self._path.name + ".new")
            new.unlink(missing_ok=True)
            _append(new, msgspec.json.encode(state))
            new.replace(self._path)

    def _start_anew(self) -> None:
        """Keep what earlier runs told, as FILE.old."""
        for path in self._outputs:
            if path.exists():
                path.replace(path.with_name(path.name + ".old"))
        _append(self._outputs[1], b"record,key,status\r\n")

    def remove(self) -> None:
        """Forget the progress: the file is sent to its end."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _append(path: Path, content: bytes) -> int:
    """Write to the end of a file that only its owner may read; return the file's size."""
    if not content:
        return path.stat().st_size if path.exists() else 0
    with open(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()
