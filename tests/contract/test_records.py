"""Contract section 1, "One record": created, replaced and deleted, one by one."""

import asyncio
import gzip
import json
import re
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from tests.support.postgres import MakeDatabase
from tests.support.running import MakeRole, MakeService
from tests.support.service import KEY, PATH, RECORDS, ServiceUnderTest, credentials

ALL = ["batch", "read", "write", "delete"]
FULL: dict[str, Any] = {
    KEY: 17,
    "careCaseClinicalTrialArm_ID": "A",
    "careCaseClinicalTrialReason_ID": None,
    "careCaseClinicalTrialStudyPhase_ID": None,
    "case_Key": 5,
    "comment": "Étude",
    "disease": None,
    "entry_Date": "2025-01-02T03:04:05Z",
    "entry_User": "clerk",
    "inclusionExclusion": None,
    "location": None,
    "protocol_Number": "NCT00000017",
    "study_Drug": None,
    "study_Length": None,
    "study_Title": None,
    "update_Date": "2025-02-03T04:05:06.700000Z",
    "update_User": "clerk",
    "website": None,
}


async def status_of(service: ServiceUnderTest, method: str, path: str, record: Any = None) -> int:
    return (await service.ask(method, path, record)).status


@pytest.fixture
async def service(make_service: MakeService) -> ServiceUnderTest:
    """A service whose loader may do everything."""
    return await make_service(allow=ALL)


async def test_a_record_is_created_and_its_answer_has_what_is_stored(
    service: ServiceUnderTest,
) -> None:
    answer = await service.ask("POST", "", FULL)

    assert answer.status == 201
    assert answer.headers["Location"] == f"{RECORDS}/17"
    assert answer.envelope["data"] == FULL
    assert answer.envelope["error"] is None
    assert (await service.ask("GET", "/17")).envelope["data"] == FULL


async def test_what_is_not_sent_is_filled_in_as_in_a_batch(service: ServiceUnderTest) -> None:
    stored = (await service.ask("POST", "", {KEY: 1})).envelope["data"]

    assert (stored["entry_User"], stored["update_User"]) == ("tester", "tester")
    assert stored["entry_Date"] == stored["update_Date"]
    assert stored["comment"] is None


async def test_the_location_has_the_base_path(make_service: MakeService) -> None:
    service = await make_service(allow=ALL, base_path="/vbasoftware")

    answer = await service.put(
        json.dumps({KEY: 0}).encode(), path=f"/vbasoftware{RECORDS}", method="POST"
    )

    key = answer.envelope["data"][KEY]
    assert answer.headers["Location"] == f"/vbasoftware{RECORDS}/{key}"
    read = await service.put(b"", path=answer.headers["Location"], method="GET")
    assert read.envelope["data"] == answer.envelope["data"]


async def test_a_key_that_exists_is_409_and_its_record_stays(service: ServiceUnderTest) -> None:
    await service.ask("POST", "", FULL)

    answer = await service.ask("POST", "", {KEY: 17, "comment": "another"})

    assert answer.status == 409
    assert answer.detail == "A record with this key already exists."
    assert (await service.ask("GET", "/17")).envelope["data"] == FULL


async def test_key_0_draws_a_key_that_is_free(service: ServiceUnderTest) -> None:
    await service.put([{KEY: key} for key in range(1, 11)])

    answers = [await service.ask("POST", "", {KEY: 0, "comment": "new"}) for _ in range(2)]

    keys = [answer.envelope["data"][KEY] for answer in answers]
    assert [answer.status for answer in answers] == [201, 201]
    assert keys == [11, 12]
    assert [answer.headers["Location"] for answer in answers] == [f"{RECORDS}/{k}" for k in keys]


