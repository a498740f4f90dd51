"""Contract section 1, "Response: 207"."""

import asyncio
import json
from typing import Any

import pytest

from tests.support.running import MakeService
from tests.support.service import KEY, PATH, credentials

PLAIN = "text/plain; charset=utf-8"


async def test_the_envelope_is_byte_for_byte_that_of_the_contract(
    make_service: MakeService,
) -> None:
    service = await make_service()

    answer = await service.put([{KEY: 17}])

    activity_id = answer.headers["X-Activity-ID"]
    assert answer.body.decode() == (
        '{"data":[{"id":[{"key":"careCaseClinicalTrial_Key","value":"17"}],'
        '"status":201,"body":"Created"}],'
        '"error":null,"debug":{"activityID":"' + activity_id + '"}}'
    )


async def test_an_empty_batch_yields_no_outcomes(make_service: MakeService) -> None:
    service = await make_service()

    answer = await service.put([])

    assert answer.status == 207
    assert answer.envelope["data"] == []
    assert answer.envelope["error"] is None


NEGOTIATION = [
    (None, PLAIN),
    ("", PLAIN),
    ("*/*", PLAIN),
    ("text/*", PLAIN),
    ("text/plain", PLAIN),
    ("application/json", "application/json"),
    ("APPLICATION/JSON", "application/json"),
    ("application/*", "application/json"),
    ("text/json", "text/json"),
    ("application/json, text/plain, */*", "application/json"),
    ("text/plain, application/json, text/json", PLAIN),
    ("text/plain;q=0.5, application/json", "application/json"),
    ("application/json;q=0.5, text/plain;q=0.4", "application/json"),
    ("application/json;q=0.4, text/plain", PLAIN),
    ("text/json;q=0.9, application/json;q=0.8", "text/json"),
    ("*/*, application/json", "application/json"),
    ("*/*;q=0.1, application/json;q=0.05", PLAIN),
    ("text/plain;q=0, */*", "application/json"),
    ("text/plain;q=0, application/json;q=0, */*", "text/json"),
    ("application/json;q=0", PLAIN),
    ("application/json; charset=utf-8", "application/json"),
    ("application/json;q=nonsense, text/json;q=0.1", "text/json"),
    ("image/png", PLAIN),
    (";;,,/", PLAIN),
]


@pytest.mark.parametrize(("accept", "content_type"), NEGOTIATION)
async def test_accept_decides_the_content_type_of_outcomes_and_errors(
    make_service: MakeService, accept: str | None, content_type: str
) -> None:
    service = await make_service()

    outcome = await service.put([], headers={"Accept": accept})
    error = await service.put(b"{", headers={"Accept": accept})

    assert outcome.headers["Content-Type"] == content_type
    assert error.headers["Content-Type"] == content_type


@pytest.mark.parametrize(
    "lines", [["text/html", "application/json"], ["text/json;q=0.1", "*/*", "application/json"]]
)
async def test_several_accept_lines_are_one_list(
    make_service: MakeService, lines: list[str]
) -> None:
    service = await make_service()
    head = service.head(content_length=2).decode().removesuffix("\r\n")
    head += "".join(f"Accept: {line}\r\n" for line in lines) + "Connection: close\r\n\r\n"

    outcome, error = [await service.raw(head.encode() + body) for body in (b"[]", b"{}")]

    assert b"\r\nContent-Type: application/json\r\n" in outcome
    assert b"\r\nContent-Type: application/json\r\n" in error


async def test_an_exhausted_sequence_is_not_the_items_fault(
    make_service: MakeService, caplog: pytest.LogCaptureFixture
) -> None:
    service = await make_service()
    sequence = "care_case_clinical_trial_care_case_clinical_trial_key_seq"
    await service.execute(f"alter sequence {sequence} maxvalue 2; select setval('{sequence}', 2)")

    answer = await service.put([{KEY: 0}, {KEY: 7}, *[{KEY: 0}] * 9])

    assert answer.statuses == [500, 201, *[500] * 9]
    assert answer.outcomes[0][2].startswith("Internal error")
    assert any("the key sequence is at its end; give it" in r.message for r in caplog.records)


