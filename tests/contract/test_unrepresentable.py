"""Contract section 1, "One record": stored values that JSON and RFC 3339 cannot represent."""

import pytest

from tests.harness.running import MakeService
from tests.harness.service import KEY, RECORDS, ServiceUnderTest

ALL = ["batch", "read", "write", "delete"]


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
