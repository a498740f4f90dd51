"""What was sent, what was told, what was committed, and whether one order explains it all.

A history knows nothing of how it came about. All its times are of one monotonic clock.
"""

import math
import zlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

STORED = (200, 201)
AGAIN = 503
ANOTHER_BODY = 422

LATE_SECONDS = 10.0
"""How long what a process left behind may still overwrite what other processes write: the
longest statement timeout of the histories' services, and a little (contract, promise 8)."""

HANG_UP_SECONDS = 1.0
"""How long the same process may take to notice that a client has hung up."""

CLOCK_SECONDS = 0.02
"""How far the clocks of those who keep the times may differ."""

IN_DOUBT = ("with the key", "may have been", "not be learned", "not known", "in doubt")
"""One of these is in the 503 of a key-0 item that may be stored."""

KINDS = ("lost", "doubled", "late", "mixed", "order", "refused", "spread", "hung")


class Violation(NamedTuple):
    """A broken promise: one of KINDS, and what was seen."""

    kind: str
    what: str


def fields(marker: str) -> dict[str, Any]:
    """Return the fields of the item with this marker; each of them tells whose it is."""
    number = zlib.crc32(marker.encode()) >> 1
    return {"comment": marker, "study_Title": f"the study of {marker}", "case_Key": number}


class Row(NamedTuple):
    """A stored record, as far as its item filled it."""

    key: int
    marker: str
    study_title: str | None
    case_key: int | None

    @property
    def is_whole(self) -> bool:
        """Whether all its fields are of one item."""
        return list(self[1:]) == list(fields(self.marker).values())


class Change(NamedTuple):
    """A row as a transaction left it, and when the transaction began to commit."""

    at: float
    row: Row


@dataclass(slots=True)
class Write:
    """One item in one request."""

    marker: str
    key: int
    request: int
    place: int
    process: str = ""
    """The service process that it was sent to."""
    sent: float = -math.inf
    ended: float = math.inf
    """When its outcome was read, or given up."""
    status: int | None = None
    """None while its fate is not known."""
    told: int | None = None
    """The key in its outcome."""
    words: str = ""
    has_rival: bool = False
    """Whether its Idempotency-Key was used with another body, too, so that it can get 422."""
    is_good: bool = True
    """Whether only the state of the database may keep it out."""

    def __str__(self) -> str:
        return f"{self.marker} ({self.status} by {self.process}, {self.sent:.2f}-{self.ended:.2f})"

    @property
    def is_stored(self) -> bool:
        """Whether it was acknowledged."""
        return self.status in STORED

    @property
    def is_possible(self) -> bool:
        """Whether it may have taken effect."""
        return self.status in (None, AGAIN, *STORED)


@dataclass
class History:
    """All that happened to one table."""

    name: str = ""
    """The first part of the markers; no other history of the table has it."""
    initial: dict[int, str] = field(default_factory=dict)
    """The markers, by key, of the rows that were there before."""
    writes: list[Write] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    """In the order of the commits, until all was over."""
    noted: list[Violation] = field(default_factory=list)
    """What the senders saw for themselves."""
    excuse: Callable[[Write], bool] | None = None
    """Tells of an item whether what befell the database may have cost it a 503, when nothing else
    did, and no reply was lost; None when every item may have met with anything."""

    def violations(self) -> list[Violation]:
        """Return the promises that were broken."""
        rules = (
            *(_refused, _spread, _after_503, _created),
            *(_uncommitted, _overwritten, _strange, _keyless),
        )
        return [*self.noted, *(violation for rule in rules for violation in rule(self))]

    def by_key(self) -> dict[int, list[Write]]:
        """Return the writes of each key that was named; the first may be the row of before."""
        before = [
            Write(marker, key, request=-key, place=0, ended=-math.inf, status=200, told=key)
            for key, marker in self.initial.items()
        ]
        named = (write for write in self.writes if write.key)
        return _grouped([*before, *named], attrgetter("key"))