@pytest.mark.parametrize("key", [0, 17])
async def test_a_post_sent_again_under_its_key_is_the_same_201(
    service: ServiceUnderTest, key: int
) -> None:
    headers: dict[str, str | None] = {"Idempotency-Key": str(uuid4())}
    first = await service.ask("POST", "", {KEY: key}, headers=headers)

    again = await service.ask("POST", "", {KEY: key}, headers=headers)

    assert (first.status, again.status) == (201, 201)
    assert again.envelope["data"] == first.envelope["data"]
    assert again.headers["Location"] == first.headers["Location"]
    assert len(await service.comments()) == 1


async def test_a_post_without_the_header_can_be_sent_again_under_its_activity_id(
    service: ServiceUnderTest,
) -> None:
    first = await service.ask("POST", "", {KEY: 0})

    headers: dict[str, str | None] = {"Idempotency-Key": first.headers["X-Activity-ID"]}
    again = await service.ask("POST", "", {KEY: 0}, headers=headers)

    assert again.envelope["data"] == first.envelope["data"]
    assert len(await service.comments()) == 1


async def test_a_key_that_came_with_another_body_is_422(service: ServiceUnderTest) -> None:
    headers: dict[str, str | None] = {"Idempotency-Key": "one"}
    await service.ask("POST", "", {KEY: 0}, headers=headers)

    assert (await service.ask("POST", "", {KEY: 1}, headers=headers)).status == 422
    assert (await service.put([{KEY: 0}], headers=headers)).status == 422
    assert len(await service.comments()) == 1


async def test_a_post_of_a_key_that_is_still_at_work_is_409_with_retry_after(
    make_service: MakeService,
) -> None:
    service = await make_service(allow=ALL, idempotency_wait_seconds=1)
    headers: dict[str, str | None] = {"Idempotency-Key": "one"}

    async with service.locked_table():
        first = asyncio.create_task(service.ask("POST", "", {KEY: 0}, headers=headers))
        await asyncio.sleep(0.3)
        answer = await service.ask("POST", "", {KEY: 0}, headers=headers)

    assert answer.status == 409
    assert answer.headers["Retry-After"]
    assert "still in progress" in answer.detail
    assert (await first).status in (201, 503)


async def test_a_malformed_idempotency_key_is_400(service: ServiceUnderTest) -> None:
    answer = await service.ask("POST", "", {KEY: 1}, headers={"Idempotency-Key": "a b"})

    assert answer.status == 400


async def test_put_replaces_a_record_and_keeps_who_created_it(service: ServiceUnderTest) -> None:
    await service.ask("POST", "", FULL)

    answer = await service.ask("PUT", "/17", {KEY: 17, "comment": "new", "entry_User": "other"})

    stored = answer.envelope["data"]
    assert answer.status == 200
    assert "Location" not in answer.headers
    assert stored["comment"] == "new"
    assert stored["protocol_Number"] is None
    assert (stored["entry_User"], stored["entry_Date"]) == ("clerk", FULL["entry_Date"])
    assert stored["update_User"] == "tester"
    assert (await service.ask("GET", "/17")).envelope["data"] == stored


@pytest.mark.parametrize("key", [0, 17])
async def test_put_of_a_record_that_does_not_exist_is_404_and_creates_none(
    service: ServiceUnderTest, key: int
) -> None:
    answer = await service.ask("PUT", f"/{key}", {KEY: key})

    assert answer.status == 404
    assert answer.detail == "No record has this key."
    assert await service.comments() == {}


async def test_put_with_another_key_in_the_body_is_400(service: ServiceUnderTest) -> None:
    await service.ask("POST", "", FULL)

    answer = await service.ask("PUT", "/17", {KEY: 18})

    assert answer.status == 400
    assert answer.detail == f"{KEY}: must match the key in the path (17), got 18"
    assert (await service.ask("GET", "/17")).envelope["data"] == FULL


