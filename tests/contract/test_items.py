"""Contract section 1, "Item fields": what is stored, and what is refused."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.running import MakeService
from tests.support.service import KEY, token

TEXT_FIELDS = {
    "comment": "comment",
    "disease": "disease",
    "inclusionExclusion": "inclusion_exclusion",
    "location": "location",
    "protocol_Number": "protocol_number",
    "study_Drug": "study_drug",
    "study_Length": "study_length",
    "study_Title": "study_title",
    "website": "website",
}
CODE_FIELDS = {
    "careCaseClinicalTrialArm_ID": "care_case_clinical_trial_arm_id",
    "careCaseClinicalTrialReason_ID": "care_case_clinical_trial_reason_id",
    "careCaseClinicalTrialStudyPhase_ID": "care_case_clinical_trial_study_phase_id",
}
USER_FIELDS = {"entry_User": "entry_user", "update_User": "update_user"}
COLUMNS = {
    KEY: "care_case_clinical_trial_key",
    "case_Key": "case_key",
    "entry_Date": "entry_date",
    "update_Date": "update_date",
    **TEXT_FIELDS,
    **CODE_FIELDS,
    **USER_FIELDS,
}
MOMENT = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)


async def stored(service: Any, key: int = 1) -> dict[str, Any]:
    """Return the record of a key under the fields' JSON names."""
    columns = ", ".join(COLUMNS.values())
    (row,) = await service.fetch(
        f"select {columns} from care_case_clinical_trial"  # noqa: S608
        " where care_case_clinical_trial_key = $1",
        key,
    )
    return dict(zip(COLUMNS, row, strict=True))


async def test_every_field_is_stored_in_its_column(make_service: MakeService) -> None:
    service = await make_service()
    item = {
        KEY: 1,
        "case_Key": -(2**31),
        "entry_Date": "2025-01-02T03:04:05Z",
        "update_Date": "2025-01-02T03:04:05Z",
        **{name: f"text of {name} äß漢😀" for name in TEXT_FIELDS},
        **{name: f"code of {name}" for name in CODE_FIELDS},
        **{name: f"who {name}" for name in USER_FIELDS},
    }

    answer = await service.put([item])

    assert answer.outcomes == [("1", 201, "Created")]
    assert await stored(service) == {**item, "entry_Date": MOMENT, "update_Date": MOMENT}


async def test_all_registered_trials_are_stored_field_by_field(
    make_service: MakeService, trials: list[dict[str, Any]]
) -> None:
    service = await make_service()

    created = await service.put(trials)
    updated = await service.put(trials)

    assert created.outcomes == [(str(trial[KEY]), 201, "Created") for trial in trials]
    assert updated.outcomes == [(str(trial[KEY]), 200, "Updated") for trial in trials]
    for trial in trials:
        expected = {name: trial.get(name) for name in COLUMNS}
        for name in ("entry_Date", "update_Date"):
            expected[name] = datetime.fromisoformat(trial[name])
        assert await stored(service, trial[KEY]) == expected


async def test_an_update_replaces_so_that_an_omitted_field_becomes_null(
    make_service: MakeService,
) -> None:
    service = await make_service()
    await service.put(
        [{KEY: 1, "case_Key": 5, **dict.fromkeys([*TEXT_FIELDS, *CODE_FIELDS], "old")}]
    )

    answer = await service.put([{KEY: 1, "comment": "new"}])

    assert answer.outcomes == [("1", 200, "Updated")]
    record = await stored(service)
    assert record["comment"] == "new"
    for name in ["case_Key", *TEXT_FIELDS, *CODE_FIELDS]:
        assert name == "comment" or record[name] is None