def must_precede(first: Write, second: Write) -> bool:
    """Whether the first takes effect, if at all, before the second, which was acknowledged."""
    if first.request == second.request:
        return first.place < second.place
    if first.status == 201:
        # Nothing is deleted: what else was stored under the key came after its creation.
        return True
    return first.ended + _afterlife(first, second) < second.sent


def _afterlife(first: Write, second: Write) -> float:
    """Return for how long after its end the first may still overwrite the second."""
    if first.is_stored:
        return 0
    if first.process != second.process:
        return LATE_SECONDS
    return HANG_UP_SECONDS if first.status is None else 0


def _refused(history: History) -> Iterator[Violation]:
    """A good item is stored or to be sent again, a bad one is not stored; none is told another."""
    for write in history.writes:
        allowed: tuple[int, ...] = (*STORED, AGAIN) if write.is_good else (400, AGAIN)
        allowed += (ANOTHER_BODY,) if write.has_rival else ()
        if write.status is not None and write.status not in allowed:
            yield Violation("refused", f"{write.marker} got {write.status}: {write.words}")
        if write.key and write.is_stored and write.told != write.key:
            yield Violation("order", f"{write.marker} of {write.key} was told {write.told}")


def _spread(history: History) -> Iterator[Violation]:
    """A 503 has its reason in the item, or in an earlier one of its key in its batch."""
    if history.excuse is None:
        return
    spoilt: set[tuple[int, int]] = set()
    for write in history.writes:
        if write.status != AGAIN:
            continue
        if history.excuse(write):
            spoilt.add((write.request, write.key))
        elif not write.key or (write.request, write.key) not in spoilt:
            yield Violation("spread", f"{write.marker} of {write.key} got {write.words}")


def _after_503(history: History) -> Iterator[Violation]:
    """Once an item got 503, the later ones of its key in its batch get 503, too."""
    for writes in history.by_key().values():
        refused: dict[int, Write] = {}
        for write in writes:
            earlier = refused.get(write.request)
            if earlier is not None and write.is_stored:
                what = f"{write.marker} was stored although {earlier.marker} before it got 503"
                yield Violation("order", what)
            if write.status == AGAIN:
                refused.setdefault(write.request, write)


def _created(history: History) -> Iterator[Violation]:
    """An item is Created once for each key, and before all that was acknowledged earlier."""
    for key, writes in history.by_key().items():
        stored = [write for write in writes if write.is_stored]
        # With a lost reply of the database, the service's retry finds the record: 200.
        is_certain = history.excuse is not None and key not in history.initial
        are_updated = all(write.status == 200 for write in writes if write.is_possible)
        if is_certain and stored and are_updated:
            yield Violation("order", f"{key}: all got 200, though there was no row")
        for write in (write for write in stored if write.status == 201):
            for other in stored:
                is_before = other.ended < write.sent or (
                    other.request == write.request and other.place < write.place
                )
                if other is not write and (is_before or other.status == 201):
                    what = f"{write.marker} was Created, though {other.marker} got {other.status}"
                    yield Violation("order", f"{write.key}: {what}")
                    break


def _uncommitted(history: History) -> Iterator[Violation]:
    """What was acknowledged was committed before it was, under the key that was told."""
    commits = _grouped(history.changes, lambda change: (change.row.key, change.row.marker))
    for write in history.writes:
        # An item without key that is sent again may have been committed the first time.
        since = write.sent - CLOCK_SECONDS if write.key else -math.inf
        found = commits.get((write.told or 0, write.marker), ())
        until = write.ended + CLOCK_SECONDS
        if write.is_stored and not any(since <= change.at <= until for change in found):
            what = f"{write.marker} got {write.status} for {write.told}, and was not committed"
            yield Violation("lost", what)


