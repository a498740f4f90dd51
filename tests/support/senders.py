"""The send command as a process, files for it, and a harmful server before the service."""

import asyncio
import csv
import io
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import web

from service.http.envelope import encode_envelope_end, encode_outcomes
from service.wire import ENVELOPE_START, IDEMPOTENCY_HEADER, Debug, Outcome
from tests.support.service import API_KEY, KEY, PATH, ServiceUnderTest, token

TOKEN = token()


class Run(NamedTuple):
    """How the command ended."""

    status: int
    stdout: str
    stderr: str


class Command:
    """Runs the command as people do, with the credentials in the environment.

    With ``--replace`` unless other options are given: most records in tests lack most fields.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._options = options or ("--replace",)

    async def start(
        self,
        *arguments: str,
        stderr: int = asyncio.subprocess.PIPE,
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "from service.send.command import send_command; send_command()",
            *self._options,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            cwd=self._folder,
            env={
                **os.environ,
                "PYTHONPATH": str(Path(__file__).parents[2]),
                "SERVICE_API_KEY": API_KEY,
                "SERVICE_TOKEN": TOKEN,
            },
        )

    async def run(self, *arguments: str, stdin: bytes = b"", seconds: float = 20) -> Run:
        process = await self.start(*arguments)
        return await self.end(process, stdin, seconds)

    async def end(
        self, process: asyncio.subprocess.Process, stdin: bytes = b"", seconds: float = 20
    ) -> Run:
        stdout, stderr = await asyncio.wait_for(process.communicate(stdin), seconds)
        assert process.returncode is not None
        for credential in (API_KEY, TOKEN):
            assert credential.encode() not in stdout + stderr
        return Run(process.returncode, stdout.decode(), stderr.decode())


def as_json(records: Sequence[Any]) -> bytes:
    return json.dumps(records, indent=1).encode()


def as_ndjson(records: Sequence[Any]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def as_csv(records: Sequence[Any]) -> bytes:
    text = io.StringIO()
    rows = csv.DictWriter(text, [KEY, "case_Key", "comment", "entry_Date"], restval="")
    rows.writeheader()
    rows.writerows(records)
    return text.getvalue().encode("utf-8-sig")


def failures(path: Path) -> list[tuple[int, int, str, Any]]:
    """Return the lines of a file of failed records."""
    lines = map(json.loads, path.read_text().splitlines())
    return [(line["record"], line["status"], line["reason"], line["item"]) for line in lines]


class Front:
    """A server in front of the service, or in its place, that harms requests as it is told.

    ``answers`` are used up one by one; then requests go on to the service, and every
    ``cut_every``-th answer of it is cut off. ``keys`` are the requests' idempotency keys.
    """

    def __init__(self, service: ServiceUnderTest | None = None) -> None:
        self._service = service
        self.answers: list[Callable[[web.Request, list[Any]], Awaitable[web.StreamResponse]]] = []
        self.batches: list[list[Any]] = []
        self.keys: list[str] = []
        self.cut_every = 0
        self.seconds = 0.0
        self.url = ""
        self.most_of_a_key: Counter[int] = Counter()
        self._in_work: list[list[int]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        batch = json.loads(body)
        self.batches.append(batch)
        key = request.headers[IDEMPOTENCY_HEADER]
        self.keys.append(key)
        is_cut = bool(self.cut_every) and len(self.keys) % self.cut_every == 0
        self._in_work.append([item[KEY] for item in batch])
        self.most_of_a_key |= Counter(chain.from_iterable(self._in_work))
        await asyncio.sleep(self.seconds)
        self._in_work.remove([item[KEY] for item in batch])
        if self.answers:
            return await self.answers.pop(0)(request, batch)
        if self._service is None:
            return web.Response(status=207, body=envelope((int(item[KEY]), 200) for item in batch))
        answer = await self._service.put(body, headers={IDEMPOTENCY_HEADER: key})
        if is_cut:
            return await cut(request, batch)
        return web.Response(status=answer.status, body=answer.body)


def envelope(pairs: Iterable[tuple[int, int]]) -> bytes:
    """Return an envelope of outcomes by (key, status)."""
    told = [Outcome(key, status, "told") for key, status in pairs]
    return ENVELOPE_START + encode_outcomes(told) + encode_envelope_end(Debug("1"))


def outcomes(*pairs: tuple[int, int], is_cut: bool = False) -> Callable[..., Any]:
    """Answer with outcomes of (key, status); cut off the connection before the envelope ends."""

    async def answer(request: web.Request, _batch: list[Any]) -> web.StreamResponse:
        text = envelope(pairs)
        if not is_cut:
            return web.Response(status=207, body=text)
        response = web.StreamResponse(status=207)
        await response.prepare(request)
        await response.write(text.partition(b'],"error')[0] + b',{"id":[{"key"')
        await asyncio.sleep(0.05)
        assert request.transport is not None
        request.transport.abort()
        return response

    return answer


def problem(status: int, retry_after: str | None = None) -> Callable[..., Any]:
    """Answer with a whole-request error of the service."""

    async def answer(request: web.Request, _batch: list[Any]) -> web.StreamResponse:
        error = {"type": "x", "title": "x", "status": status, "detail": "x", "instance": "/"}
        return web.json_response(
            {"data": None, "error": error, "debug": {"activityID": "1"}},
            status=status,
            headers={"Retry-After": retry_after} if retry_after else {},
        )

    return answer


async def cut(request: web.Request, _batch: list[Any]) -> web.StreamResponse:
    """Cut off the connection instead of an answer, if the client has not done so."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def bad_gateway(_request: web.Request, _batch: list[Any]) -> web.StreamResponse:
    """Answer as a proxy does that may or may not have reached the service."""
    return web.Response(status=503, text="<html>upstream reset</html>")


@asynccontextmanager
async def serving(front: Front) -> AsyncIterator[Front]:
    """Let the front answer at its URL meanwhile."""
    app = web.Application()
    app.router.add_put(PATH, front.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    front.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield front
    finally:
        await runner.cleanup()


async def batches_of(front: Front, count: int) -> None:
    """Wait until the front has seen so many."""
    async with asyncio.timeout(10):
        while len(front.batches) < count:
            await asyncio.sleep(0.01)
