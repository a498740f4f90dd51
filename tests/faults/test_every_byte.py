"""Connections to PostgreSQL that are cut after each byte of a statement, and of its answer."""

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from tests.support.postgres import MakeDatabase
from tests.support.proxy import Link, Proxy
from tests.support.running import MakeService
from tests.support.service import KEY, ServiceUnderTest

STRIDE = int(os.environ.get("CUT_STRIDE", "29"))
"""Every so many bytes; all of them take some minutes."""


class CutAfter:
    """Lets so many bytes pass, then cuts the connection, once; counts what has passed."""

    def __init__(self, length: int | None) -> None:
        self._left = length
        self.passed = 0

    def __call__(self, link: Link, data: bytes) -> bytes:
        self.passed += len(data)
        if self._left is None:
            return data
        if len(data) < self._left:
            self._left -= len(data)
            return data
        kept, self._left = data[: self._left], None
        # After what is kept has been written.
        asyncio.get_running_loop().call_later(0.002, link.cut)
        return kept


@pytest.fixture
async def proxy(make_database: MakeDatabase) -> AsyncIterator[Proxy]:
    """A proxy before a database of its own."""
    async with Proxy(make_database()) as proxy:
        yield proxy


async def put(service: ServiceUnderTest, number: int) -> None:
    """Send a record without key and one with a key; whatever is cut, both are stored once."""
    batch = [{KEY: 0, "comment": f"new {number}"}, {KEY: -1, "comment": f"{number}"}]
    answer = await service.put(batch)
    assert answer.statuses == [201, 201 if number == 0 else 200]


@pytest.mark.slow
@pytest.mark.parametrize("is_answer", [False, True], ids=["statement", "answer"])
async def test_a_connection_cut_after_any_byte_loses_and_doubles_nothing(
    make_service: MakeService, proxy: Proxy, *, is_answer: bool
) -> None:
    service = await make_service({"acme": proxy.dsn})
    name = "answer_fault" if is_answer else "fault"
    # The first one connects, the second has the statement prepared.
    await put(service, 0)
    whole = CutAfter(None)
    setattr(proxy, name, whole)
    await put(service, 1)

    numbers = range(2, 2 + whole.passed, STRIDE)
    for number in numbers:
        # After the two before it, so that a new connection has to be made for each.
        setattr(proxy, name, CutAfter(number - 2))
        await put(service, number)
        setattr(proxy, name, None)

    comments = sorted((await service.comments()).values(), key=str)
    assert comments == sorted([str(numbers[-1]), *(f"new {n}" for n in (0, 1, *numbers))], key=str)