class _Acknowledged:
    """The acknowledged writes of one key, up to some time, as far as they decide."""

    def __init__(self) -> None:
        self.all: list[Write] = []
        self._newest: dict[str, Write] = {}
        self._by_request: dict[int, Write] = {}

    def add(self, write: Write) -> None:
        self.all.append(write)
        other = self._newest.setdefault(write.process, write)
        if (write.sent, write.place) > (other.sent, other.place):
            self._newest[write.process] = write
        other = self._by_request.setdefault(write.request, write)
        if write.place > other.place:
            self._by_request[write.request] = write

    def after(self, first: Write) -> Write | None:
        """Return one that must have followed the first, if there is one."""
        others = self.all
        if first.status != 201:
            others = [self._by_request.get(first.request, first), *self._newest.values()]
        return next((other for other in others if must_precede(first, other)), None)


def _overwritten(history: History) -> Iterator[Violation]:
    """What is written to a key comes from an item that nothing acknowledged had to follow."""
    changes = _grouped(history.changes, lambda change: change.row.key)
    for key, writes in history.by_key().items():
        by_marker = _grouped(writes, attrgetter("marker"))
        coming = sorted(filter(attrgetter("is_stored"), writes), key=attrgetter("ended"))[::-1]
        acknowledged = _Acknowledged()
        for at, row in changes.get(key, ()):
            while coming and coming[-1].ended < at - CLOCK_SECONDS:
                acknowledged.add(coming.pop())
            sources = [write for write in by_marker.get(row.marker, ()) if write.is_possible]
            followers = [acknowledged.after(source) for source in sources]
            if followers and (newer := followers[0]) is not None and None not in followers:
                told = ", ".join(map(str, sources))
                yield Violation("late", f"{key}: at {at:.2f} {told} was written over {newer}")


def _strange(history: History) -> Iterator[Violation]:
    """A row is an item as it was sent under this key, and not refused."""
    named = history.by_key()
    markers = {write.marker for write in history.writes}
    possible = {(write.key, write.marker) for write in history.writes if write.is_possible}
    for _, row in history.changes:
        if not row.is_whole:
            yield Violation("mixed", f"{row} is not of one item")
        elif (row.key if row.key in named else 0, row.marker) in possible:
            continue
        elif row.marker in markers:
            yield Violation("mixed", f"{row} was refused, or sent under another key")
        else:
            yield Violation("late", f"{row} is from an earlier history")


def _keyless(history: History) -> Iterator[Violation]:
    """An item without key is stored once if acknowledged, at most once if not, and stays."""
    rows = {change.row.key: change.row for change in history.changes}
    stored = _grouped(rows.values(), attrgetter("marker"))
    key_zero = (write for write in history.writes if not write.key)
    for marker, writes in _grouped(key_zero, attrgetter("marker")).items():
        keys = [row.key for row in stored.get(marker, ())]
        acknowledged = {write.told for write in writes if write.is_stored}
        if len(keys) > 1:
            yield Violation("doubled", f"{marker} lies under {keys}")
        if not acknowledged <= set(keys):
            yield Violation("lost", f"{marker} was told {acknowledged} and lies under {keys}")
        if any(write.status == 200 for write in writes):
            yield Violation("order", f"{marker} without key was Updated")
        if keys and not any(map(_may_be_stored, writes)):
            words = {write.words for write in writes}
            yield Violation("doubled", f"{marker} lies under {keys}, to be sent again: {words}")


def _may_be_stored(write: Write) -> bool:
    """Whether the sender of an item without key has to reckon with its being there."""
    is_in_doubt = any(words in write.words for words in IN_DOUBT)
    return write.status in (None, *STORED) or is_in_doubt


_Member = TypeVar("_Member")
_Name = TypeVar("_Name", bound=Hashable)


def _grouped(
    members: Iterable[_Member], name_of: Callable[[_Member], _Name]
) -> dict[_Name, list[_Member]]:
    groups: dict[_Name, list[_Member]] = defaultdict(list)
    for member in members:
        groups[name_of(member)].append(member)
    return dict(groups)
