"""Through PgBouncer in transaction mode, with ``transaction_pooling`` set."""

import asyncio
import re
from collections.abc import Iterator

import pytest

from tests.support.ledger import Ledger
from tests.support.pgbouncer import PROGRAM, pgbouncer
from tests.support.postgres import MakeDatabase
from tests.support.running import MakeService
from tests.support.service import KEY, ServiceUnderTest

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="PgBouncer is not installed")


@pytest.fixture
def pooled_dsn(server_dsn: str, make_database: MakeDatabase) -> Iterator[str]:
    """The DSN of a database by way of PgBouncer."""
    name = re.sub(r".*/([^/?]+)(\?.*)?$", r"\1", make_database())
    with pgbouncer(server_dsn) as port:
        yield f"postgresql://postgres@127.0.0.1:{port}/{name}"


async def test_statements_of_many_batches_share_its_few_connections(
    make_service: MakeService, pooled_dsn: str
) -> None:
    service = await make_service({"acme": pooled_dsn}, database={"transaction_pooling": True})
    ledger = Ledger(service)

    # Other statements between a batch's parsing and its execution.
    async with ledger.under_load(senders=20):
        probes = await asyncio.gather(*(probe(service) for _ in range(5)))

    assert [set(answers) for answers in probes] == [{200}] * 5
    assert set(ledger.statuses) <= {200, 201, 400}
    await ledger.assert_true()


async def probe(service: ServiceUnderTest) -> list[int]:
    """Ask again and again whether it is ready; return the statuses."""
    statuses = []
    for _ in range(100):
        async with service.session.get(f"{service.url}/readyz") as response:
            statuses.append(response.status)
        await asyncio.sleep(0.01)
    return statuses


async def test_bad_items_fail_each_for_themselves(
    make_service: MakeService, pooled_dsn: str
) -> None:
    service = await make_service({"acme": pooled_dsn}, database={"transaction_pooling": True})

    answer = await service.put([{KEY: 1, "comment": "\0"}, {KEY: 2}, {KEY: 0}, {KEY: 2}])

    assert answer.statuses == [400, 201, 201, 200]
