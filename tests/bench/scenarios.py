"""The scenarios: what is sent, and by which contestants it is answered."""

from dataclasses import dataclass, field
from typing import Any, Literal

from .rows import Shape

Bad = Literal["none", "refused", "invalid"]

BAD_ITEMS: dict[Bad, dict[str, Any]] = {
    "none": {},
    "refused": {"case_Key": -1},  # by a CHECK constraint of the table
    "invalid": {"update_User": "a user name of more than twenty characters"},
}

ONE, OTHER = "service-1", "against"
"""This checkout's service, and another checkout's where one is named."""

SESSION, LIMIT = "limit-1", "limit"
"""pgbench with one session, and with as many as the scenario has connections."""

BARE = "bare-asyncpg"

ALL = (ONE, "service-2", "textbook", "fastapi", "fastify", LIMIT)
"""Those that the documents compare."""

NAMES = {
    ONE: "this service, 1 process",
    "service-2": "this service, 2 processes",
    "textbook": "textbook handler",
    "fastapi": "FastAPI + SQLAlchemy",
    "fastify": "Fastify + postgres.js",
    SESSION: "PostgreSQL alone, 1 session",
    LIMIT: "PostgreSQL alone",
    BARE: "bare asyncpg",
}


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One kind of load; ``bad_every`` 100 makes each hundredth item bad, 1 all.

    ``contestants`` have a turn in each round, ``once`` only in the first one.
    ``key``: that of all items, where they have not one each; ``has_idempotency_key``: each request
    has one of its own.
    ``beside``: what is sent to the same service meanwhile; ``is_row_locked``: while a stranger
    holds the lock of one of its rows.
    """

    name: str
    title: str
    contestants: tuple[str, ...] = (ONE,)
    once: tuple[str, ...] = ()
    shape: Shape = "short"
    batch: int = 1_000
    connections: int = 4
    are_new: bool = False
    key: int | None = None
    has_idempotency_key: bool = False
    bad: Bad = "none"
    bad_every: int = 0
    beside: "Scenario | None" = field(default=None, repr=False)
    is_row_locked: bool = False

    @property
    def rows(self) -> int:
        """How many rows the table has; each connection has a batch of its own among them."""
        return max(50_000, self.batch * self.connections)


def _point(batch: int, connections: int, *contestants: str) -> Scenario:
    """Return a point of the curves: existing keys, sent to everybody at least once."""
    every = contestants or (ONE,)
    return Scenario(
        name=f"{batch}x{connections}",
        title=f"batches of {batch:,}, connections: {connections}",
        contestants=every,
        once=tuple(name for name in ALL if name not in every),
        batch=batch,
        connections=connections,
    )


BATCHES = tuple(
    _point(batch, 4, *((SESSION, *ALL) if batch == 1_000 else ()))
    for batch in (1, 10, 100, 1_000, 10_000)
)
"""The curve over the size of a batch."""

ONE_ITEM = (_point(1, 1, BARE, ONE), BATCHES[0], _point(1, 16), _point(1, 64, ONE, "textbook"))
THOUSAND = (
    *(_point(1_000, 1, ONE, "textbook"), BATCHES[3]),
    *(_point(1_000, 16), _point(1_000, 64)),
)
CURVES = tuple(dict.fromkeys((*BATCHES, *ONE_ITEM, *THOUSAND)))
"""The rates over the size of a batch, and over the connections."""

LARGE = Scenario(name="large", title="batches of 100,000", batch=100_000, connections=1)


def _fair(name: str, beside: Scenario | None, *, is_row_locked: bool = False) -> Scenario:
    return Scenario(
        name=name,
        title=f"batches of 1, new keys, beside {beside.title if beside else 'nothing'}",
        batch=1,
        are_new=True,
        beside=beside,
        is_row_locked=is_row_locked,
    )


FAIR = (
    _fair("alone", None),
    _fair("beside-large", LARGE),
    _fair(
        "beside-bad",
        Scenario(
            name="bad-10000", title="batches of 10,000, all items refused",
            batch=10_000, connections=1, bad="refused", bad_every=1,
        ),
    ),
    _fair(
        "beside-locked",
        Scenario(name="locked", title="batches of 1,000 with a locked row", connections=1),
        is_row_locked=True,
    ),
    _fair("beside-many", ONE_ITEM[3]),
)  # fmt: skip
"""One-item batches, to see that other load does not keep them from their turn."""


def _one_item(
    name: str, title: str, *, key: int | None = None, has_header: bool = True
) -> Scenario:
    return Scenario(
        name=name,
        title=f"{title}, batches of 1, 64 connections",
        batch=1,
        connections=64,
        key=key,
        has_idempotency_key=has_header,
    )


WITH_HEADER = _one_item("1x64-header", "each with an Idempotency-Key")
KEY_0 = _one_item("1x64-key-0", "key 0", key=0, has_header=False)
KEY_0_WITH_HEADER = _one_item("1x64-key-0-header", "key 0, each with an Idempotency-Key", key=0)
"""One-item batches, to see what an Idempotency-Key costs."""

EXISTING = BATCHES[3]
REAL = Scenario(
    name="real", title="real records, existing keys", contestants=(SESSION, *ALL), shape="real"
)
NEW = Scenario(name="new", title="new keys", contestants=(SESSION, *ALL), are_new=True)

MAIN = {
    EXISTING: "short records (670 bytes), existing keys",
    REAL: "real records, existing keys",
    NEW: "short records, new keys",
    ONE_ITEM[3]: "batches of one short record, 64 connections",
}
"""The scenarios that are told in plain numbers."""

_BOTH = (ONE, "textbook")

SCENARIOS = (
    *dict.fromkeys((EXISTING, REAL, NEW, *CURVES)),
    Scenario(
        name="refused", title="1% of the items refused by a constraint",
        contestants=_BOTH, bad="refused", bad_every=100,
    ),
    Scenario(
        name="all-refused", title="all items refused by a constraint",
        contestants=_BOTH, bad="refused", bad_every=1,
    ),
    Scenario(name="invalid", title="1% of the items invalid", bad="invalid", bad_every=100),
    Scenario(name="key-0", title="key 0", are_new=True, key=0),
    WITH_HEADER,
    KEY_0,
    KEY_0_WITH_HEADER,
    LARGE,
    *FAIR,
)  # fmt: skip
"""Where a title is silent: short records, batches of 1,000, existing keys, 4 connections."""
