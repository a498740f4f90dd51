"""How far a file is sent, kept beside it."""

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
    """Keeps the outcomes of a file's batches that went to a destination, in their order."""

    def __init__(self, path: Path, destination: str) -> None:
        self.path = path
        self._destination = destination

    def resume(self, records: Iterator[Any]) -> Iterator[list[tuple[Any, Outcome]]]:
        """Yield the first records with their outcomes, batch by batch. Raises Unreadable."""
        with self.path.open("rb") if self.path.exists() else nullcontext(()) as lines:
            for line in lines:
                try:
                    destination, digest, outcomes = msgspec.json.decode(line, type=_Line)
                except ValueError:
                    continue  # the run that wrote it was killed
                if destination == self._destination:
                    batch = list(islice(records, len(outcomes)))
                    if digest != _digest(batch):
                        raise Unreadable(
                            f"{self.path}: the records that it tells of are no longer the same;"
                            " delete it to send all anew (those without a key are created again)"
                        )
                    yield list(zip(batch, outcomes, strict=True))

    def keep(self, batch: Sequence[tuple[Any, Outcome]]) -> None:
        """Add the next batch."""
        records, outcomes = zip(*batch, strict=True)
        line = msgspec.json.encode((self._destination, _digest(records), outcomes))
        with naming(self.path), self.path.open("ab") as file:
            file.write(b"\n" + line)  # the line before may lack its end


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file to errors that lack it, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


_Line = tuple[str, str, list[Outcome]]


def _digest(records: Sequence[Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(records)).hexdigest()
