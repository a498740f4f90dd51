"""Contract section 1, "One record": stored values that JSON and RFC 3339 cannot represent."""

from typing import NamedTuple

import pytest

from tests.support.postgres import MakeDatabase
from tests.support.running import MakeService
from tests.support.service import KEY, RECORDS, ServiceUnderTest

ALL = ["batch", "read", "write", "delete"]

FIRST, LAST = "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"


class Kind(NamedTuple):
    """A value that a tenant's trigger stores, and the value that is read."""

    column: str
    stored: str
    field: str
    read: str
    encoding: str | None = None


KINDS = {
    "late": Kind("update_date", "'20240-01-01Z'", "update_Date", LAST),
    "just-late": Kind("update_date", "'9999-12-31 23:59:59.999999-01'", "update_Date", LAST),
    "early": Kind("entry_date", "'0044-03-15Z BC'", "entry_Date", FIRST),
    "just-early": Kind("entry_date", "'0001-01-01 00:00:00+01'", "entry_Date", FIRST),
    "never": Kind("update_date", "'infinity'", "update_Date", LAST),
    "always": Kind("entry_date", "'-infinity'", "entry_Date", FIRST),
    "byte": Kind("comment", "chr(255) || 'é'", "comment", "\ufffdé", "SQL_ASCII"),
    "half": Kind("location", "left('né', 2)", "location", "n\ufffd", "SQL_ASCII"),
    "user": Kind("entry_user", "chr(200)", "entry_User", "\ufffd", "SQL_ASCII"),
    "undefined": Kind("comment", "'é' || chr(129)", "comment", "é\ufffd", "WIN1252"),
}


async def corrupt(service: ServiceUnderTest, column: str, stored: str) -> None:
    """Add a trigger that replaces a field of each record written from now on."""
    await service.execute(
        f"""
        create function corrupt() returns trigger language plpgsql as $$
        begin
            new.{column} = {stored};
            return new;
        end
        $$;
        create trigger corrupt before insert or update on care_case_clinical_trial
            for each row execute function corrupt();
        """
    )


async def number_of_records(service: ServiceUnderTest) -> int:
    (row,) = await service.fetch("select count(*) from care_case_clinical_trial")
    count: int = row[0]
    return count


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_a_value_that_cannot_be_represented_is_read_as_the_nearest_one(
    make_service: MakeService, make_database: MakeDatabase, kind: Kind
) -> None:
    service = await make_service({"acme": make_database(encoding=kind.encoding)}, allow=ALL)
    plain = (await service.ask("POST", "", {KEY: 1, "comment": "é"})).envelope["data"]
    await corrupt(service, kind.column, kind.stored)

    created = await service.ask("POST", "", {KEY: 2})
    assert (created.status, created.headers["Location"]) == (201, f"{RECORDS}/2")
    replaced = await service.ask("PUT", "/2", {KEY: 2})
    read = await service.ask("GET", "/2")
    page = await service.ask("GET", "")

    assert (replaced.status, read.status, page.status) == (200, 200, 200)
    assert plain["comment"] == "é"
    records = [answer.envelope["data"] for answer in (created, replaced, read)]
    assert [record[kind.field] for record in records] == [kind.read] * 3
    assert page.envelope["data"] == [plain, records[-1]]


async def test_records_are_sorted_by_the_date_that_is_stored(make_service: MakeService) -> None:
    service = await make_service(allow=ALL)
    await service.put([{KEY: key} for key in (1, 2, 3)])
    await service.execute(
        """
        update care_case_clinical_trial
        set update_date = ('{infinity, 10000-01-01Z, 20240-01-01Z}'::timestamptz[])
            [care_case_clinical_trial_key]
        """
    )

    page = await service.ask("GET", "?sortBy=update_Date")

    assert [record[KEY] for record in page.envelope["data"]] == [2, 3, 1]
    assert {record["update_Date"] for record in page.envelope["data"]} == {LAST}


@pytest.mark.parametrize("key", [0, 7])
async def test_a_write_whose_record_cannot_be_read_keeps_its_status(
    make_service: MakeService, caplog: pytest.LogCaptureFixture, key: int
) -> None:
    service = await make_service(allow=ALL, database={"pool_max_size": 1})
    # A type of the tenant's own choice, of which asyncpg cannot decode every value.
    await service.execute(
        """
        create cast (integer as timestamptz) with inout as assignment;
        alter table care_case_clinical_trial alter case_key type timestamptz using null;
        """
    )
    await corrupt(service, "case_key", "'20240-01-01'")
    sessions = """
        select pid from pg_stat_activity
        where datname = current_database() and application_name like 'care-case%'
    """

    created = await service.ask("POST", "", {KEY: key})
    session = await service.fetch(sessions)
    headers: dict[str, str | None] = {"Idempotency-Key": created.headers["X-Activity-ID"]}
    resent = await service.ask("POST", "", {KEY: key}, headers=headers)
    location = created.headers["Location"].removeprefix(RECORDS)
    replaced = await service.ask("PUT", location, {KEY: int(location[1:])})

    assert [answer.status for answer in (created, resent, replaced)] == [201, 201, 200]
    assert [answer.envelope["data"] for answer in (created, resent, replaced)] == [None] * 3
    assert resent.headers["Location"] == created.headers["Location"]
    assert await number_of_records(service) == 1
    # The service does not treat such a value as a lost connection.
    assert await service.fetch(sessions) == session
    unread = "the stored record cannot be read"
    assert [entry.getMessage() for entry in caplog.records if entry.levelname != "INFO"] == (
        [unread] * 3
    )
    assert "20240" not in caplog.text
