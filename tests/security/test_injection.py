"""Texts that mean something to SQL, arrays, composites or JSON come back as they were sent."""

from typing import Any

import pytest

from service.wire import Item
from tests.support.running import MakeService
from tests.support.service import KEY, ServiceUnderTest, token

HOSTILE = [
    "x'); drop table care_case_clinical_trial; --",
    "'; select pg_sleep(60); --",
    "'; drop table x; -- \" \\ $1 $$ %s {0} \\x00 ${HOME} /* ?",
    "' || current_setting('data_directory') || '",
    "\\'; truncate care_case_clinical_trial; --",
    "$$; drop schema public cascade; $$",
    "$1",
    "%s %(x)s {0} {x} :name @x",
    "{a,b}",
    "{NULL}",
    '(1,"x",,)',
    '"),(2,"x',
    "NULL",
    "null",
    "\\N",
    "\\.",
    "",
    " ",
    "\t\r\n",
    "E'\\x41'",
    "\\u0000",
    "&#39;&quot;&lt;script&gt;",
    "<script>alert(1)</script>",
    "${HOME} `id` $(id)",
    "{{7*7}} ${jndi:ldap://127.0.0.1/x}",
    "=cmd|'/c calc'!A1",
    "\u02bc\uff07 \u2019 \u0027",
    "\u202e\u200b\ufeff",
    "\U0001f4a3\u0301",
    "\x01\x1b[2J\x7f",
    "%00 %27 %5c",
    "/* */ -- #",
    '"}],"error":null,"data":[{"id":[',
]
LIMITS = {
    "care_case_clinical_trial_arm_id": 64,
    "care_case_clinical_trial_reason_id": 64,
    "care_case_clinical_trial_study_phase_id": 64,
    "entry_user": 20,
    "update_user": 20,
}
TEXT_FIELDS = {
    column: name
    for column, name in zip(Item.__struct_fields__, Item.__struct_encode_fields__, strict=True)
    if name not in (KEY, "case_Key", "entry_Date", "update_Date")
}


def records(first_key: int) -> list[dict[str, Any]]:
    """Return a record for each hostile text; the fields of one hold different texts."""
    return [
        {
            KEY: first_key + row,
            **{
                name: HOSTILE[(row + place) % len(HOSTILE)][: LIMITS.get(column)]
                for place, (column, name) in enumerate(TEXT_FIELDS.items())
            },
        }
        for row in range(len(HOSTILE))
    ]


async def stored(service: ServiceUnderTest) -> list[dict[str, Any]]:
    """Return the stored records as they would be sent."""
    columns = {"care_case_clinical_trial_key": KEY, **TEXT_FIELDS}
    rows = await service.fetch(
        f"select {', '.join(columns)} from care_case_clinical_trial order by 1"  # noqa: S608
    )
    return [dict(zip(columns.values(), row, strict=True)) for row in rows]


async def test_hostile_text_in_every_field_comes_back_as_it_was_sent(
    make_service: MakeService,
) -> None:
    service = await make_service()
    sent = records(first_key=1)

    created = await service.put(sent)
    updated = await service.put(sent)

    assert len(TEXT_FIELDS) == 14
    assert set(created.statuses) == {201}
    assert set(updated.statuses) == {200}
    assert await stored(service) == sent


async def test_hostile_text_survives_the_path_of_bad_batches_and_drawn_keys_too(
    make_service: MakeService,
) -> None:
    service = await make_service()
    await service.execute("alter table care_case_clinical_trial add check (case_key <> 13)")
    sent = records(first_key=1_001)
    assigned = [{**record, KEY: 0} for record in records(first_key=0)]

    answer = await service.put([*sent, {KEY: 9, "case_Key": 13}, *assigned])

    assert answer.statuses == [*[201] * len(sent), 400, *[201] * len(assigned)]
    rows = await stored(service)
    assert [row for row in rows if row[KEY] in range(1_001, 1_001 + len(sent))] == sent
    others = [{**row, KEY: 0} for row in rows if row[KEY] not in range(1_001, 1_001 + len(sent))]
    assert others == assigned


async def test_hostile_values_of_fields_that_are_no_text_fail_their_item(
    make_service: MakeService,
) -> None:
    service = await make_service()
    fields = [KEY, "case_Key", "entry_Date", "update_Date"]
    batch = [{KEY: 1, field: text} for field in fields for text in HOSTILE]

    answer = await service.put([*batch, {KEY: 2}])

    assert answer.statuses == [*[400] * len(batch), 201]
    assert await service.comments() == {2: None}


async def test_a_hostile_field_name_fails_its_item_and_is_no_column(
    make_service: MakeService,
) -> None:
    service = await make_service()

    answer = await service.put([*({KEY: 1, text: text} for text in HOSTILE), {KEY: 2}])

    assert answer.statuses == [*[400] * len(HOSTILE), 201]
    assert await service.comments() == {2: None}


async def test_the_callers_name_is_text_whatever_it_is(make_service: MakeService) -> None:
    service = await make_service()
    names = [text for text in HOSTILE if text.isprintable() and text.strip()]
    names.append("x'); drop table--")

    for key, name in enumerate(names, 1):
        headers = {"Authorization": f"Bearer {token(sub=name)}"}
        assert (await service.put([{KEY: key}], headers=headers)).statuses == [201]

    rows = await service.fetch(
        "select entry_user, update_user from care_case_clinical_trial"
        " order by care_case_clinical_trial_key"
    )
    assert [tuple(row) for row in rows] == [(name[:20], name[:20]) for name in names]


@pytest.mark.parametrize("padding", [" acme", "acme ", "\tacme\t"])
async def test_white_space_around_the_name_is_no_part_of_it(
    make_service: MakeService, padding: str
) -> None:
    service = await make_service()
    head = service.head(content_length=2).replace(
        b"database: acme", f"database: {padding}".encode()
    )

    answer = await service.raw(head.replace(b"Host: x", b"Host: x\r\nConnection: close") + b"[]")

    assert answer.startswith(b"HTTP/1.1 207 ")