async def test_delete_is_204_and_then_404(service: ServiceUnderTest) -> None:
    await service.ask("POST", "", FULL)

    answer = await service.ask("DELETE", "/17")

    assert answer.status == 204
    assert answer.headers["X-Activity-ID"]
    assert "Content-Type" not in answer.headers
    assert await status_of(service, "DELETE", "/17") == 404
    assert await status_of(service, "DELETE", "/0") == 404
    assert await status_of(service, "GET", "/17") == 404
    assert await service.comments() == {}
    assert await status_of(service, "POST", "", FULL) == 201


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "The body is empty; expected a JSON object."),
        (b" \n", "The body is empty"),
        (b"[]", "The item must be an object, got an array"),
        (b'[{"careCaseClinicalTrial_Key":1}]', "The item must be an object, got an array"),
        (b"5", "The item must be an object, got a number"),
        (b"null", "The item must be an object, got null."),
        (b"{", "The body is not valid JSON: unexpected end at byte 1."),
        (b"{}]", "The body is not valid JSON: trailing characters at byte 2."),
        (b"{},", "The body is not valid JSON: trailing characters at byte 2."),
        (b"{},{}", "The body is not valid JSON: trailing characters at byte 2."),
        (b'{"a":}', "The body is not valid JSON: invalid character at byte 5."),
        (b'\xef\xbb\xbf{"a":}', "The body is not valid JSON: invalid character at byte 8."),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b"{}", KEY),
        (b'{"careCaseClinicalTrial_Key":null}', KEY),
        (b'{"careCaseClinicalTrial_Key":1.5}', KEY),
        (b'{"careCaseClinicalTrial_Key":1,"commment":"x"}', "commment"),
        (
            b'{"careCaseClinicalTrial_Key":1,"comment":"\\u0000"}',
            "comment: contains a NUL character",
        ),
        (
            b'{"careCaseClinicalTrial_Key":1,"comment":"\\ud800"}',
            "comment: contains an unpaired surrogate",
        ),
        (b'{"careCaseClinicalTrial_Key":1,"comment":"\xff"}', "comment: is not valid UTF-8"),
        (b'{"careCaseClinicalTrial_Key":1,"entry_User":"' + b"x" * 21 + b'"}', "entry_User"),
        (b'{"careCaseClinicalTrial_Key":1,"entry_Date":"yesterday"}', "entry_Date"),
    ],
)
@pytest.mark.parametrize(("method", "path"), [("POST", ""), ("PUT", "/1")])
async def test_what_is_no_record_is_400_and_says_why(
    service: ServiceUnderTest, method: str, path: str, body: bytes, words: str
) -> None:
    answer = await service.ask(method, path, body)

    assert answer.status == 400
    assert words in answer.detail
    assert await service.comments() == {}