async def test_entry_date_and_user_are_set_once_and_never_change(
    make_service: MakeService,
) -> None:
    service = await make_service()
    await service.put(
        [{KEY: 1, "entry_Date": "2020-01-01", "entry_User": "ann", "update_User": "ann"}]
    )

    await service.put([{KEY: 1, "entry_Date": "2030-01-01", "entry_User": "bob"}])

    record = await stored(service)
    assert (record["entry_Date"], record["entry_User"]) == (datetime(2020, 1, 1, tzinfo=UTC), "ann")
    assert record["update_User"] == "tester"


async def test_dates_and_users_that_are_not_sent_are_now_and_the_caller(
    make_service: MakeService,
) -> None:
    service = await make_service()
    before = datetime.now(UTC)

    await service.put([{KEY: 1}, {KEY: 2, "entry_User": None, "update_User": None}])

    for key in (1, 2):
        record = await stored(service, key)
        assert record["entry_User"] == record["update_User"] == "tester"
        assert before <= record["entry_Date"] == record["update_Date"] <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("claims", "user"),
    [
        ({"preferred_username": "ann", "sub": "x"}, "ann"),
        ({"cognito:username": "bob", "sub": "x"}, "bob"),
        ({"sub": "carol"}, "carol"),
        ({"sub": "a-name-of-more-than-twenty-characters"}, "a-name-of-more-than-"),
        ({"preferred_username": 17, "sub": "dora"}, "dora"),
        ({"sub": None}, "loader"),
        ({"preferred_username": "nul\0", "sub": "eve"}, "eve"),
    ],
    ids=str,
)
async def test_the_user_is_the_first_claim_present_cut_to_20_characters(
    make_service: MakeService, claims: dict[str, Any], user: str
) -> None:
    service = await make_service()

    await service.put([{KEY: 1}], headers={"Authorization": f"Bearer {token(**claims)}"})

    assert (await stored(service))["entry_User"] == user


ACCEPTED_MOMENTS = {
    "2025-01-02T03:04:05Z": MOMENT,
    "2025-01-02T03:04:05z": MOMENT,
    "2025-01-02t03:04:05Z": MOMENT,
    "2025-01-02 03:04:05Z": MOMENT,
    "2025-01-02T03:04:05": MOMENT,
    "2025-01-02 03:04:05": MOMENT,
    "2025-01-02T03:04:05+00:00": MOMENT,
    "2025-01-01T22:04:05-05:00": MOMENT,
    "2025-01-02T08:34:05+05:30": MOMENT,
    "2025-01-02T03:04:05.1Z": MOMENT.replace(microsecond=100_000),
    "2025-01-02T03:04:05.123456Z": MOMENT.replace(microsecond=123_456),
    "2025-01-02T03:04:05.1234560000000Z": MOMENT.replace(microsecond=123_456),
    "2025-01-02T03:04:05.123456": MOMENT.replace(microsecond=123_456),
    "2025-01-02 03:04:05 UTC": MOMENT,
    "2025-01-02 03:04:05.5 UTC": MOMENT.replace(microsecond=500_000),
    "2025-01-01 22:04:05 -0500": MOMENT,
    "2025-01-02": datetime(2025, 1, 2, tzinfo=UTC),
    "2025-01-02 03:04:05+00": MOMENT,
    "2025-01-02 03:04:05.123456+00": MOMENT.replace(microsecond=123_456),
    "2025-01-02 08:34:05.5+05:30": MOMENT.replace(microsecond=500_000),
    "2025-01-01 22:04:05-05": MOMENT,
    "2025-01-02T03:04Z": MOMENT.replace(second=0),
    "2025-01-02T03:04": MOMENT.replace(second=0),
    "2025-01-02T04:04+01:00": MOMENT.replace(second=0),
    "2016-12-31T23:59:60Z": datetime(2017, 1, 1, tzinfo=UTC),
    "0001-01-01T00:00:00Z": datetime(1, 1, 1, tzinfo=UTC),
    "9999-12-31T23:59:59.9999999": datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    "9999-12-31T23:59:59.999999Z": datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
}


