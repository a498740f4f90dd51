"""Request body to bytes: media type, content encoding, size and speed limits."""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from aiohttp import StreamReader, hdrs, web
from aiohttp.http_exceptions import ContentLengthError, TransferEncodingError

from service.config import Tuning
from service.http.admission import BodyByteCount
from service.http.envelope import REQUEST_RECORD, Problem
from service.http.expect_continue import ask_for_body
from service.items.split import Chunk, split_batch
from service.telemetry import metrics

MAX_UNINTERRUPTED_BYTES = 16 * 1024
"""Size up to which a body is split without giving other requests a turn."""

_JSON_TYPES = ("application/json", "text/json")


class BodyReader:
    """Reads request bodies within limits of size and speed.

    ``advice`` ends the message for a body that is too large.
    """

    def __init__(self, max_bytes: int, tuning: Tuning, advice: str = "; split the batch") -> None:
        self._max_bytes = max_bytes
        self._advice = advice
        self._body_idle_seconds = tuning.body_idle_seconds
        self._bytes_per_second = tuning.body_bytes_per_second

    async def read(self, request: web.Request, byte_count: BodyByteCount) -> bytearray:
        """Return the decompressed body; send "100 Continue" first if the client waits for that.

        Raises Problem 413 as soon as the body exceeds the limit, 400 if it cannot be decompressed,
        is incomplete, stalls or is too slow, and 503 if there is no room for it.
        """
        if (request.content_length or 0) > self._max_bytes:
            raise self._make_too_large_problem()
        await ask_for_body(request)
        encoding = _read_encoding(request)
        inflater = _Inflater(encoding) if encoding in ("gzip", "deflate") else None
        body, received = bytearray(), 0

        async def add(data: bytes) -> None:
            nonlocal body, received
            received += len(data)
            for piece in inflater.inflate(data) if inflater else (data,):
                body += piece
                # Compressed bytes count as well, because gzip members can be empty.
                if max(received, len(body)) > self._max_bytes:
                    raise self._make_too_large_problem()
                byte_count.increase_to(len(body))
                if inflater:
                    # A few bytes can expand to many; other requests get a turn.
                    await asyncio.sleep(0)

        try:
            if request.content.is_eof():
                # A small body arrived with the headers; a timer would cost more than reading it.
                await add(request.content.read_nowait())
            else:
                await self._read_steadily(request.content, add)
        except TimeoutError:
            raise Problem(
                400,
                f"The body stalled for {self._body_idle_seconds:g} seconds, or arrived at less"
                f" than {self._bytes_per_second:g} bytes per second.",
                {hdrs.CONNECTION: "close"},
                reason="body_incomplete",
            ) from None
        except (web.RequestPayloadError, ContentLengthError, TransferEncodingError):
            raise Problem(
                400, "The body ended before it was complete.", reason="body_incomplete"
            ) from None
        except zlib.error as error:
            why = f": {error}" if error.args == (_TOO_MANY_MEMBERS,) else ""
            raise Problem(
                400, f"The body is not valid {encoding} data{why}.", reason="content_encoding"
            ) from None
        if inflater is not None and not inflater.is_complete:
            raise Problem(
                400,
                f"The {encoding} data ended before it was complete.",
                reason="content_encoding",
            )
        record = request[REQUEST_RECORD]
        record.bytes = len(body)
        metrics.BODY_BYTES.labels(record.database).inc(len(body))
        return body

    def _make_too_large_problem(self) -> Problem:
        size = f"{self._max_bytes} bytes (uncompressed)"
        return Problem(413, f"The body exceeds {size}{self._advice}.", reason="body_bytes")

    async def _read_steadily(
        self, content: StreamReader, add: Callable[[bytes], Awaitable[None]]
    ) -> None:
        """Pass data on as it arrives. Raises TimeoutError if the body stalls or is too slow."""
        loop, received = asyncio.get_running_loop(), 0
        first_deadline = loop.time() + self._body_idle_seconds
        async with asyncio.timeout_at(first_deadline) as limit:
            async for data in content.iter_any():
                received += len(data)
                await add(data)
                rate_deadline = first_deadline + received / self._bytes_per_second
                limit.reschedule(min(loop.time() + self._body_idle_seconds, rate_deadline))


