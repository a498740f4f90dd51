"""Contract section 1, "One record": what was stored, read back, one by one and in pages."""

import asyncio
import json
from typing import Any

import pytest

from service.wire import SAMPLE, Item
from tests.support.postgres import MakeDatabase
from tests.support.running import MakeRole, MakeService
from tests.support.service import KEY, Answer, ServiceUnderTest

READS = ["batch", "read"]


def read_keys(answer: Answer) -> list[int]:
    """Return the keys of the records on a page."""
    assert answer.status == 200, answer.body
    return [record[KEY] for record in answer.envelope["data"]]


def pagination_of(answer: Answer) -> dict[str, int]:
    pagination: dict[str, int] = json.loads(answer.headers["x-pagination"])
    assert list(pagination) == ["TotalCount", "TotalPages", "CurrentPage", "PageSize"]
    return pagination


async def stored(service: ServiceUnderTest, *records: dict[str, Any]) -> None:
    assert set((await service.put(records)).statuses) == {201}


async def test_a_record_comes_back_as_it_was_sent(make_service: MakeService) -> None:
    service = await make_service(allow=READS)
    sample = json.loads(SAMPLE.read_text())
    await stored(service, *sample)

    for record in sample:
        answer = await service.ask("GET", f"/{record[KEY]}")

        assert answer.status == 200
        assert answer.envelope["data"] == record
        assert answer.envelope["error"] is None
        assert list(answer.envelope["data"]) == list(Item.__struct_encode_fields__)


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ("2025-01-02T03:04:05+05:30", "2025-01-01T21:34:05Z"),
        ("2025-01-02T03:04:05.120000", "2025-01-02T03:04:05.120000Z"),
        ("2025-01-02", "2025-01-02T00:00:00Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
    ],
)
async def test_dates_are_written_in_rfc_3339_with_z(
    make_service: MakeService, sent: str, told: str
) -> None:
    service = await make_service(allow=READS)
    await stored(service, {KEY: 1, "entry_Date": sent, "update_Date": sent})

    answer = await service.ask("GET", "/1")

    assert answer.envelope["data"]["entry_Date"] == told
    assert answer.envelope["data"]["update_Date"] == told


async def test_where_there_is_no_record_there_is_404(make_service: MakeService) -> None:
    service = await make_service(allow=READS)
    await stored(service, {KEY: -7})

    assert (await service.ask("GET", "/-7")).status == 200
    absent = await service.ask("GET", "/7")

    assert absent.status == 404
    assert absent.detail == "No record has this key."
    assert absent.envelope["error"]["instance"] == "/care-case-clinical-trials/7"


@pytest.mark.parametrize("key", ["x", "1.0", "2147483648", "-2147483649", "1e1", "%D9%A1", "1_0"])
async def test_a_path_that_names_no_key_is_400(make_service: MakeService, key: str) -> None:
    service = await make_service(allow=READS)

    answer = await service.ask("GET", f"/{key}")

    assert answer.status == 400
    assert "integer from -2147483648 to 2147483647" in answer.detail


async def test_pages_hold_every_record_once_and_say_how_many_there_are(
    make_service: MakeService,
) -> None:
    service = await make_service(allow=READS)
    await stored(service, *({KEY: key, "case_Key": key % 3} for key in range(1, 26)))

    pages = [await service.ask("GET", f"?page={n}&pageSize=10&sortBy=case_Key") for n in (1, 2, 3)]

    told = [key for page in pages for key in read_keys(page)]
    assert told == sorted(range(1, 26), key=lambda key: (key % 3, key))
    for number, page in enumerate(pages, 1):
        assert pagination_of(page) == {
            "TotalCount": 25,
            "TotalPages": 3,
            "CurrentPage": number,
            "PageSize": 10,
        }


async def test_a_page_behind_the_last_is_empty(make_service: MakeService) -> None:
    service = await make_service(allow=READS)
    empty = await service.ask("GET")
    await stored(service, {KEY: 1})

    behind = await service.ask("GET", "?page=2147483647&pageSize=1000")

    assert read_keys(empty) == read_keys(behind) == []
    assert pagination_of(empty) == {
        "TotalCount": 0, "TotalPages": 0, "CurrentPage": 1, "PageSize": 100,
    }  # fmt: skip
    assert pagination_of(behind) == {
        "TotalCount": 1, "TotalPages": 1, "CurrentPage": 2147483647, "PageSize": 1000,
    }  # fmt: skip


async def test_without_a_query_there_are_100_in_the_order_of_their_keys(
    make_service: MakeService,
) -> None:
    service = await make_service(allow=READS)
    await stored(service, *({KEY: key} for key in range(150, 0, -1)))

    assert read_keys(await service.ask("GET")) == [*range(1, 101)]
    assert read_keys(await service.ask("GET", "?sortBy=")) == [*range(1, 101)]
    assert read_keys(await service.ask("GET", f"?sortBy={KEY}:desc")) == [*range(150, 50, -1)]


@pytest.mark.parametrize("name", Item.__struct_encode_fields__)
async def test_every_field_can_be_sorted_by(make_service: MakeService, name: str) -> None:
    service = await make_service(allow=READS)
    values: list[Any] = ["1", "2", "3"]
    if name.endswith("_Date"):
        values = [f"200{value}-01-01T00:00:00Z" for value in values]
    elif name.endswith("_Key"):
        values = [1, 2, 3]
    await stored(service, *({KEY: at, name: value} for at, value in enumerate(values, 1)))

    assert read_keys(await service.ask("GET", f"?sortBy={name}")) == [1, 2, 3]
    assert read_keys(await service.ask("GET", f"?sortBy={name}:desc")) == [3, 2, 1]


