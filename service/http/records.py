"""The handlers of single records and of pages of records.

Contract section 1, "One record".
"""

import asyncio
import codecs
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from aiohttp import hdrs, web
from msgspec.structs import astuple

from service.config import Server, Tuning
from service.engine import reading
from service.engine.reading import Page, PageTooLarge
from service.engine.rows import Batch, Mode, Row
from service.engine.statement import NOT_FOUND
from service.engine.writer import Writer
from service.engine.writers import WriterRegistry
from service.http.access import Access
from service.http.admission import Admission, BodyByteCount
from service.http.body import BodyReader, check_media_type, split_body
from service.http.envelope import REQUEST_RECORD, Problem, make_envelope_response
from service.http.idempotency import (
    RETRY_AFTER,
    check_body,
    make_batch,
    make_still_running_problem,
    read_idempotency_key,
)
from service.http.query import read_page_query, read_path_key
from service.items.decode import BatchDecoder
from service.items.json_scanner import MalformedBody, NestedTooDeeply, find_error, malformed
from service.items.split import Chunk, TooManyItems
from service.telemetry.logs import without_message
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


@dataclass
class RecordHandler:
    """The handlers of ``{base_path}/care-case-clinical-trials`` and ``…/{key}``."""

    settings: Server
    tuning: Tuning
    access: Access
    admission: Admission
    writers: WriterRegistry

    def __post_init__(self) -> None:
        max_bytes = min(self.settings.max_item_bytes, self.settings.max_body_bytes)
        self._reader = BodyReader(max_bytes, self.tuning, advice="")
        self._decoder = BatchDecoder(ignore_unknown_fields=self.settings.ignore_unknown_fields)

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Return the record with the key in the path. Raises Problem 404 if it does not exist."""
        caller, database = await self.access.grant(request, "read")
        key = read_path_key(request)
        with self.admission.count_batch(caller.name, database):
            record = await self._find(request, database, key)
        if record is None:
            raise _make_not_found_problem()
        return _make_record_response(request, 200, record)

    async def list_page(self, request: web.Request) -> web.StreamResponse:
        """Return the page of records that the query asks for.

        Raises Problem 400 for a page with too much text.
        """
        caller, database = await self.access.grant(request, "read")
        number, size, sorting = read_page_query(request)
        max_bytes = self.settings.max_page_bytes
        with self.admission.count_batch(caller.name, database) as byte_count:
            pool = (await self.writers.get(database)).pool
            try:
                page = await reading.page(
                    pool,
                    sorting,
                    offset=(number - 1) * size,
                    limit=size,
                    max_bytes=max_bytes,
                    activity_id=request[REQUEST_RECORD].activity_id,
                )
            except PageTooLarge:
                raise Problem(
                    400,
                    f"The page has more than {max_bytes} bytes; ask for a smaller pageSize.",
                    reason="page_bytes",
                ) from None
            # Only a single record can be larger; it counts as a full page, so that it always fits.
            byte_count.increase_to(min(page.size, max_bytes))
            response = _make_page_response(request, page, number, size)
            # Sent here, so that the page counts until a slow client has read it.
            try:
                async with asyncio.timeout(self.tuning.write_seconds):
                    await response.prepare(request)
                    await response.write_eof()
            except TimeoutError:
                raise ConnectionError("the client reads no more") from None
            return response

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Create a record. With an Idempotency-Key the request is safe to retry.

        Raises Problem 409 if the record exists; for other problems see check_body().
        """
        caller, database = await self.access.grant(request, "write")
        check_media_type(request)
        key = read_idempotency_key(request)
        with self.admission.count_batch(caller.name, database) as byte_count:
            body, item = await self._read_item(request, byte_count)
            writer = await self.writers.get(database)
            wait_seconds = self.settings.idempotency_wait_seconds
            batch = make_batch(request, caller, key, body, Mode.CREATE, wait_seconds=wait_seconds)
            if key is not None:
                await check_body(writer.requests, batch, body)
            try:
                outcome = await _apply(request, writer, batch, astuple(item))
            finally:
                writer.requests.release(batch)
            return await self._respond_with_stored(request, database, outcome)

    async def replace(self, request: web.Request) -> web.StreamResponse:
        """Replace a record. Raises Problem 404 if it does not exist."""
        caller, database = await self.access.grant(request, "write")
        key = read_path_key(request)
        check_media_type(request)
        with self.admission.count_batch(caller.name, database) as byte_count:
            body, item = await self._read_item(request, byte_count)
            if item.care_case_clinical_trial_key != key:
                got = item.care_case_clinical_trial_key
                raise Problem(
                    400,
                    f"{KEY_FIELD}: must match the key in the path ({key}), got {got}",
                    reason="item",
                )
            if key == 0:
                raise _make_not_found_problem()
            writer = await self.writers.get(database)
            batch = make_batch(request, caller, None, body, Mode.REPLACE)
            outcome = await _apply(request, writer, batch, astuple(item))
            return await self._respond_with_stored(request, database, outcome)

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Delete a record. Raises Problem 404 if it does not exist."""
        caller, database = await self.access.grant(request, "delete")
        key = read_path_key(request)
        if key == 0:
            raise _make_not_found_problem()
        with self.admission.count_batch(caller.name, database):
            writer = await self.writers.get(database)
            batch = make_batch(request, caller, None, bytearray(), Mode.DELETE)
            row = (key, *[None] * (len(Item.__struct_fields__) - 1))
            await _apply(request, writer, batch, row)
        return web.Response(status=204)

    async def _read_item(
        self, request: web.Request, byte_count: BodyByteCount
    ) -> tuple[bytearray, Item]:
        """Return the body and its item. Raises Problem if either is invalid."""
        body = await self._reader.read(request, byte_count)
        array = b"[" + body.removeprefix(codecs.BOM_UTF8) + b"]"
        decoded = self._decoder.decode(array, await _only_chunk(body, array))
        for outcome in decoded.refusals.values():
            raise _make_item_problem(request, outcome)
        return body, decoded.items[0]

    async def _respond_with_stored(
        self, request: web.Request, database: str, outcome: Outcome
    ) -> web.StreamResponse:
        """Return the stored record; null if it cannot be read, because it is committed anyway."""
        headers: dict[str, str] = {}
        if outcome.status == 201:
            headers[hdrs.LOCATION] = f"{request.path}/{outcome.key}"
        stored = None
        try:
            stored = await self._find(request, database, outcome.key or 0)
        except Exception as error:
            logger.exception("the stored record cannot be read", exc_info=without_message(error))
        return _make_record_response(request, outcome.status, stored, headers)

    async def _find(self, request: web.Request, database: str, key: int) -> Item | None:
        pool = (await self.writers.get(database)).pool
        return await reading.find(pool, key, request[REQUEST_RECORD].activity_id)


async def _only_chunk(body: bytearray, array: bytes) -> Chunk:
    """Return the place of the only item in an array around the body. Raises Problem 400."""
    try:
        chunks = await split_body(array, 1, len(array))
    except (MalformedBody, TooManyItems) as error:
        raise Problem(400, _describe_malformed(body, error), reason="json") from None
    if not chunks:
        raise Problem(400, "The body is empty; expected a JSON object.", reason="json")
    return chunks[0]


def _describe_malformed(body: bytearray, error: Exception) -> str:
    """Return why the body is not one JSON value: the array around it has other offsets."""
    record = body.removeprefix(codecs.BOM_UTF8)
    try:
        found = find_error(bytes(record))
    except NestedTooDeeply as nested:
        error, found = nested, None
    if found is None:
        return str(error)
    reason, offset = found
    return str(malformed(reason, offset + len(body) - len(record)))


async def _apply(request: web.Request, writer: Writer, batch: Batch, row: Row) -> Outcome:
    """Return the outcome of a committed row. Raises Problem for a failed one."""
    (outcome,) = await writer.apply(batch, [row], range(1))
    if batch.is_still_running:
        raise make_still_running_problem()
    if outcome.status >= 400:
        raise _make_item_problem(request, outcome)
    request[REQUEST_RECORD].outcomes[outcome.status] += 1
    return outcome


def _make_item_problem(request: web.Request, outcome: Outcome) -> Problem:
    """Return an item's failed outcome as the problem of its request, and count the outcome."""
    request[REQUEST_RECORD].outcomes[outcome.status] += 1
    headers = RETRY_AFTER if outcome.status == 503 else {}
    reason = "not_found" if outcome.status == 404 else "item"
    return Problem(outcome.status, outcome.body, headers, reason=reason)


def _make_not_found_problem() -> Problem:
    return Problem(404, NOT_FOUND, reason="not_found")


def _make_record_response(
    request: web.Request, status: int, record: Item | None, headers: Mapping[str, str] | None = None
) -> web.Response:
    envelope = RecordEnvelope(
        data=record, error=None, debug=Debug(request[REQUEST_RECORD].activity_id)
    )
    return make_envelope_response(request, envelope, status, headers or {})


def _make_page_response(request: web.Request, page: Page, number: int, size: int) -> web.Response:
    pagination = Pagination(page.total, -(-page.total // size), number, size)
    debug = Debug(request[REQUEST_RECORD].activity_id)
    envelope = RecordListEnvelope(data=page.records, error=None, debug=debug)
    headers = {PAGINATION_HEADER: msgspec.json.encode(pagination).decode()}
    return make_envelope_response(request, envelope, 200, headers)