async def split_body(body: bytes | bytearray, max_items: int, max_item_bytes: int) -> list[Chunk]:
    """Return all chunks of a body, so that none is applied unless the whole body is valid JSON.

    Raises MalformedBody, TooManyItems and ItemTooLarge.
    """
    chunks: list[Chunk] = []
    for chunk in split_batch(body, max_items, max_item_bytes):
        if chunk is not None:
            chunks.append(chunk)
        if len(body) > MAX_UNINTERRUPTED_BYTES:
            await asyncio.sleep(0)
    return chunks


def check_media_type(request: web.Request) -> None:
    """Check the declared media type, charset and encodings of the body.

    Raises Problem 415 unless the body is JSON in UTF-8, uncompressed or with gzip or deflate, and
    Problem 400 for a transfer coding other than chunked (RFC 9112 section 6.1).
    """
    content_type = request.content_type
    is_suffixed = content_type.startswith("application/") and content_type.endswith("+json")
    if content_type not in _JSON_TYPES and not is_suffixed:
        raise Problem(
            415,
            "Expected Content-Type application/json, text/json or application/*+json,"
            f" got {request.headers.get(hdrs.CONTENT_TYPE, 'none')[:100]}.",
            reason="media_type",
        )
    charset = request.charset
    if charset is not None and charset.strip("\"'").lower() not in ("utf-8", "utf8"):
        raise Problem(415, f"Expected charset utf-8, got {charset[:100]}.", reason="media_type")
    if _read_encoding(request) not in ("", "identity", "gzip", "deflate"):
        raise Problem(
            415,
            "Expected Content-Encoding gzip, deflate or none,"
            f" got {request.headers[hdrs.CONTENT_ENCODING][:100]}.",
            {hdrs.ACCEPT_ENCODING: "gzip, deflate"},
            reason="content_encoding",
        )
    if request.headers.get(hdrs.TRANSFER_ENCODING, "chunked").strip().lower() != "chunked":
        raise Problem(
            400,
            "Expected Transfer-Encoding chunked or none; declare compression in Content-Encoding.",
            {hdrs.CONNECTION: "close"},
            reason="transfer_encoding",
        )


def _read_encoding(request: web.Request) -> str:
    name = ",".join(request.headers.getall(hdrs.CONTENT_ENCODING, [])).strip().lower()
    return name.removeprefix("x-") if name == "x-gzip" else name


MAX_SLICE_BYTES = 16 * 1024
"""Compressed bytes per step; zlib copies the unused ones for each gzip member."""

MAX_PIECE_BYTES = 256 * 1024
"""Maximum decompressed bytes between two turns of other requests."""

MAX_GZIP_MEMBERS = 4096
"""Maximum number of members in a gzip body; enough for 128 MiB in bgzip's blocks."""

_TOO_MANY_MEMBERS = f"more than {MAX_GZIP_MEMBERS} members; compress it as one"


class _Inflater:
    """Decompressor for gzip and deflate.

    gzip can have several members (RFC 1952). deflate is accepted in zlib's format (RFC 1950) and in
    the raw one that some clients send (RFC 1951).
    """

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._decompressor: Any = None
        self._members = 0
        self.is_complete = True

    def inflate(self, data: bytes) -> Iterator[bytes]:
        """Yield the decompressed data in pieces, each after a bounded amount of work.

        Raises zlib.error for invalid data.
        """
        for start in range(0, len(data), MAX_SLICE_BYTES):
            yield from self._inflate_slice(data[start : start + MAX_SLICE_BYTES])
            yield b""

    def _inflate_slice(self, data: bytes) -> Iterator[bytes]:
        piece = b""
        # After a full piece, zlib can have output left even if it has consumed all data.
        while data or len(piece) == MAX_PIECE_BYTES:
            if self._decompressor is None:
                if not data:
                    return
                self._decompressor = self._start_member(data)
            piece = self._decompressor.decompress(data, MAX_PIECE_BYTES)
            self.is_complete = self._decompressor.eof
            if self.is_complete:
                data = self._decompressor.unused_data
                if self._encoding == "deflate" and data:
                    raise zlib.error("trailing data")
                self._decompressor = None
            else:
                data = self._decompressor.unconsumed_tail
            if piece:
                yield piece

    def _start_member(self, data: bytes) -> Any:
        self._members += 1
        if self._members > MAX_GZIP_MEMBERS:
            raise zlib.error(_TOO_MANY_MEMBERS)
        if self._encoding == "gzip":
            return zlib.decompressobj(16 + zlib.MAX_WBITS)
        return zlib.decompressobj(zlib.MAX_WBITS if data[0] & 0x0F == 8 else -zlib.MAX_WBITS)
