"""Single records, lists and batches in any order: the service does what a dictionary does.

Contract section 1, "One record", with "Item fields" and "Preferences" left to the other models.
"""

from random import Random
from typing import Any

import pytest

from service.wire import Item
from tests.support.running import MakeService
from tests.support.service import KEY, ServiceUnderTest

STEPS = 60
KEYS = range(1, 7)
DATES = ["2025-01-02T03:04:05Z", "2025-01-02T03:04:05.500000Z", "0001-01-01T00:00:00Z"]
SET_ONCE = ("entry_Date", "entry_User")
SORTED_BY = ["case_Key", "update_Date", KEY]
"""Fields in whose order PostgreSQL and Python agree."""

Record = dict[str, Any]


class Shelf:
    """The reference: the stored records by their keys."""

    def __init__(self) -> None:
        self.records: dict[int, Record] = {}

    def create(self, item: Record, assigned: int | None) -> int:
        key = item[KEY] or assigned
        assert key is not None
        if key in self.records:
            return 409
        self.records[key] = {**dict.fromkeys(Item.__struct_encode_fields__), **item, KEY: key}
        return 201

    def replace(self, item: Record) -> int:
        if item[KEY] not in self.records:
            return 404
        kept = {name: self.records[item[KEY]][name] for name in SET_ONCE}
        self.records[item[KEY]] = {
            **dict.fromkeys(Item.__struct_encode_fields__), **item, **kept,
        }  # fmt: skip
        return 200

    def upsert(self, item: Record, assigned: int) -> int:
        return self.replace(item) if item[KEY] in self.records else self.create(item, assigned)

    def delete(self, key: int) -> int:
        return 204 if self.records.pop(key, None) else 404

    def sorted_by(self, name: str, *, is_descending: bool) -> list[Record]:
        """Return all records; null is greater than all values, the key breaks ties."""
        by_key = [self.records[key] for key in sorted(self.records)]

        def rank(record: Record) -> tuple[bool, Any]:
            value = record[name]
            # Without its Z a date sorts as the moment that it is.
            return value is None, value.rstrip("Z") if isinstance(value, str) else value or 0

        return sorted(by_key, key=rank, reverse=is_descending)


def item(random: Random, key: int) -> Record:
    return {
        KEY: key,
        "comment": random.choice([None, "", "Müller ☃", "a\tb"]),
        "case_Key": random.choice([None, -1, 5, 5, 2**31 - 1]),
        "entry_User": random.choice([None, "clerk"]) or "tester",
        "update_User": "clerk",
        "entry_Date": random.choice(DATES),
        "update_Date": random.choice(DATES),
    }


async def step(service: ServiceUnderTest, shelf: Shelf, random: Random) -> None:
    """Do one thing on both sides, and compare what they say."""
    key = random.choice(KEYS)
    match random.choice(["post", "post 0", "get", "put", "delete", "batch", "list"]):
        case "post" | "post 0" as kind:
            sent = item(random, key if kind == "post" else 0)
            answer = await service.ask("POST", "", sent)
            stored = answer.envelope["data"]
            assert answer.status == shelf.create(sent, stored and stored[KEY])
            assert stored is None or stored == shelf.records[stored[KEY]]
        case "get":
            answer = await service.ask("GET", f"/{key}")
            assert answer.status == (200 if key in shelf.records else 404)
            assert answer.envelope["data"] == shelf.records.get(key)
        case "put":
            sent = item(random, key)
            answer = await service.ask("PUT", f"/{key}", sent)
            assert answer.status == shelf.replace(sent)
            assert answer.envelope["data"] == shelf.records.get(key)
        case "delete":
            answer = await service.ask("DELETE", f"/{key}")
            assert answer.status == shelf.delete(key)
        case "batch":
            batch = [item(random, random.choice([0, *KEYS])) for _ in range(random.randint(1, 5))]
            answer = await service.put(batch)
            told = [shelf.upsert(*each) for each in zip(batch, answer.keys, strict=True)]
            assert answer.statuses == told
        case "list":
            name, size = random.choice(SORTED_BY), random.randint(1, 4)
            direction = random.choice(["asc", "desc"])
            expected = shelf.sorted_by(name, is_descending=direction == "desc")
            found = []
            for page in range(1, 3 + len(expected) // size):
                query = f"?page={page}&pageSize={size}&sortBy={name}:{direction}"
                found += (await service.ask("GET", query)).envelope["data"]
            assert found == expected


@pytest.mark.parametrize("seed", range(6))
async def test_single_records_are_those_of_a_dictionary(
    make_service: MakeService, seed: int
) -> None:
    service = await make_service(allow=["batch", "read", "write", "delete"])
    # Beside the keys that are named.
    await service.execute(
        "alter table care_case_clinical_trial"
        " alter care_case_clinical_trial_key set start 1001 restart"
    )
    shelf, random = Shelf(), Random(seed)

    for _ in range(STEPS):
        await step(service, shelf, random)

    pages = await service.ask("GET", "?pageSize=1000")
    assert pages.envelope["data"] == shelf.sorted_by(KEY, is_descending=False)
