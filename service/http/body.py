"""The request's body to bytes: media type, content encoding, size limit."""

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
from service.items.json_scanner import MalformedBody
from service.items.split import Chunk, split_batch
from service.telemetry import metrics

MAX_UNINTERRUPTED_BYTES = 16 * 1024
"""A body of which no part takes so long that others would miss their turn."""

_JSON_TYPES = ("application/json", "text/json")


class BodyReader:
    """Reads bodies, as long as they are declared right, come steadily and are not too large."""

    def __init__(self, max_bytes: int, tuning: Tuning, advice: str = "; send it in parts") -> None:
        self._max_bytes = max_bytes
        self._advice = advice
        self._body_idle_seconds = tuning.body_idle_seconds
        self._bytes_per_second = tuning.body_bytes_per_second

    async def read(self, request: web.Request, byte_count: BodyByteCount) -> bytearray:
        """Ask for the body where the client waits for that, and return it decompressed.

        Raises Problem 413 as soon as it is longer than ``max_body_bytes``, 400 when it cannot be
        decompressed, is cut short, stops coming or comes too slowly, and 503 when there is no
        room for it.
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
                # The compressed bytes count as well: members can be empty.
                if max(received, len(body)) > self._max_bytes:
                    raise self._make_too_large_problem()
                byte_count.increase_to(len(body))
                if inflater:
                    # A few bytes may become many, and take long: others get a turn.
                    await asyncio.sleep(0)

        try:
            if request.content.is_eof():
                # A small body came with the headers; a timer would cost more than reading it.
                await add(request.content.read_nowait())
            else:
                await self._read_steadily(request.content, add)
        except TimeoutError:
            raise Problem(
                400,
                f"The body stopped coming for {self._body_idle_seconds:g} seconds, or came at less"
                f" than {self._bytes_per_second:g} bytes a second.",
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
        size = f"{self._max_bytes} bytes after decompression"
        return Problem(413, f"The body is larger than {size}{self._advice}.", reason="body_bytes")

    async def _read_steadily(
        self, content: StreamReader, add: Callable[[bytes], Awaitable[None]]
    ) -> None:
        """Take a body as it comes. Raises TimeoutError if it comes too slowly."""
        loop, received = asyncio.get_running_loop(), 0
        first_deadline = loop.time() + self._body_idle_seconds
        async with asyncio.timeout_at(first_deadline) as limit:
            async for data in content.iter_any():
                received += len(data)
                await add(data)
                rate_deadline = first_deadline + received / self._bytes_per_second
                limit.reschedule(min(loop.time() + self._body_idle_seconds, rate_deadline))


async def split_body(body: bytes | bytearray, max_items: int, max_item_bytes: int) -> list[Chunk]:
    """Return the chunks of a body that is valid JSON to its end, before any is applied.

    Raises Problem 400, TooManyItems and ItemTooLarge.
    """
    chunks: list[Chunk] = []
    try:
        for chunk in split_batch(body, max_items, max_item_bytes):
            if chunk is not None:
                chunks.append(chunk)
            if len(body) > MAX_UNINTERRUPTED_BYTES:
                await asyncio.sleep(0)
    except MalformedBody as error:
        raise Problem(400, str(error), reason="json") from None
    return chunks


def check_media_type(request: web.Request) -> None:
    """Raise Problem 415 unless the body is declared as JSON in UTF-8, plain or compressed.

    Raises Problem 400 for a transfer coding but chunked (RFC 9112 section 6.1).
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
            "Expected Transfer-Encoding chunked or none; compress by Content-Encoding instead.",
            {hdrs.CONNECTION: "close"},
            reason="transfer_encoding",
        )


def _read_encoding(request: web.Request) -> str:
    name = ",".join(request.headers.getall(hdrs.CONTENT_ENCODING, [])).strip().lower()
    return name.removeprefix("x-") if name == "x-gzip" else name


MAX_SLICE_BYTES = 16 * 1024
"""Of compressed data, taken at a time: what is left of it is copied for each member."""

MAX_PIECE_BYTES = 256 * 1024
"""Of decompressed data at most, between two turns for others."""

MAX_GZIP_MEMBERS = 4096
"""Of a gzip body at most; enough for 128 MiB in the blocks of bgzip."""

_TOO_MANY_MEMBERS = f"more than {MAX_GZIP_MEMBERS} members; compress it as one"


class _Inflater:
    """Decompresses gzip with several members (RFC 1952), and deflate in both of its
    forms: zlib's (RFC 1950), and the bare one (RFC 1951) that some clients send."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._decompressor: Any = None
        self._members = 0
        self.is_complete = True

    def inflate(self, data: bytes) -> Iterator[bytes]:
        """Yield what the data expands to, in pieces, each after a bounded amount of work.

        Raises zlib.error.
        """
        for start in range(0, len(data), MAX_SLICE_BYTES):
            yield from self._inflate_slice(data[start : start + MAX_SLICE_BYTES])
            yield b""

    def _inflate_slice(self, data: bytes) -> Iterator[bytes]:
        piece = b""
        # A full piece may have left something behind although all data was taken in.
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
