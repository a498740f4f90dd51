"""One record, and reading back: the handlers of single records and of pages of them.

Contract section 1, "One record".
"""

import asyncio
import re
from collections.abc import Mapping

import msgspec
from aiohttp import hdrs, web

from service.config import Server
from service.engine import reading
from service.engine.reading import Page, PageTooLarge, SortField, Unreadable
from service.engine.retrying import TimedOut, Unavailable
from service.engine.writer import Writers
from service.http.access import Access
from service.http.admission import Admission
from service.http.envelope import RECORD, Problem, accepted, negotiate
from service.http.idempotency import RETRY_AFTER
from service.wire import (
    INT32,
    MOST_PAGE_ITEMS,
    PAGE_ITEMS,
    PAGINATION_HEADER,
    Debug,
    Item,
    Pagination,
    RecordEnvelope,
    RecordListEnvelope,
)

PAGE_ITEM_BYTES = 4
"""Times ``max_item_bytes`` a page may have of text: whatever was stored, its cost is bounded."""

_INTEGER = re.compile(r"-?[0-9]{1,10}")
_FIELDS = dict.fromkeys(Item.__struct_encode_fields__)


class RecordHandler:
    """Answers for ``{base_path}/care-case-clinical-trials`` and what lies below it."""

    def __init__(
        self,
        settings: Server,
        access: Access,
        admission: Admission,
        writers: Writers,
        write_seconds: float,
    ) -> None:
        self._page_bytes = PAGE_ITEM_BYTES * settings.max_item_bytes
        self._access = access
        self._admission = admission
        self._writers = writers
        self._write_seconds = write_seconds

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Return the record of the key in the path. Raises Problem 404 where there is none."""
        _, database = await self._access.grant(request, "read")
        key = _key_in_path(request)
        with self._admission.batch(database):
            record = await self._find(request, database, key)
        if record is None:
            raise _no_record(key)
        return _answer(request, 200, record)

    async def page(self, request: web.Request) -> web.StreamResponse:
        """Return a page of all records in the order that the query asks for."""
        _, database = await self._access.grant(request, "read")
        number, size, sorting = _query(request)
        with self._admission.batch(database), self._admission.body(database) as counted:
            pool = (await self._writers.of(database)).pool
            try:
                page = await reading.page(
                    pool,
                    sorting,
                    offset=(number - 1) * size,
                    limit=size,
                    most_bytes=self._page_bytes,
                    activity_id=request[RECORD].activity_id,
                )
            except PageTooLarge:
                raise Problem(
                    400,
                    f"The page has more than {self._page_bytes} bytes; ask for a smaller pageSize.",
                    reason="page_bytes",
                ) from None
            except (Unreadable, Unavailable, TimedOut) as error:
                raise _unread(request, error) from None
            counted.grow_to(page.size)
            response = _page_answer(request, page, number, size)
            # Here, so that what waits for a slow reader is counted as long as it is in memory.
            try:
                async with asyncio.timeout(self._write_seconds):
                    await response.prepare(request)
                    await response.write_eof()
            except TimeoutError:
                raise ConnectionError("the client reads no more") from None
            return response

    async def _find(self, request: web.Request, database: str, key: int) -> Item | None:
        pool = (await self._writers.of(database)).pool
        try:
            return await reading.find(pool, key, request[RECORD].activity_id)
        except (Unreadable, Unavailable, TimedOut) as error:
            raise _unread(request, error) from None


def _key_in_path(request: web.Request) -> int:
    text = request.match_info["key"]
    key = int(text) if _INTEGER.fullmatch(text) else None
    if key is None or key not in INT32:
        raise Problem(
            400,
            f"Expected the key in the path to be an integer from {INT32[0]} to {INT32[-1]}.",
            reason="query",
        )
    return key


def _query(request: web.Request) -> tuple[int, int, list[SortField]]:
    """Return the number of the page, its size, and the order. Raises Problem 400."""
    query = request.query
    known = ("page", "pageSize", "sortBy")
    for name in query:
        if name not in known:
            raise _malformed(f"{name[:50]} is unknown; known are {', '.join(known)}")
        if len(query.getall(name)) > 1:
            raise _malformed(f"{name} came more than once")
    number = _count(query, "page", 1, INT32[-1])
    size = _count(query, "pageSize", PAGE_ITEMS, MOST_PAGE_ITEMS)
    return number, size, _sorting(query.get("sortBy", ""))


def _count(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = query.get(name, str(default))
    count = int(text) if _INTEGER.fullmatch(text) else 0
    if not 1 <= count <= most:
        raise _malformed(f"{name}: expected an integer from 1 to {most}")
    return count


def _sorting(text: str) -> list[SortField]:
    sorting: dict[str, SortField] = {}
    for part in filter(None, text.split(",")[: len(_FIELDS) + 1]):
        name, _, direction = part.strip().partition(":")
        if name not in _FIELDS:
            raise _malformed(f"sortBy: {name[:50]} is no field; known are {', '.join(_FIELDS)}")
        if direction not in ("", "asc", "desc"):
            raise _malformed(f"sortBy: expected {name}:asc or {name}:desc")
        if name in sorting:
            raise _malformed(f"sortBy: {name} came more than once")
        sorting[name] = SortField(name, direction == "desc")
    return [*sorting.values()]


def _malformed(words: str) -> Problem:
    return Problem(400, f"The query is malformed: {words}.", reason="query")


def _no_record(key: int) -> Problem:
    return Problem(404, f"There is no record with the key {key}.", reason="no_record")


def _unread(request: web.Request, error: Exception) -> Problem:
    """Return what a read that failed means for its caller."""
    if isinstance(error, Unreadable):
        detail = f"Internal error, activityID {request[RECORD].activity_id}."
        return Problem(500, detail, reason="internal")
    words = str(error) or "The database did not answer in time"
    return Problem(503, f"{words}; send the request again.", RETRY_AFTER, reason="database_away")


def _answer(
    request: web.Request, status: int, record: Item | None, headers: Mapping[str, str] | None = None
) -> web.Response:
    debug = Debug(request[RECORD].activity_id)
    return web.Response(
        status=status,
        body=msgspec.json.encode(RecordEnvelope(data=record, error=None, debug=debug)),
        headers={**(headers or {}), hdrs.CONTENT_TYPE: negotiate(accepted(request))},
    )


def _page_answer(request: web.Request, page: Page, number: int, size: int) -> web.Response:
    pagination = Pagination(page.total, -(-page.total // size), number, size)
    debug = Debug(request[RECORD].activity_id)
    return web.Response(
        body=msgspec.json.encode(RecordListEnvelope(data=page.records, error=None, debug=debug)),
        headers={
            PAGINATION_HEADER: msgspec.json.encode(pagination).decode(),
            hdrs.CONTENT_TYPE: negotiate(accepted(request)),
        },
    )
