"""An example: a table and batches; whether the service does to them what the reference does."""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from time import monotonic
from typing import Any

import aiohttp
from hypothesis import strategies as st

from tests.model.batches import DATES, batches
from tests.model.checkout import HASTY, Twins
from tests.model.reference import KEY, Item, Outcome
from tests.model.tables import KEY_COLUMN, REWRITTEN_FROM, Table
from tests.model.tenants import tables

RESTORED = "restored schema"
NEWEST = "resolution=newest"

FALLBACK_KEYS_FROM = 1_900_000_000
"""The reference draws from here on for items that the service did not create."""

BODIES = {200: "Updated", 201: "Created"}
FEW = 20
"""Of a batch of so many items all is shown, and each is made as small as can be."""

MOST = 10
"""So many differences are printed."""

Told = tuple[str | None, int, str]
"""What the service told an item: key, status, body."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """A table, and batches that are sent one after the other.

    Before one of them the schema may be dropped and made anew under the running service.
    """

    table: Table
    batches: tuple[Sequence[Item], ...]
    restored_before: int | None = None
    is_newest: bool = False

    def __str__(self) -> str:
        lines = [self.table.ddl, self.table.features_ddl]
        lines += [f"Prefer: {NEWEST}"] if self.is_newest else []
        if self.table.stranger:
            lines.append(f"meanwhile, in an open transaction: {self.table.stranger.statement}")
        for number, batch in enumerate(self.batches):
            if number == self.restored_before:
                lines.append("the schema is dropped and made anew")
            lines.append(f"batch {number} of {len(batch)} items:")
            lines += [f"  {json.dumps(item.wire)}" for item in batch[:FEW]]
            if len(batch) > FEW:
                keys = [item.key if item.meaning else "bad" for item in batch]
                lines.append(f"  …, with the keys {keys}"[:2000])
        return "\n".join(lines)

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """Print few words for hypothesis, which would print all items."""
        printer.text(f"<{' + '.join(self.kinds)}: {list(map(len, self.batches))} items>")

    @property
    def kinds(self) -> tuple[str, ...]:
        """What it has beyond batches for an ordinary table."""
        restored = () if self.restored_before is None else (RESTORED,)
        return (*self.table.kinds, *restored, *((NEWEST,) if self.is_newest else ()))


@st.composite
def examples(
    draw: st.DrawFn, without: Collection[str] = (), *, slow: bool = False, most: int = 3000
) -> Example:
    """Return an example without some kinds, of batches of at most so many items.

    ``slow`` allows what takes seconds.
    """
    table = draw(tables(without, slow=slow))
    made = draw(batches(table, most))
    restored_before = None
    if slow and not table.kinds and RESTORED not in without and draw(st.integers(0, 19)) == 19:
        restored_before = len(made) - 1
    is_newest = NEWEST not in without and draw(st.booleans())
    if is_newest:
        made = [list(map(_dated, batch, count())) for batch in made]
    return Example(table, tuple(made), restored_before, is_newest)


def _dated(item: Item, place: int) -> Item:
    """Return the item with a date, where it is a good one; a few are left without."""
    if item.meaning is None or "update_Date" in item.meaning or place % 13 == 12:
        return item
    date, meaning = list(DATES.items())[(place + item.key) % len(DATES)]
    return Item(
        {**item.wire, "update_Date": date}, {**item.meaning, "update_Date": meaning}, item.key
    )


async def differences(twins: Twins, example: Example) -> list[str]:
    """Return what the service did otherwise than the reference, each as "symptom: where"."""
    return (await try_out(twins, example)).differences


def report(example: Example, found: Sequence[str]) -> str:
    """Return the first of the differences and the example, for people."""
    more = [f"and {len(found) - MOST} more"] if len(found) > MOST else []
    return "\n".join([*found[:MOST], *more, str(example)])


def symptom_of(difference: str) -> str:
    """Return what is wrong, without where."""
    return difference.partition(":")[0]


async def try_out(twins: Twins, example: Example) -> "Trial":
    """Make the table, send the batches, replay each on the twin, and compare."""
    began = datetime.now(UTC) - timedelta(seconds=1)
    await twins.reset(example.table)
    trial = Trial(twins, example.table, is_newest=example.is_newest)
    async with twins.held(example.table.stranger):
        for number, batch in enumerate(example.batches):
            if number == example.restored_before:
                await twins.restore()
            await trial.send(batch)
            if trial.differences:
                return trial
    await trial.compare_rows(began)
    return trial


class Trial:
    """What became of an example: ``told`` has what each item of each batch was told."""

    def __init__(self, twins: Twins, table: Table, *, is_newest: bool = False) -> None:
        self._twins = twins
        self._is_newest = is_newest
        self._stranger = table.stranger
        self._rewrites_keys = any(feature.rewrites_keys for feature in table.features)
        self._fallback_keys = count(FALLBACK_KEYS_FROM)
        self._renamed: dict[int, int] = {}
        """Keys that new records have in the twin, and those that they have in the service."""
        self.differences: list[str] = []
        self.told: list[list[Told]] = []

    async def send(self, batch: Sequence[Item]) -> None:
        """Send a batch, replay it on the twin, compare what each item was told."""
        database = HASTY if self._stranger else "acme"
        try:
            prefer = NEWEST if self._is_newest else None
            answer = await self._twins.put(batch, database, prefer=prefer)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            self.differences = [f"no answer: {error!r}"]
            return
        if answer.status != 207 or len(answer.outcomes) != len(batch):
            self.differences = [f"no outcomes: status {answer.status}, {answer.body[:200]!r}"]
            return
        told = answer.outcomes
        self.told.append(told)
        assigned = [self._drawn(item, each) for item, each in zip(batch, told, strict=True)]
        expected = await self._twins.reference.apply(
            batch, assigned, self._is_held, is_newest=self._is_newest
        )
        for place, (item, outcome, each) in enumerate(zip(batch, expected, told, strict=True)):
            if symptom := self._compare(item, outcome, each):
                key, status, body = each
                self.differences.append(
                    f"{symptom}: batch {len(self.told) - 1}, item {place}, key {key}, told"
                    f" {status} {body!r}, expected {outcome.status} {outcome.reason}"
                )
        if not self.differences and not self._rewrites_keys:
            self.differences = await self._judge_drawn_keys(batch, told)

    def _drawn(self, item: Item, told: Told) -> int:
        key, status, _ = told
        if item.draws_key and status == 201 and key is not None and int(key) != 0:
            return int(key)
        return next(self._fallback_keys)

    def _is_held(self, item: Item) -> bool:
        stranger = self._stranger
        return (
            stranger is not None
            and item.meaning is not None
            and item.meaning.get(stranger.name) == stranger.value
        )

    def _compare(self, item: Item, expected: Outcome, told: Told) -> str | None:
        key, status, body = told
        if status != expected.status:
            return f"told {status} for {expected.status}"
        if body != BODIES.get(status, body) or (status == 500 and "Internal error" not in body):
            return f"told {body!r} with {status}"
        if item.draws_key and status == 201:
            if expected.stored_key is not None:
                self._renamed[expected.stored_key] = int(key or 0)
            return None
        # Of an item that a trigger stored under another key either may be told.
        is_open = item.key is ... or expected.stored_key not in (None, item.key)
        if not is_open and key != (None if item.key is None else str(item.key)):
            return "told a wrong key"
        return None

    async def _judge_drawn_keys(self, batch: Sequence[Item], told: Sequence[Told]) -> list[str]:
        first, step = await self._twins.sequence()
        named = {item.key for item in batch}
        found = []
        for place, (item, (key, status, _)) in enumerate(zip(batch, told, strict=True)):
            if item.draws_key and status == 201:
                if int(key or 0) in named:
                    found.append(f"drew a key that the batch names: item {place}, key {key}")
                if (int(key or 0) - first) % step:
                    found.append(f"drew a key that the sequence has not: item {place}, key {key}")
        return found

    async def compare_rows(self, began: datetime) -> None:
        """Compare all rows, those of the tenant's own tables too."""
        names = ("acme", "twin")
        stored, expected = [_normal(await self._twins.rows(name), began) for name in names]
        # Those that a trigger gave a key which nobody was told can be known by the rest alone.
        rest = _take(stored, self._renamed.values())
        expected_rest = _take(expected, self._renamed.keys())
        expected = {self._renamed.get(key, key): row for key, row in expected.items()}
        self.differences = [
            *_compare_rows(stored, expected),
            *(f"a record is missing: {row}" for row in (expected_rest - rest).elements()),
            *(f"a record is too many: {row}" for row in (rest - expected_rest).elements()),
        ]
        tables, expected_tables = [await self._twins.tenants_rows(name) for name in names]
        for table, rows in expected_tables.items():
            if tables[table] != rows:
                self.differences.append(
                    f"tenant.{table} differs: {tables[table]}, expected {rows}"[:2000]
                )


