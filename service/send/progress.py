"""Progress of a file, kept beside it."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from service.client import Outcome
from service.send.records import Unreadable


class Progress:
    """Outcomes of a file's batches that were sent to a destination, in order."""

    def __init__(self, path: Path, destination: str) -> None:
        self.path = path
        self._destination = destination

    def resume(self, records: Iterator[Any]) -> Iterator[list[tuple[Any, Outcome]]]:
        """Yield the records that were already sent with their outcomes, per batch.

        Raises Unreadable if the records have changed.
        """
        with self.path.open("rb") if self.path.exists() else nullcontext(()) as lines:
            for line in lines:
                try:
                    destination, digest, outcomes = msgspec.json.decode(line, type=_Line)
                except ValueError:
                    continue  # the run that wrote it was killed
                if destination == self._destination:
                    batch = list(islice(records, len(outcomes)))
                    if digest != _compute_digest(batch):
                        raise Unreadable(
                            f"{self.path}: the records that were already sent have changed; delete"
                            " this file to send all (records with key 0 are created again)"
                        )
                    yield list(zip(batch, outcomes, strict=True))

    def append(self, batch: Sequence[tuple[Any, Outcome]]) -> None:
        """Append the next batch. Raises OSError."""
        records, outcomes = zip(*batch, strict=True)
        line = msgspec.json.encode((self._destination, _compute_digest(records), outcomes))
        with add_path_to_errors(self.path), self.path.open("ab") as file:
            file.write(b"\n" + line)  # the previous line may be cut off


@contextmanager
def add_path_to_errors(path: Path) -> Iterator[None]:
    """Add the file's name to errors that lack it, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


_Line = tuple[str, str, list[Outcome]]


def _compute_digest(records: Sequence[Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(records)).hexdigest()
