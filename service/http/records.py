"""One record, and reading back: the handlers of single records and of pages of them.

Contract section 1, "One record".
"""

import asyncio
import codecs
import logging
from collections.abc import Mapping

import msgspec
from aiohttp import hdrs, web
from msgspec.structs import astuple

from service.config import Server
from service.engine import reading
from service.engine.reading import Page, PageTooLarge
from service.engine.requests import request_id
from service.engine.retrying import TimedOut, Unavailable, Unserved
from service.engine.rows import Batch, Mode, Row, Whole
from service.engine.statement import ABSENT
from service.engine.writer import Writer, Writers
from service.http.access import Access, Caller
from service.http.admission import Admission, BodyBytes
from service.http.body import BodyReader, check_media_type, chunks_of
from service.http.envelope import RECORD, Problem, accepted, negotiate
from service.http.idempotency import (
    RETRY_AFTER,
    check_body,
    digest_of,
    idempotency_key,
    still_running,
    unserved,
)
from service.http.query import key_in_path, page_wanted
from service.items.decode import BatchDecoder
from service.items.split import Chunk, TooManyItems
from service.telemetry import metrics
from service.telemetry.logs import bare
from service.wire import (
    KEY_FIELD,
    PAGINATION_HEADER,
    Debug,
    Item,
    Outcome,
    Pagination,
    RecordEnvelope,
    RecordListEnvelope,
)

logger = logging.getLogger(__name__)