async def test_outcomes_go_out_while_later_items_still_wait(make_service: MakeService) -> None:
    service = await make_service()
    blocker = await service.connect()
    await service.put([{KEY: 5000}])
    batch = [{KEY: key, "comment": "x" * 100} for key in range(1, 5001)]

    async with blocker.transaction():
        await blocker.execute(
            "select from care_case_clinical_trial where care_case_clinical_trial_key = 5000"
            " for update"
        )
        async with service.session.put(
            service.url + PATH, json=batch, headers=credentials()
        ) as response:
            beginning = await asyncio.wait_for(response.content.readany(), 10)
            assert response.headers["Transfer-Encoding"] == "chunked"
            assert beginning.startswith(b'{"data":[{"id":')
            # What has been read is committed while the last item is still locked.
            assert 0 < len(await service.comments()) < 5000
            await blocker.execute("select 1")
            blocker_is_done = asyncio.create_task(_read(response))
            await asyncio.sleep(0)
            await blocker.execute("commit; begin")
            rest = await blocker_is_done
    envelope = json.loads(beginning + rest)
    assert len(envelope["data"]) == 5000
    await blocker.close()


async def _read(response: Any) -> bytes:
    body: bytes = await response.read()
    return body


async def test_outcomes_are_in_request_order(make_service: MakeService) -> None:
    service = await make_service()
    keys = [(i * 7919) % 3001 + 1 for i in range(3001)]

    answer = await service.put([{KEY: key} for key in keys])

    assert [key for key, _, _ in answer.outcomes] == [str(key) for key in keys]


async def test_every_answer_carries_its_own_activity_id(make_service: MakeService) -> None:
    service = await make_service()

    answers = [await service.put(batch) for batch in (b"[]", b"[]", b"{", b"{")]

    ids = [answer.envelope["debug"]["activityID"] for answer in answers]
    assert ids == [answer.headers["X-Activity-ID"] for answer in answers]
    assert len(set(ids)) == 4


SQLSTATES = [
    ("22003", 400),
    ("22P02", 400),
    ("23502", 400),
    ("23514", 400),
    ("P0001", 400),
    ("44000", 400),
    ("42501", 403),
    ("55000", 409),
    ("23503", 409),
    ("23505", 409),
    ("23P01", 409),
    ("2200H", 500),
    ("P0002", 500),
    ("42P01", 500),
    ("21000", 500),
    ("P0004", 500),
    ("ZZ999", 500),
]


REFUSING = """
    create function refuse() returns trigger language plpgsql as $$
    begin
        if new.comment like 'SQLSTATE %' then
            raise exception 'refused because' using errcode = substr(new.comment, 10);
        end if;
        return new;
    end $$;
    create trigger refuse before insert or update on care_case_clinical_trial
        for each row execute function refuse();
"""


async def test_each_sqlstate_becomes_the_status_of_the_contract_for_its_item_alone(
    make_service: MakeService,
) -> None:
    service = await make_service()
    await service.execute(REFUSING)
    batch: list[Any] = [
        {KEY: i, "comment": f"SQLSTATE {code}"} for i, (code, _) in enumerate(SQLSTATES, 1)
    ]

    answer = await service.put([*batch, {KEY: 99, "comment": "fine"}])

    expected = [status for _, status in SQLSTATES]
    assert answer.statuses == [*expected, 201]
    for (_, status, body), activity_id in zip(
        answer.outcomes[:-1], [answer.headers["X-Activity-ID"]] * len(expected), strict=True
    ):
        if status == 500:
            assert body == f"Internal error, activityID {activity_id}"
        else:
            assert body == "refused because"
    assert await service.comments() == {99: "fine"}


async def test_a_message_names_the_field_where_postgresql_names_the_column(
    make_service: MakeService,
) -> None:
    service = await make_service()
    await service.execute("alter table care_case_clinical_trial alter study_drug set not null")

    answer = await service.put([{KEY: 1}, {KEY: 2, "study_Drug": "x"}])

    assert answer.statuses == [400, 201]
    assert answer.outcomes[0][2].startswith("study_Drug: null value")


@pytest.mark.usefixtures("short_retries")
async def test_a_database_that_cannot_be_reached_gives_each_item_503(
    make_service: MakeService,
) -> None:
    service = await make_service(extra_databases={"down": "postgresql://u:secret@127.0.0.1:1/x"})

    answer = await service.put([{KEY: 1}, {}, {KEY: 0}], database="down")

    assert answer.statuses == [503, 400, 503]
    assert "resend the item" in answer.outcomes[0][2]
    assert "secret" not in answer.body.decode()
    assert (await service.put([{KEY: 1}])).statuses == [201]


