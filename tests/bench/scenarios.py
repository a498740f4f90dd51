"""The scenarios: what is sent, and by which contestants it is answered."""

from dataclasses import dataclass
from typing import Any, Literal

from .rows import Shape

Bad = Literal["none", "refused", "invalid"]

BAD_ITEMS: dict[Bad, dict[str, Any]] = {
    "none": {},
    "refused": {"case_Key": -1},  # by a CHECK constraint of the table
    "invalid": {"update_User": "a user name of more than twenty characters"},
}


@dataclass(frozen=True)
class Scenario:
    """One kind of load; ``bad_every`` 100 makes each hundredth item bad, 1 all.

    ``key``: that of all items, where they have not one each.
    """

    name: str
    title: str
    contestants: tuple[str, ...]
    shape: Shape = "short"
    batch: int = 1_000
    connections: int = 4
    are_new: bool = False
    key: int | None = None
    bad: Bad = "none"
    bad_every: int = 0


ONE, OTHER = "service-1", "against"
"""This checkout's service, and another checkout's where one is named."""

SERVICES = (ONE, "service-2")
OTHERS = ("textbook", "fastapi", "fastify")

SCENARIOS = (
    Scenario(
        "existing",
        "1,000-item batches, existing keys, 4 connections",
        ("limit-1", "limit-2", *SERVICES, *OTHERS),
    ),
    Scenario(
        "existing-real",
        "1,000-item batches, existing keys, 4 connections, real records",
        ("limit-1", *SERVICES, "fastapi", "fastify"),
        shape="real",
    ),
    Scenario(
        "new",
        "1,000-item batches, new keys, 4 connections",
        ("limit-1", *SERVICES, *OTHERS),
        are_new=True,
    ),
    Scenario(
        "one-connection",
        "1,000-item batches, existing keys, 1 connection",
        (ONE, *OTHERS),
        connections=1,
    ),
    Scenario(
        "bad-1-percent",
        "1% of the items refused by a constraint, 4 connections",
        (ONE, "textbook"),
        bad="refused",
        bad_every=100,
    ),
    Scenario(
        "invalid-1-percent",
        "1% of the items invalid, 4 connections",
        (ONE,),
        bad="invalid",
        bad_every=100,
    ),
    Scenario(
        "bad-all",
        "all items refused by a constraint, 4 connections",
        (ONE, "textbook"),
        bad="refused",
        bad_every=1,
    ),
    Scenario("key-0", "1,000-item batches, key 0, 4 connections", (ONE,), are_new=True, key=0),
    Scenario("batches-of-100", "100-item batches, 4 connections", (ONE,), batch=100),
    Scenario("batches-of-10", "10-item batches, 4 connections", (ONE,), batch=10),
    Scenario(
        "one-item",
        "one-item batches, 64 connections",
        (*SERVICES, *OTHERS),
        batch=1,
        connections=64,
    ),
    Scenario(
        "one-item-alone",
        "one-item batches, 1 connection",
        ("bare-asyncpg", ONE, "textbook"),
        batch=1,
        connections=1,
    ),
)

LARGE_SIZES = (1_000, 10_000, 100_000)
LARGE_ITEMS = 100_000
LARGE_TITLE = "100,000 items in batches of {:,}, 1 connection"

FAIR_TITLE = "one-item batches, 4 connections, beside {}"
LOCKED = "locked"
BESIDE: dict[str, Scenario | None] = {
    "alone": None,
    "large": Scenario("large", "100,000-item batches", (), batch=LARGE_ITEMS, connections=1),
    "bad": Scenario(
        "fair-bad",
        "10,000-item batches, all items refused",
        (),
        batch=10_000,
        connections=1,
        bad="refused",
        bad_every=1,
    ),
    LOCKED: Scenario("fair-locked", "1,000-item batches with a locked row", (), connections=1),
    "many": Scenario(
        "fair-many", "64 connections of one-item batches", (), batch=1, connections=64
    ),
}
"""What one-item batches are sent beside, to see that it does not keep them from their turn."""