class RecordHandler:
    """Answers for ``{base_path}/care-case-clinical-trials`` and what lies below it."""

    def __init__(
        self,
        settings: Server,
        access: Access,
        admission: Admission,
        writers: Writers,
        reader: BodyReader,
        write_seconds: float,
    ) -> None:
        self._page_bytes = settings.max_page_bytes
        self._wait_seconds = settings.max_queue_seconds
        self._reader = reader
        self._decoder = BatchDecoder(ignore_unknown_fields=settings.ignore_unknown_fields)
        self._access = access
        self._admission = admission
        self._writers = writers
        self._write_seconds = write_seconds

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Return the record of the key in the path. Raises Problem 404 where there is none."""
        caller, database = await self._access.grant(request, "read")
        key = key_in_path(request)
        with self._admission.batch(caller.name, database):
            record = await self._find(request, database, key)
        if record is None:
            raise _no_record()
        return _answer(request, 200, record)

    async def page(self, request: web.Request) -> web.StreamResponse:
        """Return a page of all records in the order that the query asks for."""
        caller, database = await self._access.grant(request, "read")
        number, size, sorting = page_wanted(request)
        with self._admission.batch(caller.name, database) as counted:
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
            except (Unserved, Unavailable, TimedOut) as error:
                raise unserved(error, request[RECORD].activity_id, "request") from None
            # A larger page is a single record; it counts as a full page, so that it always fits.
            counted.grow_to(min(page.size, self._page_bytes))
            response = _page_answer(request, page, number, size)
            # Here, so that what waits for a slow reader is counted as long as it is in memory.
            try:
                async with asyncio.timeout(self._write_seconds):
                    await response.prepare(request)
                    await response.write_eof()
            except TimeoutError:
                raise ConnectionError("the client reads no more") from None
            return response

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Store a record that does not exist; with an Idempotency-Key it may be sent again.

        Raises Problem 409 where one exists, and that of check_body().
        """
        caller, database = await self._access.grant(request, "write")
        check_media_type(request)
        key = idempotency_key(request)
        with self._admission.batch(caller.name, database) as counted:
            body, item = await self._item(request, counted)
            writer = await self._writers.of(database)
            batch = _batch_of_one(request, caller, Mode.CREATE, key, body, self._wait_seconds)
            if key is not None:
                batch.digest = await check_body(writer.requests, batch, body)
            try:
                outcome = await _apply(request, writer, batch, astuple(item))
            finally:
                writer.requests.release(batch)
            return await self._stored(request, database, outcome)

    async def replace(self, request: web.Request) -> web.StreamResponse:
        """Replace a record that exists. Raises Problem 404 where there is none."""
        caller, database = await self._access.grant(request, "write")
        key = key_in_path(request)
        check_media_type(request)
        with self._admission.batch(caller.name, database) as counted:
            body, item = await self._item(request, counted)
            if item.care_case_clinical_trial_key != key:
                got = item.care_case_clinical_trial_key
                raise Problem(
                    400, f"{KEY_FIELD}: Expected {key} as in the path, got {got}", reason="item"
                )
            if key == 0:
                raise _no_record()
            writer = await self._writers.of(database)
            batch = _batch_of_one(request, caller, Mode.REPLACE, None, body)
            outcome = await _apply(request, writer, batch, astuple(item))
            return await self._stored(request, database, outcome)

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Delete a record. Raises Problem 404 where there is none."""
        caller, database = await self._access.grant(request, "delete")
        key = key_in_path(request)
        if key == 0:
            raise _no_record()
        with self._admission.batch(caller.name, database):
            writer = await self._writers.of(database)
            batch = _batch_of_one(request, caller, Mode.DELETE, None, bytearray())
            row = (key, *[None] * (len(Item.__struct_fields__) - 1))
            await _apply(request, writer, batch, row)
        return web.Response(status=204)

    async def _item(self, request: web.Request, counted: BodyBytes) -> tuple[bytearray, Item]:
        """Return the body and the item that it is. Raises Problem."""
        record = request[RECORD]
        body = await self._reader.read(request, counted)
        record.bytes = len(body)
        metrics.BODY_BYTES.labels(record.database).inc(len(body))
        array = b"[" + body.removeprefix(codecs.BOM_UTF8) + b"]"
        decoded = self._decoder.decode(array, await _only_chunk(array))
        for outcome in decoded.refusals.values():
            raise _refused(request, outcome)
        return body, decoded.items[0]

    async def _stored(
        self, request: web.Request, database: str, outcome: Outcome
    ) -> web.StreamResponse:
        """Return the stored record, or null if it cannot be read: it is committed all the same."""
        headers: dict[str, str] = {}
        if outcome.status == 201:
            headers[hdrs.LOCATION] = f"{request.path}/{outcome.key}"
        try:
            stored = await self._find(request, database, outcome.key or 0)
            return _answer(request, outcome.status, stored, headers)
        except Problem:
            pass  # It is in the log.
        except Exception as error:
            logger.exception("the stored record cannot be read", exc_info=bare(error))
        return _answer(request, outcome.status, None, headers)

    async def _find(self, request: web.Request, database: str, key: int) -> Item | None:
        pool = (await self._writers.of(database)).pool
        try:
            return await reading.find(pool, key, request[RECORD].activity_id)
        except (Unserved, Unavailable, TimedOut) as error:
            raise unserved(error, request[RECORD].activity_id, "request") from None


async def _only_chunk(array: bytes) -> Chunk:
    """Return where the only item of an array stands. Raises Problem 400."""
    try:
        chunks = await chunks_of(array, 1, len(array))
    except TooManyItems:
        raise Problem(400, "Expected the body to be one JSON object.", reason="json") from None
    if not chunks:
        raise Problem(400, "The body is empty; expected a JSON object.", reason="json")
    return chunks[0]


def _batch_of_one(
    request: web.Request,
    caller: Caller,
    mode: Mode,
    key: str | None,
    body: bytearray,
    wait_seconds: float = 0,
) -> Batch:
    record = request[RECORD]
    database, key = record.database or "", key or record.activity_id

    async def look_whole() -> Whole:
        return Whole((), batch.digest or await digest_of(body))

    batch = Batch(
        database=database,
        caller=caller.name,
        user=caller.user,
        activity_id=record.activity_id,
        key=key,
        name_request=lambda: request_id(caller.name, database, key),
        look_whole=look_whole,
        mode=mode,
        is_gone=lambda: request.transport is None,
        wait_seconds=wait_seconds,
    )
    return batch


async def _apply(request: web.Request, writer: Writer, batch: Batch, row: Row) -> Outcome:
    """Return the outcome once it is committed. Raises Problem for one that is none."""
    (outcome,) = await writer.apply(batch, [row], range(1))
    if batch.is_still_running:
        raise still_running()
    if outcome.status >= 400:
        raise _refused(request, outcome)
    request[RECORD].outcomes[outcome.status] += 1
    return outcome


def _refused(request: web.Request, outcome: Outcome) -> Problem:
    """Return the problem that an item's outcome becomes where it is all of the request."""
    request[RECORD].outcomes[outcome.status] += 1
    headers = RETRY_AFTER if outcome.status == 503 else {}
    reason = "no_record" if outcome.status == 404 else "item"
    return Problem(outcome.status, outcome.body, headers, reason=reason)


def _no_record() -> Problem:
    return Problem(404, ABSENT, reason="no_record")


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
