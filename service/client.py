"""A client of the service: one batch goes out, and what is known of it afterwards comes back."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from json import JSONDecodeError, JSONDecoder
from typing import NamedTuple

import aiohttp
import msgspec
from aiohttp import hdrs

from service.wire import (
    API_KEY_HEADER,
    BATCH_PATH,
    DATABASE_HEADER,
    ENVELOPE_START,
    Envelope,
    MultiCodeResponse,
)

CONNECT_SECONDS = 10


class CouldNotSend(Exception):
    """No batch can be sent now; the message says why."""


class BatchRefused(Exception):
    """The service refuses a whole batch for what is in it, or for its size."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class _ConnectionLost(Exception):
    """The connection broke when some of the request may have been sent."""


class Answer(NamedTuple):
    """The outcomes of the first items of a batch that were read, and why not those of the others.

    ``is_untouched`` tells that nothing was done about the others.
    """

    outcomes: list[MultiCodeResponse]
    reason: str = ""
    is_untouched: bool = False
    retry_after: float = 0


class Client:
    """The service at a URL, as one caller sees one of its databases."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url.rstrip("/") + BATCH_PATH

    async def put(self, items: Sequence[bytes]) -> Answer:
        """Send a batch of items, each as JSON, once. Raises CouldNotSend and BatchRefused."""
        body = b"[" + b",".join(items) + b"]"
        received = bytearray()
        status = 0
        try:
            async with self._session.put(
                self._url, data=body, allow_redirects=False, middlewares=(_once,)
            ) as response:
                status = response.status
                async for piece in response.content.iter_any():
                    received += piece
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError):
            raise CouldNotSend(
                "the server's certificate is not trusted; SSL_CERT_FILE may name a file of others"
            ) from None
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            return Answer([], "the service cannot be reached", is_untouched=True)
        except (_ConnectionLost, aiohttp.ClientError, TimeoutError) as error:
            is_late = isinstance(error, TimeoutError)
            broken = "no answer came in time" if is_late else "the connection broke"
            return Answer(_complete_outcomes(received) if status == 207 else [], broken)
        return _answer(status, response.headers.get(hdrs.RETRY_AFTER), bytes(received))


async def _once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from sending again by itself, as it does with every PUT that breaks.

    Records without a key would be created twice.
    """
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _ConnectionLost from error


def _complete_outcomes(received: bytes | bytearray) -> list[MultiCodeResponse]:
    """Return the outcomes of an envelope that was cut off, as far as they are complete."""
    outcomes: list[MultiCodeResponse] = []
    text = received.decode(errors="replace")
    end = len(ENVELOPE_START)
    if not received.startswith(ENVELOPE_START):
        return outcomes
    try:
        while True:
            value, end = JSONDecoder().raw_decode(text, end)
            outcomes.append(msgspec.convert(value, MultiCodeResponse))
            end += 1
    except (JSONDecodeError, msgspec.ValidationError):
        return outcomes


def _answer(status: int, retry_after: str | None, body: bytes) -> Answer:
    """Return what an answer says about its batch. Raises CouldNotSend and BatchRefused."""
    try:
        envelope = msgspec.json.decode(body, type=Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError):
        envelope = None
    if status == HTTPStatus.MULTI_STATUS or (envelope and envelope.data is not None):
        outcomes = (envelope.data or []) if envelope else _complete_outcomes(body)
        return Answer(outcomes, "the answer is incomplete")
    problem = envelope.error if envelope else None
    reason = f"the service answered {status}"
    if problem is not None:
        reason += f": {_printable(problem.detail)}"
    is_of_service = problem is not None and problem.status == status
    if status == HTTPStatus.TOO_MANY_REQUESTS or (
        # A proxy's 503 may well come after the service has had the batch.
        status == HTTPStatus.SERVICE_UNAVAILABLE and is_of_service
    ):
        return Answer([], reason, is_untouched=True, retry_after=_seconds(retry_after))
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Answer([], reason, retry_after=_seconds(retry_after))
    if status in (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE):
        raise BatchRefused(status, reason)
    if status < HTTPStatus.BAD_REQUEST:
        reason += ", as the service never does; check the URL"
    raise CouldNotSend(reason)


def _printable(detail: str) -> str:
    return "".join(filter(str.isprintable, detail))[:500]


def _seconds(retry_after: str | None) -> float:
    """Return how long a Retry-After header asks to wait: seconds or an HTTP date."""
    if retry_after is None:
        return 0
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after[:9])
    try:
        moment = parsedate_to_datetime(retry_after)
    except ValueError:
        return 0
    return max(0.0, (moment.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds())


@asynccontextmanager
async def connect(
    url: str, database: str, api_key: str, token: str, *, patience: float, concurrency: int
) -> AsyncIterator[Client]:
    """Open the connections to a service, which speak for one caller and wait so many seconds."""
    headers = {
        API_KEY_HEADER: api_key,
        hdrs.AUTHORIZATION: f"Bearer {token}",
        DATABASE_HEADER: database,
        hdrs.CONTENT_TYPE: "application/json",
        hdrs.ACCEPT: "application/json",
    }
    async with aiohttp.ClientSession(
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=patience, sock_connect=min(CONNECT_SECONDS, patience)),
        connector=aiohttp.TCPConnector(limit=concurrency),
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        yield Client(session, url)