def _normal(rows: Mapping[int, Row], began: datetime) -> dict[int, Row]:
    """Return rows in which moments of now and numbers of the tenant's can be compared."""
    numbers = sorted({row.get("number") or 0 for row in rows.values()})
    ranks = {number: rank for rank, number in enumerate(numbers)}
    normal = {}
    for key, row in rows.items():
        row = {name: value for name, value in row.items() if name != KEY_COLUMN}
        for name in ("entry_date", "update_date"):
            if began <= datetime.fromisoformat(row[name]) <= datetime.now(UTC):
                row[name] = "now"
        normal[key] = {**row, "number": ranks[row.get("number") or 0]}
    return normal


def _take(rows: dict[int, Row], but: Collection[int]) -> Counter[str]:
    """Take out the rows whose keys a trigger drew, but for some; return them without keys."""
    keys = [key for key in rows if REWRITTEN_FROM <= key < 2 * REWRITTEN_FROM and key not in but]
    return Counter(json.dumps(rows.pop(key)) for key in keys)


def _compare_rows(stored: Mapping[int, Row], expected: Mapping[int, Row]) -> Iterator[str]:
    for key in sorted(stored.keys() | expected.keys()):
        if key not in stored:
            yield f"a record is missing: key {key}, {expected[key]}"
        elif key not in expected:
            yield f"a record is too many: key {key}, {stored[key]}"
        else:
            for name, value in expected[key].items():
                if stored[key][name] != value:
                    got = stored[key][name]
                    yield f"a record differs: key {key}, {name} is {got!r}, expected {value!r}"


