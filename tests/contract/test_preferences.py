"""Contract section 1, "Preferences"."""

import time
from typing import Any

import pytest

from service.http.preferences import _ELEMENT, _PREFERENCE
from tests.support.running import MakeService
from tests.support.service import KEY, Answer, ServiceUnderTest

EARLY, STORED, LATE = "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z", "2026-01-01T00:00:00Z"


async def send(service: ServiceUnderTest, items: list[Any], *prefer: str, **headers: str) -> Answer:
    """Send a batch with these lines of Prefer."""
    lines = {"Prefer": "\n".join(prefer)} if prefer else {}
    return await service.put(items, headers={**lines, **headers})


def told(answer: Answer) -> list[tuple[int, int, str | None]]:
    """Return index, status and key of each outcome."""
    return [
        (outcome["index"], outcome["status"], outcome["id"][0]["value"])
        for outcome in answer.envelope["data"]
    ]


def counts(answer: Answer) -> dict[str, int]:
    debug: dict[str, Any] = answer.envelope["debug"]
    return {name: debug[name] for name in ("created", "updated", "failed")}


APPLIED = {
    "one": (["return=minimal"], "return=minimal"),
    "the other": (["resolution=newest"], "resolution=newest"),
    "both": (["return=minimal, resolution=newest"], "return=minimal, resolution=newest"),
    "two lines": (["resolution=newest", "return=minimal"], "return=minimal, resolution=newest"),
    "capitals": (["RETURN=Minimal"], "return=minimal"),
    "quotes": (['return="minimal"'], "return=minimal"),
    "white space": (["  return = minimal  "], "return=minimal"),
    "parameters": (['return=minimal; foo="a, b"; bar'], "return=minimal"),
    "the first counts": (["return=minimal, return=representation"], "return=minimal"),
    "the first counts, too": (["return=representation, return=minimal"], None),
    "also in two lines": (["return=representation", "return=minimal"], None),
    "among unknown ones": (["respond-async, wait=10, , return=minimal"], "return=minimal"),
    "a comma in quotes": (['foo="return=minimal, return=minimal"'], None),
    "a quotation without an end": (['foo="bar, return=minimal'], None),
    "no value": (["return"], None),
    "an empty value": (['return=""'], None),
    "another": (["return=maximal, handling=strict"], None),
    "none": ([""], None),
    "malformed": (["=minimal, return minimal, return=minimal x, ;, \"\\"], None),
}  # fmt: skip


@pytest.mark.parametrize(("prefer", "applied"), APPLIED.values(), ids=APPLIED.keys())
async def test_what_is_applied_is_listed(
    make_service: MakeService, prefer: list[str], applied: str | None
) -> None:
    service = await make_service()

    answer = await send(service, [{KEY: 1, "update_Date": LATE}], *prefer)

    assert answer.status == 207
    assert answer.headers.get("Preference-Applied") == applied
    assert ("created" in answer.envelope["debug"]) == ("return" in (applied or ""))


@pytest.mark.parametrize("hostile", ['"' * 8000, '"\\' * 4000, "a" * 8000, ";" * 8000, ", " * 4000])
def test_hostile_preferences_cost_no_time(hostile: str) -> None:
    started_at = time.process_time()

    for element in _ELEMENT.findall(hostile):
        _PREFERENCE.match(element)

    assert time.process_time() - started_at < 0.05


async def test_minimal_tells_what_was_not_stored_and_new_keys(make_service: MakeService) -> None:
    service = await make_service()
    await service.put([{KEY: 3}])

    answer = await send(
        service,
        [{KEY: 7}, {KEY: 0}, {KEY: 3}, {KEY: 9, "comment": 5}, {KEY: 8}, {KEY: 0, "x": 1}, 5],
        "return=minimal",
    )

    assigned = answer.envelope["data"][0]["id"][0]["value"]
    assert told(answer) == [(1, 201, assigned), (3, 400, "9"), (5, 400, "0"), (6, 400, None)]
    assert counts(answer) == {"created": 3, "updated": 1, "failed": 3}
    assert all(outcome["body"] for outcome in answer.envelope["data"])
    assert int(assigned) not in (0, 3, 7, 8, 9)