async def test_date_times_are_accepted_in_every_form_that_clients_send(
    make_service: MakeService,
) -> None:
    service = await make_service()
    batch = [{KEY: i, "update_Date": text} for i, text in enumerate(ACCEPTED_MOMENTS, start=1)]

    answer = await service.put(batch)

    assert answer.statuses == [201] * len(batch)
    for key, (text, moment) in enumerate(ACCEPTED_MOMENTS.items(), start=1):
        assert (await stored(service, key))["update_Date"] == moment, text


@pytest.mark.parametrize(
    "moment",
    [
        None,
        17,
        "",
        "today",
        "2025-02-30T00:00:00Z",
        "2025-01-02T25:00:00Z",
        "2025-01-02T03Z",
        "2025-01-02 03:04:05+0",
        "0000-01-01T00:00:00Z",
        "10000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "2025-01-02T03:04:05+25:00",
        "2025-01-02T03:04:05 PST",
        "٢٠٢٥-01-02",
    ],
)
@pytest.mark.parametrize("name", ["entry_Date", "update_Date"])
async def test_other_date_times_are_400_of_their_item(
    make_service: MakeService, name: str, moment: Any
) -> None:
    service = await make_service()

    answer = await service.put([{KEY: 1, name: moment}, {KEY: 2}])

    assert answer.statuses == [400, 201]
    assert answer.outcomes[0][2].startswith((f"{name}: must", f"{name}: is not a valid date-time"))


REFUSED: dict[str, tuple[Any, str | None, str]] = {
    "no key": ({"comment": "x"}, None, KEY),
    "key is null": ({KEY: None}, None, KEY),
    "key is a text": ({KEY: "5"}, None, KEY),
    "key is a fraction": ({KEY: 1.5}, None, KEY),
    "key is a boolean": ({KEY: True}, None, KEY),
    "key above int32": ({KEY: 2**31}, str(2**31), KEY),
    "key below int32": ({KEY: -(2**31) - 1}, str(-(2**31) - 1), KEY),
    "case key above int32": ({KEY: 5, "case_Key": 2**31}, "5", "case_Key"),
    "case key is a text": ({KEY: 5, "case_Key": "1"}, "5", "case_Key"),
    "unknown field": ({KEY: 5, "coment": "x"}, "5", "coment"),
    "wrong case": ({KEY: 5, "Comment": "x"}, "5", "Comment"),
    "array": ([], None, "an array"),
    "text": ("x", None, "a string"),
    "number": (5, None, "a number"),
    "null": (None, None, "null"),
    **{f"{name} is a number": ({KEY: 5, name: 1}, "5", name) for name in TEXT_FIELDS},
    **{f"{name} of 65": ({KEY: 5, name: "x" * 65}, "5", name) for name in CODE_FIELDS},
    **{f"{name} of 21": ({KEY: 5, name: "x" * 21}, "5", name) for name in USER_FIELDS},
    **{f"{name} with NUL": ({KEY: 5, name: "a\0b"}, "5", name) for name in TEXT_FIELDS},
    "lone high surrogate": ({KEY: 5, "comment": "\ud800"}, "5", "comment"),
    "lone low surrogate": ({KEY: 5, "website": "x\udc00y"}, "5", "website"),
    "surrogate then escape": ({KEY: 5, "disease": "\ud800\n"}, "5", "disease"),
}


@pytest.mark.parametrize(("item", "key", "named"), REFUSED.values(), ids=REFUSED.keys())
async def test_an_invalid_item_is_400_naming_the_field_and_spoils_no_other(
    make_service: MakeService, item: Any, key: str | None, named: str
) -> None:
    service = await make_service()

    answer = await service.put([{KEY: 1}, item, {KEY: 2}])

    assert answer.outcomes[0] == ("1", 201, "Created")
    assert answer.outcomes[1][:2] == (key, 400)
    assert named in answer.outcomes[1][2]
    assert answer.outcomes[2] == ("2", 201, "Created")
    assert set(await service.comments()) == {1, 2}