@pytest.mark.usefixtures("short_retries")
async def test_what_a_trigger_raises_as_if_the_database_were_ill_is_its_items_503_alone(
    make_service: MakeService,
) -> None:
    service = await make_service()
    await service.execute(REFUSING)
    codes = [
        "08006",
        "25001",
        "28000",
        "3D000",
        "40001",
        "53200",
        "55006",
        "57014",
        "57P01",
        "58030",
    ]
    refused = {1000 * place + 50: code for place, code in enumerate(codes, 1)}
    batches = [
        [
            {KEY: key, "comment": f"SQLSTATE {refused[key]}" if key in refused else f"{key}"}
            for key in range(first, first + 100)
        ]
        for first in range(1000, 11_000, 1000)
    ]

    answers = await asyncio.gather(*map(service.put, batches))

    for code, answer in zip(codes, answers, strict=True):
        assert (code, answer.statuses) == (code, [*[201] * 50, 503, *[201] * 49])
        assert answer.outcomes[50][2].endswith("; resend the item.")
    stored = {item[KEY] for batch in batches for item in batch} - refused.keys()
    assert set(await service.comments()) == stored


async def test_an_item_that_a_trigger_keeps_out_is_409_and_spoils_no_other(
    make_service: MakeService,
) -> None:
    service = await make_service()
    await service.execute(
        """
        create function suppress() returns trigger language plpgsql as
            $$ begin return case when new.comment = 'drop' then null else new end; end $$;
        create trigger suppress before insert on care_case_clinical_trial
            for each row execute function suppress();
        """
    )

    answer = await service.put(
        [
            {KEY: 1, "comment": "drop"},
            {KEY: 2},
            {KEY: 2, "comment": "drop"},
            {KEY: 2, "comment": "kept"},
            {KEY: 0, "comment": "drop"},
            {KEY: 0},
        ]
    )

    assert answer.statuses == [409, 201, 409, 200, 409, 201]
    assert "trigger" in answer.outcomes[0][2]
    assert sorted((await service.comments()).values(), key=str) == [None, "kept"]


async def test_an_update_that_is_kept_out_is_200_where_the_stored_record_equals_what_was_sent(
    make_service: MakeService,
) -> None:
    service = await make_service()
    await service.execute(
        "create trigger redundant before update on care_case_clinical_trial"
        " for each row execute function suppress_redundant_updates_trigger()"
    )
    dates = {"entry_Date": "2025-01-02T03:04:05Z", "update_Date": "0001-01-01T00:00:00Z"}
    batch = [{KEY: key, "comment": f"{key}", **dates} for key in range(1, 41)]

    first = await service.put(batch)
    again = await service.put(batch)

    assert first.statuses == [201] * 40
    assert [(status, body) for _, status, body in again.outcomes] == [(200, "Updated")] * 40


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"comment": "stored"}, 200),
        ({"comment": "stored", "update_Date": "2025-01-02T03:04:05Z"}, 200),
        # Set once, when the record is created; an update leaves it.
        ({"comment": "stored", "entry_Date": "1999-01-01T00:00:00Z", "entry_User": "x"}, 200),
        ({"comment": "other"}, 409),
        ({}, 409),
        ({"comment": "stored", "disease": "x"}, 409),
        ({"comment": "stored", "update_Date": "2025-01-02T03:04:06Z"}, 409),
        ({"comment": "stored", "update_User": "x"}, 409),
    ],
)
async def test_equal_means_all_that_was_sent_and_would_have_been_written(
    make_service: MakeService, sent: dict[str, Any], status: int
) -> None:
    service = await make_service()
    await service.put([{KEY: 1, "comment": "stored", "update_Date": "2025-01-02T03:04:05Z"}])
    await service.execute(
        """
        create function keep() returns trigger language plpgsql as
            $$ begin return null; end $$;
        create trigger keep before update on care_case_clinical_trial
            for each row execute function keep();
        """
    )

    answer = await service.put([{KEY: 1, **sent}])

    assert answer.statuses == [status]
    assert await service.comments() == {1: "stored"}