@pytest.mark.parametrize("items", [[], [{KEY: 1}]], ids=["empty", "all stored"])
async def test_minimal_may_have_nothing_to_tell(
    make_service: MakeService, items: list[dict[str, Any]]
) -> None:
    service = await make_service()

    answer = await send(service, items, "return=minimal")

    assert answer.envelope["data"] == []
    assert counts(answer) == {"created": len(items), "updated": 0, "failed": 0}


async def test_minimal_counts_places_over_all_chunks(make_service: MakeService) -> None:
    service = await make_service()
    items: list[dict[str, Any]] = [{KEY: key} for key in range(1, 4001)]
    for place in (0, 700, 1999, 3999):
        items[place]["case_Key"] = "x"
    items[2500][KEY] = 0

    answer = await send(service, items, "return=minimal")

    outcomes = told(answer)
    assert [index for index, _, _ in outcomes] == [0, 700, 1999, 2500, 3999]
    assert [status for _, status, _ in outcomes] == [400, 400, 400, 201, 400]
    assert counts(answer) == {"created": 3996, "updated": 0, "failed": 4}


async def test_a_long_batch_with_nothing_to_tell_is_streamed(make_service: MakeService) -> None:
    service = await make_service()

    answer = await send(service, [{KEY: key} for key in range(1, 4001)], "return=minimal")

    assert answer.body.startswith(b'{"data":[\n')
    assert answer.envelope["data"] == []


async def test_newest_replaces_only_what_is_not_newer(make_service: MakeService) -> None:
    service = await make_service()
    await service.put([{KEY: key, "update_Date": STORED, "comment": "old"} for key in (1, 2, 3)])

    answer = await send(
        service,
        [
            {KEY: 1, "update_Date": EARLY, "comment": "new"},
            {KEY: 2, "update_Date": STORED, "comment": "new"},
            {KEY: 3, "update_Date": LATE, "comment": "new"},
            {KEY: 4, "update_Date": EARLY, "comment": "new"},
            {KEY: 0, "update_Date": EARLY, "comment": "new"},
            {KEY: 6, "comment": "new"},
            {KEY: 0, "comment": "new"},
        ],
        "resolution=newest",
    )

    outcomes = answer.envelope["data"]
    assert [outcome["status"] for outcome in outcomes] == [409, 200, 200, 201, 201, 400, 400]
    assert outcomes[0]["body"] == "A newer record is stored: its update_Date is later."
    assert outcomes[5]["body"] == "update_Date: required with Prefer: resolution=newest"
    rows = await service.fetch(
        "select comment, count(*) from care_case_clinical_trial group by comment"
    )
    assert {row["comment"]: row["count"] for row in rows} == {"old": 1, "new": 4}


async def test_newest_in_a_large_batch_and_once_more(make_service: MakeService) -> None:
    service = await make_service()
    keys = range(1, 3001)
    await service.put([{KEY: key, "update_Date": STORED} for key in keys])
    items = [{KEY: key, "update_Date": (EARLY, STORED, LATE)[key % 3]} for key in keys]

    first = await send(service, items, "resolution=newest", "return=minimal")
    again = await send(service, items, "resolution=newest", "return=minimal")

    assert told(first) == [(key - 1, 409, str(key)) for key in keys if key % 3 == 0]
    assert counts(first) == counts(again) == {"created": 0, "updated": 2000, "failed": 1000}
    assert told(again) == told(first)


async def test_a_batch_sent_again_under_its_key_tells_the_same(make_service: MakeService) -> None:
    service = await make_service()
    items = [{KEY: key, "update_Date": LATE} for key in (5, 0, 6, 0)]
    prefer = "return=minimal, resolution=newest"

    first = await send(service, items, prefer, **{"Idempotency-Key": "a"})
    again = await send(service, items, prefer, **{"Idempotency-Key": "a"})
    whole = await send(service, items, **{"Idempotency-Key": "a"})

    assert [index for index, _, _ in told(first)] == [1, 3]
    assert told(again) == told(first)
    assert counts(again) == {"created": 2, "updated": 2, "failed": 0}
    assert [outcome["status"] for outcome in whole.envelope["data"]] == [200, 201, 200, 201]
    assert "Preference-Applied" not in whole.headers
