"""Connections that PostgreSQL refuses: 503 in words, never the 500 of a statement that fails."""

import pytest

from tests.support.ledger import Ledger
from tests.support.postgres import MakeDatabase
from tests.support.running import MakeRole, MakeService
from tests.support.service import KEY

pytestmark = pytest.mark.usefixtures("short_retries")


def with_query(dsn: str, query: str) -> str:
    """Return the DSN with more parameters."""
    return f"{dsn}{'&' if '?' in dsn else '?'}{query}"


@pytest.mark.parametrize(
    ("query", "sqlstate"),
    [
        # As asyncpg sends on what it does not know itself.
        ("no_such_setting=1", "42704"),
        ("work_mem=lots", "22023"),
    ],
)
async def test_a_setting_that_the_server_does_not_take_is_a_database_that_cannot_be_reached(
    make_service: MakeService,
    make_database: MakeDatabase,
    caplog: pytest.LogCaptureFixture,
    query: str,
    sqlstate: str,
) -> None:
    dsn = make_database()
    service = await make_service({"acme": with_query(dsn, query)})

    answer = await service.put([{KEY: 1}, {"unknown": 1}, {KEY: 1}, {KEY: 0}])

    assert answer.statuses == [503, 400, 503, 503]
    for _, status, body in answer.outcomes:
        assert status == 400 or body == ("The database could not be reached; resend the item.")
    causes = {getattr(record, "cause", None) for record in caplog.records} - {None}
    assert causes == {sqlstate}
    assert "migrate" not in caplog.text


async def test_parameters_of_libpq_that_ask_for_nothing_more_do_no_harm(
    make_service: MakeService, make_database: MakeDatabase
) -> None:
    asked = "keepalives=1&keepalives_idle=30&channel_binding=prefer&connect_timeout=9"
    service = await make_service({"acme": with_query(make_database(), asked)})

    assert (await service.put([{KEY: 1}, {KEY: 0}])).statuses == [201, 201]


async def test_a_role_that_may_not_connect_is_503_until_it_may(
    make_service: MakeService, make_role: MakeRole
) -> None:
    owner = await make_service()
    restricted = await make_role(owner)
    role = restricted.databases["acme"].split("//")[1].split(":")[0]
    (row,) = await owner.fetch("select current_database() as name")
    await owner.execute(f"revoke connect on database {row['name']} from public")

    answer = await restricted.put([{KEY: 1}, {KEY: 0}])
    await owner.execute(f"grant connect on database {row['name']} to {role}")

    assert answer.statuses == [503, 503]
    assert all("could not be reached" in body for _, _, body in answer.outcomes)
    await Ledger(restricted).assert_recovers()