async def test_records_are_sorted_by_one_field_after_the_other(make_service: MakeService) -> None:
    service = await make_service(allow=READS)
    await stored(
        service,
        {KEY: 1, "case_Key": 5, "disease": "b"},
        {KEY: 2, "case_Key": 5, "disease": "a"},
        {KEY: 3, "case_Key": 9},
        {KEY: 4, "case_Key": 5, "disease": "a"},
    )

    sorted_by = "sortBy=case_Key:desc, disease:asc"

    assert read_keys(await service.ask("GET", f"?{sorted_by}")) == [3, 2, 4, 1]
    assert read_keys(await service.ask("GET", f"?{sorted_by},{KEY}:desc")) == [3, 4, 2, 1]
    assert read_keys(await service.ask("GET", f"?{sorted_by},disease:desc,case_Key")) == [
        3,
        2,
        4,
        1,
    ]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("page=0", "page: must be an integer from 1 to 2147483647"),
        ("page=2147483648", "page: must be"),
        ("page=1.5", "page: must be"),
        ("page=", "page: must be"),
        ("pageSize=1001", "pageSize: must be an integer from 1 to 1000"),
        ("pageSize=0", "pageSize: must be"),
        ("pageSize=-5", "pageSize: must be"),
        ("pageSize=5&pageSize=6", "pageSize: must not be repeated"),
        ("pagesize=5", "Unknown query parameter 'pagesize'; supported: page, pageSize, sortBy."),
        ("sortBy=case_key", "unknown field 'case_key'; supported: careCaseClinicalTrial_Key, "),
        ("sortBy=case_Key:down", "sortBy: must be 'case_Key:asc' or 'case_Key:desc'."),
        ("sortBy=1", "sortBy: unknown field '1'"),
        ("sortBy=comment;drop table x", "unknown field 'comment;drop table x'"),
        ("sortBy=case_Key:desc nulls last", "sortBy: must be 'case_Key:asc'"),
        ("sortBy=" + "x" * 500, "'" + "x" * 50 + "'"),
    ],
)
async def test_a_query_that_is_malformed_is_400_and_says_what_is_known(
    make_service: MakeService, query: str, words: str
) -> None:
    service = await make_service(allow=READS)

    answer = await service.ask("GET", f"?{query}")

    assert answer.status == 400
    assert words in answer.detail


async def test_a_page_of_large_records_is_refused_and_a_smaller_one_is_not(
    make_service: MakeService,
) -> None:
    service = await make_service(
        allow=READS, max_item_bytes=1000, max_body_bytes=12_000, max_bytes_in_flight=12_000
    )
    await stored(service, *({KEY: key, "comment": "x" * 900} for key in range(1, 11)))
    await service.execute(
        """
        update care_case_clinical_trial set comment = repeat('x', 50000)
        where care_case_clinical_trial_key = 10
        """
    )

    refused = await service.ask("GET")

    assert refused.status == 400
    assert refused.detail == "The page has more than 4000 bytes; ask for a smaller pageSize."
    assert read_keys(await service.ask("GET", "?page=2&pageSize=4")) == [5, 6, 7, 8]
    assert (await service.ask("GET", "?page=5&pageSize=2")).status == 400
    assert read_keys(await service.ask("GET", "?page=10&pageSize=1")) == [10]


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, "text/plain; charset=utf-8"),
        ("application/json", "application/json"),
        ("text/json, text/plain;q=0.5", "text/json"),
    ],
)
async def test_reads_are_negotiated_and_headed_like_a_batch(
    make_service: MakeService, accept: str | None, media_type: str
) -> None:
    service = await make_service(allow=READS, rate_limit="100/minute")
    await stored(service, {KEY: 1})

    for path in ("", "/1", "/2"):
        answer = await service.ask("GET", path, headers={"Accept": accept})

        assert answer.headers["Content-Type"] == media_type
        assert answer.headers["X-Activity-ID"] == answer.envelope["debug"]["activityID"]
        assert "RateLimit" in answer.headers


@pytest.mark.parametrize("path", ["", "/1"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-api-key": None}, 401),
        ({"Authorization": "Bearer x"}, 401),
        ({"vbasoftware-database": None}, 400),
        ({"vbasoftware-database": "elsewhere"}, 403),
    ],
)
async def test_reads_are_checked_like_a_batch(
    make_service: MakeService, path: str, headers: dict[str, str | None], status: int
) -> None:
    service = await make_service(allow=READS)

    assert (await service.ask("GET", path, headers=headers)).status == status


async def test_a_read_sees_the_database_that_it_names_alone(
    make_service: MakeService, make_database: MakeDatabase
) -> None:
    service = await make_service({"acme": make_database(), "globex": make_database()}, allow=READS)
    await stored(service, {KEY: 1})

    assert (await service.ask("GET", "/1", database="globex")).status == 404
    assert read_keys(await service.ask("GET", database="globex")) == []


async def test_a_role_without_a_right_to_read_is_the_services_fault(
    make_service: MakeService, make_role: MakeRole
) -> None:
    service = await make_role(await make_service(), "insert", allow=READS)

    for path in ("", "/1"):
        answer = await service.ask("GET", path)
        assert answer.status == 500
        assert answer.detail.startswith("Internal error, activityID ")


async def test_a_read_that_takes_too_long_is_503_and_batches_go_on(
    make_service: MakeService,
) -> None:
    service = await make_service(
        allow=READS, database={"statement_timeout_seconds": 1, "pool_max_size": 4}
    )
    await stored(service, {KEY: 1})

    async with service.locked_table():
        reads = [service.ask("GET", "/1") for _ in range(4)]
        answers = await asyncio.gather(*reads)

    for answer in answers:
        assert answer.status == 503
        assert answer.headers["Retry-After"]
        assert "retry later" in answer.detail
    assert (await service.put([{KEY: 1}])).statuses == [200]
