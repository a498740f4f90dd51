"""A client of the service: one batch goes out, and its outcomes come back."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import NamedTuple

import aiohttp
import msgspec
from aiohttp import hdrs

from service.wire import (
    API_KEY_HEADER,
    BATCH_PATH,
    DATABASE_HEADER,
    IDEMPOTENCY_HEADER,
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


class Answer(NamedTuple):
    """The outcomes of all items of a batch; or none, why not, and when to send it again."""

    outcomes: list[MultiCodeResponse]
    reason: str = ""
    retry_after: float = 0


class Client:
    """The service at a URL, as one caller sees one of its databases."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url.rstrip("/") + BATCH_PATH

    async def put(self, items: Sequence[bytes], place: str) -> Answer:
        """Send a batch of items, each as JSON. Raises CouldNotSend and BatchRefused.

        The same items of the same place are the same request, which may be sent again.
        """
        body = b"[" + b",".join(items) + b"]"
        key = hashlib.sha256(place.encode() + body).hexdigest()
        try:
            async with self._session.put(
                self._url, data=body, headers={IDEMPOTENCY_HEADER: key}, allow_redirects=False
            ) as response:
                received = await response.read()
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError):
            raise CouldNotSend(
                "the server's certificate is not trusted; SSL_CERT_FILE may name a file of others"
            ) from None
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            return Answer([], "the service cannot be reached")
        except TimeoutError:
            return Answer([], "no answer came in time")
        except aiohttp.ClientError:
            return Answer([], "the connection broke")
        answer = _answer(response.status, response.headers.get(hdrs.RETRY_AFTER), received)
        if not answer.reason and len(answer.outcomes) != len(items):
            return Answer([], "the answer is incomplete")
        return answer


def _answer(status: int, retry_after: str | None, body: bytes) -> Answer:
    """Return what an answer says about its batch. Raises CouldNotSend and BatchRefused."""
    try:
        envelope = msgspec.json.decode(body, type=Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError):
        envelope = None
    if envelope and envelope.data is not None:
        return Answer(envelope.data)
    reason = f"the service answered {status}"
    if envelope and envelope.error:
        reason += f": {_printable(envelope.error.detail)}"
    is_busy = status == HTTPStatus.TOO_MANY_REQUESTS or (
        # The same batch is still at work, for an earlier run or another one.
        status == HTTPStatus.CONFLICT and retry_after is not None
    )
    if is_busy or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Answer([], reason, _seconds(retry_after))
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
