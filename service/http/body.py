"""The request's body to bytes: media type, content encoding, size limit."""

import asyncio
import zlib
from typing import Any

from aiohttp import hdrs, web
from aiohttp.http_exceptions import ContentLengthError, TransferEncodingError

from service.http.admission import BodyBytes
from service.http.envelope import Problem

_JSON_TYPES = ("application/json", "text/json")


class BodyReader:
    """Reads bodies, as long as they are declared right, come steadily and are not too large."""

    def __init__(self, max_bytes: int, silence_seconds: float) -> None:
        self._max_bytes = max_bytes
        self._silence_seconds = silence_seconds

    async def read(self, request: web.Request, counted: BodyBytes) -> bytearray:
        """Return the decompressed body.

        Raises Problem 413 as soon as it is longer than ``max_body_bytes``, 400 when it cannot be
        decompressed, is cut short or stops coming, and 503 when there is no room for it.
        """
        max_bytes, silence_seconds = self._max_bytes, self._silence_seconds
        if (request.content_length or 0) > max_bytes:
            raise _too_large(max_bytes)
        encoding = _encoding(request)
        inflater = _Inflater(encoding) if encoding in ("gzip", "deflate") else None
        body = bytearray()
        loop = asyncio.get_running_loop()

        def add(data: bytes) -> None:
            nonlocal body
            body += data if inflater is None else inflater.inflate(data, max_bytes + 1 - len(body))
            if len(body) > max_bytes:
                raise _too_large(max_bytes)
            counted.grow_to(len(body))

        try:
            if request.content.is_eof():
                # A small body came with the headers; a timer would cost more than reading it.
                add(request.content.read_nowait())
            else:
                async with asyncio.timeout(silence_seconds) as silence:
                    async for data in request.content.iter_any():
                        add(data)
                        silence.reschedule(loop.time() + silence_seconds)
        except TimeoutError:
            raise Problem(
                400,
                f"The body stopped coming for {silence_seconds:g} seconds.",
                {hdrs.CONNECTION: "close"},
                reason="body_incomplete",
            ) from None
        except (web.RequestPayloadError, ContentLengthError, TransferEncodingError):
            raise Problem(
                400, "The body ended before it was complete.", reason="body_incomplete"
            ) from None
        except zlib.error:
            raise Problem(
                400, f"The body is not valid {encoding} data.", reason="content_encoding"
            ) from None
        if inflater is not None and not inflater.is_complete:
            raise Problem(
                400,
                f"The {encoding} data ended before it was complete.",
                reason="content_encoding",
            )
        return body


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
    if _encoding(request) not in ("", "identity", "gzip", "deflate"):
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


def _encoding(request: web.Request) -> str:
    name = ",".join(request.headers.getall(hdrs.CONTENT_ENCODING, [])).strip().lower()
    return name.removeprefix("x-") if name == "x-gzip" else name


def _too_large(max_bytes: int) -> Problem:
    return Problem(
        413,
        f"The body is larger than {max_bytes} bytes after decompression; send it in parts.",
        reason="body_bytes",
    )


class _Inflater:
    """Decompresses gzip with any number of members (RFC 1952), and deflate in both of its
    forms: zlib's (RFC 1950), and the bare one (RFC 1951) that some clients send."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._decompressor: Any = None
        self.is_complete = True

    def inflate(self, data: bytes, limit: int) -> bytes:
        """Return at most ``limit`` bytes, however much the data would expand to."""
        inflated = bytearray()
        while data and len(inflated) < limit:
            if self._decompressor is None:
                self._decompressor = zlib.decompressobj(self._window(data))
            inflated += self._decompressor.decompress(data, limit - len(inflated))
            self.is_complete = self._decompressor.eof
            if not self.is_complete:
                break
            data = self._decompressor.unused_data
            if self._encoding == "deflate" and data:
                raise zlib.error("trailing data")
            self._decompressor = None
        return bytes(inflated)

    def _window(self, data: bytes) -> int:
        if self._encoding == "gzip":
            return 16 + zlib.MAX_WBITS
        return zlib.MAX_WBITS if data[0] & 0x0F == 8 else -zlib.MAX_WBITS