async def test_text_that_is_not_utf_8_is_400_of_its_item(make_service: MakeService) -> None:
    service = await make_service()

    answer = await service.put(
        b'[{"%b":1},{"%b":2,"comment":"caf\xe9"},{"%b":3}]' % (3 * (KEY.encode(),))
    )

    assert answer.statuses == [201, 400, 201]
    assert answer.outcomes[1][2].startswith("comment: ")


async def test_limits_count_characters_not_bytes(make_service: MakeService) -> None:
    service = await make_service()

    answer = await service.put(
        [{KEY: 1, "careCaseClinicalTrialArm_ID": "漢" * 64, "entry_User": "😀" * 20}]
    )

    assert answer.statuses == [201]
    assert (await stored(service))["entry_User"] == "😀" * 20


async def test_texts_that_look_like_escapes_or_sql_are_stored_as_they_are(
    make_service: MakeService,
) -> None:
    service = await make_service()
    texts = ["\\u0000", "\\ud800", "'; drop table x; --", "},{", '"}],', "\\", "😀\u007f\u0080"]

    answer = await service.put([{KEY: i, "comment": text} for i, text in enumerate(texts, 1)])

    assert answer.statuses == [201] * len(texts)
    assert await service.comments() == dict(enumerate(texts, 1))


async def test_unknown_fields_are_ignored_when_so_configured(make_service: MakeService) -> None:
    service = await make_service(ignore_unknown_fields=True)

    answer = await service.put(
        [
            {KEY: 1, "extra": [1, {"a": None}], "comment": "kept"},
            {KEY: 2, "extra": 1, "update_Date": "2025-01-02"},
            {KEY: 3, "extra": 1, "case_Key": "x"},
        ]
    )

    assert answer.statuses == [201, 201, 400]
    assert (await service.comments())[1] == "kept"


async def test_key_0_is_always_created_with_a_key_of_the_databases_own(
    make_service: MakeService,
) -> None:
    service = await make_service()
    batch = [{KEY: 0, "comment": "a"}, {KEY: 7, "comment": "b"}, {KEY: 0, "comment": "c"}]

    first = await service.put(batch)
    second = await service.put(batch)

    assert first.statuses == [201, 201, 201]
    assert second.statuses == [201, 200, 201]
    keys = [first.keys[0], first.keys[2], second.keys[0], second.keys[2]]
    assert len({*keys, 0, 7}) == 6
    comments = await service.comments()
    assert [comments[key] for key in keys] == ["a", "c", "a", "c"]


async def test_key_0_never_overwrites_where_explicit_keys_ran_ahead_of_the_sequence(
    make_service: MakeService,
) -> None:
    service = await make_service()
    explicit = [{KEY: key, "comment": "explicit"} for key in [*range(1, 601), 605, 2**31 - 1]]
    await service.put(explicit)

    answer = await service.put([{KEY: 0, "comment": "drawn"} for _ in range(10)])

    assert answer.statuses == [201] * 10
    comments = await service.comments()
    assert len(comments) == len(explicit) + 10
    assert all(comments[item[KEY]] == "explicit" for item in explicit)
    assert all(comments[key] == "drawn" for key in answer.keys)


async def test_a_drawn_key_is_none_that_the_same_chunk_names(make_service: MakeService) -> None:
    service = await make_service()

    answer = await service.put([{KEY: 0, "comment": "drawn"}, {KEY: 1, "comment": "explicit"}])

    assert answer.statuses == [201, 201]
    assert sorted(map(str, (await service.comments()).values())) == ["drawn", "explicit"]