def shrink(
    twins: Twins,
    example: Example,
    found: list[str],
    seconds: float,
    is_wanted: Callable[[Example, list[str]], bool] = lambda example, found: bool(found),
) -> tuple[Example, list[str]]:
    """Return a small example with wanted differences, and them; take so many seconds at most."""
    until = monotonic() + seconds
    is_smaller = True
    while is_smaller:
        is_smaller = False
        for candidate in _smaller(example):
            if monotonic() > until:
                return example, found
            if example.restored_before is not None:
                # It may be harmed for good.
                twins.run(twins.restart())
            still = twins.run(differences(twins, candidate))
            if is_wanted(candidate, still):
                example, found, is_smaller = candidate, still, True
                break
    return example, found


def _smaller(example: Example) -> Iterator[Example]:
    """Yield examples with something left out, the most first."""
    table, made = example.table, example.batches
    if example.restored_before is None and len(made) > 1:
        for place in range(len(made)):
            yield replace(example, batches=made[:place] + made[place + 1 :])
    if table.partitions and not any(each.depends_on_keys for each in table.features):
        yield replace(example, table=replace(table, partitions=0))
    if table.stranger is None:
        for feature in table.features:
            fewer = tuple(each for each in table.features if each is not feature)
            yield replace(example, table=replace(table, features=fewer))
    for place, batch in enumerate(made):
        for fewer_items in _fewer(batch):
            yield replace(example, batches=(*made[:place], fewer_items, *made[place + 1 :]))


def _fewer(batch: Sequence[Item]) -> Iterator[Sequence[Item]]:
    size = len(batch) // 2
    while size:
        for start in range(0, len(batch), size):
            yield [*batch[:start], *batch[start + size :]]
        size //= 2
    for place, item in enumerate(batch if len(batch) <= FEW else []):
        for name in item.meaning or ():
            if name != KEY:
                yield [*batch[:place], _without(item, name), *batch[place + 1 :]]


def _without(item: Item, name: str) -> Item:
    assert item.meaning is not None
    fields, meaning = [
        {other: value for other, value in mapping.items() if other != name}
        for mapping in (item.wire, item.meaning)
    ]
    return Item(fields, meaning, item.key)