@pytest.mark.parametrize(("method", "path"), [("POST", ""), ("PUT", "/1")])
@pytest.mark.parametrize("encode", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf"], ids=["", "byte order mark"])
async def test_a_body_that_is_not_json_is_400_naming_the_byte(
    service: ServiceUnderTest,
    method: str,
    path: str,
    encode: Callable[[bytes], bytes],
    before: bytes,
) -> None:
    body = b' {"careCaseClinicalTrial_Key":1,"comment":"[{\\u00e4]","foo":[true,-1.5e3,{}]} '
    headers = {"Content-Encoding": "gzip"} if encode is gzip.compress else {}

    for at in range(len(body)):
        text = before + body[:at]
        broken = await service.ask(method, path, encode(text + b"\0" + body[at:]), headers=headers)
        cut = await service.ask(method, path, encode(text), headers=headers)

        assert broken.status == cut.status == 400
        assert re.fullmatch(
            rf"The body is not valid JSON: .* at byte {len(text)}\.", broken.detail
        ), text
        if 2 <= at < len(body) - 1:
            expected = f"The body is not valid JSON: unexpected end at byte {len(text)}."
            assert cut.detail == expected
    assert await service.comments() == {}


@pytest.mark.parametrize(
    "body",
    [
        b'\xef\xbb\xbf{"careCaseClinicalTrial_Key":1}',
        b' \r\n{"careCaseClinicalTrial_Key":1.0}\n',
        b'{"careCaseClinicalTrial_Key":1,"entry_Date":"2025-01-02 03:04:05 UTC"}',
    ],
)
async def test_what_a_batch_takes_is_taken_here_too(service: ServiceUnderTest, body: bytes) -> None:
    assert await status_of(service, "POST", "", body) == 201
    assert await status_of(service, "PUT", "/1", body) == 200


async def test_unknown_fields_are_ignored_where_that_is_set(make_service: MakeService) -> None:
    service = await make_service(allow=ALL, ignore_unknown_fields=True)

    assert await status_of(service, "POST", "", {KEY: 1, "commment": "x"}) == 201


async def test_a_body_may_be_compressed(service: ServiceUnderTest) -> None:
    body = gzip.compress(json.dumps(FULL).encode())

    answer = await service.ask("POST", "", body, headers={"Content-Encoding": "gzip"})

    assert answer.envelope["data"] == FULL


async def test_a_record_that_is_too_large_is_413(make_service: MakeService) -> None:
    service = await make_service(allow=ALL, max_item_bytes=100)

    answer = await service.ask("POST", "", {KEY: 1, "comment": "x" * 100})

    assert answer.status == 413
    assert answer.detail == "The body exceeds 100 bytes (uncompressed)."


@pytest.mark.parametrize(("method", "path"), [("POST", ""), ("PUT", "/1")])
async def test_another_media_type_is_415(service: ServiceUnderTest, method: str, path: str) -> None:
    answer = await service.ask(method, path, {KEY: 1}, headers={"Content-Type": "text/plain"})

    assert answer.status == 415


CONSTRAINTS = """
    alter table care_case_clinical_trial add check (disease <> 'bad');
    create unique index on care_case_clinical_trial (website);
    create table visit (trial integer references care_case_clinical_trial);
    create function refuse() returns trigger language plpgsql as $$
    begin
        if new.comment = 'kept out' then return null; end if;
        if new.comment = 'broken' then raise exception 'secret' using errcode = 'XX000'; end if;
        new.location = 'by a trigger';
        return new;
    end $$;
    create trigger refuse before insert or update on care_case_clinical_trial
        for each row execute function refuse();
"""


async def test_an_item_that_fails_becomes_the_status_of_the_request(
    service: ServiceUnderTest,
) -> None:
    await service.execute(CONSTRAINTS)
    created = await service.ask("POST", "", {KEY: 1, "website": "taken"})
    await service.ask("POST", "", {KEY: 2})
    await service.execute("insert into visit values (1)")

    told = {
        (method, changed): await service.ask(method, path, {KEY: key, **fields})
        for method, path, key in (("POST", "", 3), ("PUT", "/2", 2))
        for changed, fields in {
            "check": {"disease": "bad"},
            "unique": {"website": "taken"},
            "kept out": {"comment": "kept out"},
            "broken": {"comment": "broken"},
        }.items()
    }
    deleted = await service.ask("DELETE", "/1")

    assert created.envelope["data"]["location"] == "by a trigger"
    for method in ("POST", "PUT"):
        statuses = [told[method, cause].status for cause in ("check", "unique", "kept out")]
        assert statuses == [400, 409, 409]
        assert told[method, "broken"].status == 500
        assert told[method, "broken"].detail.startswith("Internal error, activityID")
    assert deleted.status == 409
    assert "visit" in deleted.detail
    assert sorted(await service.comments()) == [1, 2]


async def test_a_role_without_the_right_is_403(
    service: ServiceUnderTest, make_role: MakeRole
) -> None:
    await service.ask("POST", "", FULL)
    limited = await make_role(service, "select, insert, update", allow=ALL)

    answer = await limited.ask("DELETE", "/17")

    assert answer.status == 403
    assert "permission denied" in answer.detail
    assert await status_of(limited, "PUT", "/17", FULL) == 200


@pytest.mark.usefixtures("short_retries")
async def test_a_locked_record_is_503_with_retry_after(make_service: MakeService) -> None:
    service = await make_service(allow=ALL, database={"statement_timeout_seconds": 1})
    await service.ask("POST", "", FULL)

    async with service.locked_row(17):
        answers = await asyncio.gather(
            service.ask("PUT", "/17", {**FULL, "comment": "new"}), service.ask("DELETE", "/17")
        )

    for answer in answers:
        assert answer.status == 503
        assert answer.headers["Retry-After"]
    assert (await service.ask("GET", "/17")).envelope["data"] == FULL


STATUSES = {"batch": 207, "list": 200, "get": 200, "post": 201, "put": 200, "delete": 204}


@pytest.mark.parametrize(
    ("allow", "allowed"),
    [
        (None, ["batch"]),
        (["batch"], ["batch"]),
        (["read"], ["list", "get"]),
        (["write"], ["post", "put"]),
        (["delete"], ["delete"]),
        (ALL, [*STATUSES]),
    ],
    ids=str,
)
async def test_a_key_may_do_what_its_allow_lists_and_nothing_else(
    make_service: MakeService,
    make_database: MakeDatabase,
    allow: list[str] | None,
    allowed: list[str],
) -> None:
    dsn = make_database()
    await (await make_service({"acme": dsn})).put([{KEY: 1}])
    service = await make_service({"acme": dsn}, allow=allow)

    assert {
        "batch": (await service.put([{KEY: 2}])).status,
        "list": await status_of(service, "GET", ""),
        "get": await status_of(service, "GET", "/1"),
        "post": await status_of(service, "POST", "", {KEY: 3}),
        "put": await status_of(service, "PUT", "/1", {KEY: 1}),
        "delete": await status_of(service, "DELETE", "/1"),
    } == {name: status if name in allowed else 403 for name, status in STATUSES.items()}
    refused = await service.ask("DELETE", "/x")
    assert refused.status == (400 if "delete" in (allow or []) else 403)


REFUSALS: list[tuple[dict[str, str | None], int]] = [
    ({"x-api-key": "wrong"}, 401),
    ({"Authorization": None}, 401),
    ({"vbasoftware-database": None}, 400),
    ({"vbasoftware-database": "elsewhere"}, 403),
]


@pytest.mark.parametrize(("method", "path"), [("POST", ""), ("PUT", "/1"), ("DELETE", "/1")])
@pytest.mark.parametrize(("headers", "status"), REFUSALS)
async def test_writes_are_checked_like_a_batch(
    service: ServiceUnderTest,
    method: str,
    path: str,
    headers: dict[str, str | None],
    status: int,
) -> None:
    # The body and its type come after all of these.
    wrong = {**headers, "Content-Type": "text/plain"}

    assert (await service.ask(method, path, b"{", headers=wrong)).status == status


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", RECORDS, "GET,HEAD,POST"),
        ("PUT", RECORDS, "GET,HEAD,POST"),
        ("POST", f"{RECORDS}/1", "DELETE,GET,HEAD,PUT"),
        ("PATCH", f"{RECORDS}/1", "DELETE,GET,HEAD,PUT"),
        ("GET", PATH, "PUT"),
    ],
)
async def test_another_method_is_405_with_allow(
    service: ServiceUnderTest, method: str, path: str, allowed: str
) -> None:
    answer = await service.put([], path=path, method=method)

    assert answer.status == 405
    assert answer.headers["Allow"] == allowed


async def test_head_is_get_without_its_body(service: ServiceUnderTest) -> None:
    await service.ask("POST", "", FULL)

    for path in ("", "/17"):
        read = await service.ask("GET", path)
        url = service.url + RECORDS + path
        async with service.session.head(url, headers=credentials()) as response:
            assert response.status == 200
            assert response.headers["Content-Length"] == read.headers["Content-Length"]
            assert await response.read() == b""