@pytest.mark.parametrize("first", [0, 1700], ids=["from the start", "far behind"])
async def test_no_key_is_drawn_that_any_item_names_however_far_away(
    make_service: MakeService, first: int
) -> None:
    service = await make_service()
    items: list[dict[str, Any]] = [{KEY: key, "comment": "named"} for key in range(10_001, 12_501)]
    # One or two in each of the parts that are decoded at a time, of which some are invalid.
    for key, place in enumerate((3, 490, 510, 990, 1_010, 1_490, 1_990, 2_010, 2_490), 1):
        items[place] |= {KEY: key} | ({"case_Key": "bad"} if key % 2 else {})
    items[first : first + 2] = [{KEY: 0, "comment": "drawn"}] * 2

    answer = await service.put(items)

    statuses = [400 if item.get("case_Key") else 201 for item in items]
    assert answer.statuses == statuses
    assert set(answer.keys[first : first + 2]).isdisjoint(range(1, 10))
    assert len(await service.comments()) == statuses.count(201)


async def test_key_0_items_fail_each_for_themselves(make_service: MakeService) -> None:
    service = await make_service()
    await service.execute(
        "alter table care_case_clinical_trial add check (comment <> 'bad')",
    )

    answer = await service.put(
        [{KEY: 0, "comment": "bad" if i % 3 == 0 else f"good {i}"} for i in range(200)]
    )

    assert answer.statuses == [400 if i % 3 == 0 else 201 for i in range(200)]
    assert answer.outcomes[0][0] == "0"
    comments = await service.comments()
    for i, (key, status) in enumerate(zip(answer.keys, answer.statuses, strict=True)):
        assert status == 400 or comments[key] == f"good {i}"
    assert len(comments) == 133


async def test_negative_keys_are_keys_like_others(make_service: MakeService) -> None:
    service = await make_service()

    answer = await service.put([{KEY: -5}, {KEY: -(2**31)}, {KEY: 2**31 - 1}])

    assert answer.outcomes == [
        ("-5", 201, "Created"),
        (str(-(2**31)), 201, "Created"),
        (str(2**31 - 1), 201, "Created"),
    ]


INTEGERS = {"5.0": 5, "1e3": 1000, "-7E0": -7, "250e-1": 25, "-2147483648.0": -(2**31)}


async def test_a_number_whose_value_is_whole_is_an_integer_however_it_is_written(
    make_service: MakeService,
) -> None:
    service = await make_service()
    items = [f'{{"{KEY}":{text},"case_Key":{text}}}' for text in INTEGERS]

    answer = await service.put(f"[{','.join(items)}]".encode())

    assert answer.outcomes == [(str(key), 201, "Created") for key in INTEGERS.values()]
    assert [(await stored(service, key))["case_Key"] for key in INTEGERS.values()] == list(
        INTEGERS.values()
    )


@pytest.mark.parametrize("text", ["1.5", "2147483648.0", "1e10", "-1e300", "1e400"])
async def test_other_numbers_are_400_of_their_item(make_service: MakeService, text: str) -> None:
    service = await make_service()

    answer = await service.put(
        f'[{{"{KEY}":{text}}},{{"{KEY}":1e0,"case_Key":{text}}},{{"{KEY}":2}}]'.encode()
    )

    assert answer.statuses == [400, 400, 201]
    assert answer.outcomes[1][0] == "1"
    assert "case_Key: " in answer.outcomes[1][2] or text == "1e400"


async def test_a_drawn_key_is_none_that_the_batch_names_as_a_float(
    make_service: MakeService,
) -> None:
    service = await make_service()

    answer = await service.put(f'[{{"{KEY}":0.0}},{{"{KEY}":1.0}}]'.encode())

    assert answer.statuses == [201, 201]
    assert len(set(answer.keys)) == 2


async def test_a_long_text_is_stored_whole(make_service: MakeService) -> None:
    service = await make_service(max_item_bytes=10_000_000)
    text = '},{ \\ " ä漢😀\n' * 300_000

    answer = await service.put(
        json.dumps([{KEY: 1}, {KEY: 2, "comment": text}, {KEY: 3}], ensure_ascii=False).encode()
    )

    assert answer.statuses == [201, 201, 201]
    assert (await service.comments())[2] == text
