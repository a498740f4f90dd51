"""The service under test: credentials for it, a client of it, and a look behind it."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import aiohttp
import asyncpg
import jwt as pyjwt
from multidict import CIMultiDict
from yarl import URL

API_KEY = "the-key-of-the-loader"
SECOND_API_KEY = "another-secret-of-the-loader"
GUEST_KEY = "the-key-of-a-guest"
SECRET = "a secret of the tests that is long enough for every algorithm: HS512 wants 64 bytes"
PATH = "/care-case-clinical-trials-batch"
RECORDS = "/care-case-clinical-trials"
KEY = "careCaseClinicalTrial_Key"


def token(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """Return a bearer token; claims override or, as None, remove the usual ones."""
    usual: dict[str, Any] = {"sub": "tester", "exp": int(time.time()) + 600}
    merged = {name: value for name, value in {**usual, **claims}.items() if value is not None}
    return pyjwt.encode(merged, secret, algorithm=algorithm)


def credentials(database: str = "acme", key: str = API_KEY) -> dict[str, str]:
    """Return the headers of a valid request."""
    return {
        "x-api-key": key,
        "Authorization": f"Bearer {token()}",
        "vbasoftware-database": database,
        "Content-Type": "application/json",
    }


@dataclass
class Answer:
    """A response that was read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    envelope: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        assert self.headers["Cache-Control"] == "no-store"
        if self.status == 204:
            assert not self.body
            self.envelope = {}
            return
        self.envelope = json.loads(self.body)
        assert list(self.envelope) == ["data", "error", "debug"]

    @property
    def outcomes(self) -> list[tuple[str | None, int, str]]:
        """The outcomes as (key, status, body)."""
        assert self.status == 207, self.body
        for outcome in self.envelope["data"]:
            assert list(outcome) == ["id", "status", "body"]
            assert [pair["key"] for pair in outcome["id"]] == [KEY]
            assert outcome["body"]
        return [
            (outcome["id"][0]["value"], outcome["status"], outcome["body"])
            for outcome in self.envelope["data"]
        ]

    @property
    def statuses(self) -> list[int]:
        return [status for _, status, _ in self.outcomes]

    @property
    def keys(self) -> list[int]:
        """The records' keys, all of which must have been told."""
        keys = [key for key, _, _ in self.outcomes if key is not None]
        assert len(keys) == len(self.outcomes)
        return list(map(int, keys))

    @property
    def detail(self) -> str:
        """The detail of a whole-request error."""
        assert self.envelope["data"] is None
        assert self.envelope["error"]["status"] == self.status
        detail: str = self.envelope["error"]["detail"]
        return detail


@dataclass
class ServiceUnderTest:
    """A running service, the address it answers at, and its databases' DSNs."""

    url: str
    session: aiohttp.ClientSession
    databases: Mapping[str, str]

    async def put(
        self,
        batch: Sequence[Any] | bytes,
        *,
        database: str = "acme",
        headers: Mapping[str, str | None] | None = None,
        path: str = PATH,
        method: str = "PUT",
        is_chunked: bool = False,
    ) -> Answer:
        """Send a batch with valid credentials; headers override, or as None remove, the usual."""
        merged = CIMultiDict[str]()
        for name, value in {**credentials(database), **(headers or {})}.items():
            # Several lines of one header, line by line.
            for line in value.split("\n") if value is not None else ():
                merged.add(name, line)
        data = BytesIO(batch if isinstance(batch, bytes) else json.dumps(batch).encode())
        async with self.session.request(
            method,
            self.url + path,
            data=data,
            headers=merged,
            chunked=is_chunked or None,
            skip_auto_headers=["Content-Type", "Accept"],
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def ask(
        self,
        method: str,
        path: str = "",
        record: Any = None,
        *,
        database: str = "acme",
        headers: Mapping[str, str | None] | None = None,
    ) -> Answer:
        """Ask for what lies below the records' path; a record that is given is the body."""
        if not isinstance(record, bytes):
            record = b"" if record is None else json.dumps(record).encode()
        return await self.put(
            record,
            database=database,
            headers=headers,
            path=RECORDS + path,
            method=method,
        )

    async def send(self, body: bytes, encoding: str = "identity") -> int:
        """Send a body of any size with valid credentials, and return the status of the answer.

        The answer is read, and not looked at.
        """
        async with self.session.put(
            self.url + PATH,
            data=BytesIO(body),
            headers={**credentials(), "Content-Encoding": encoding},
        ) as response:
            async for _ in response.content.iter_any():
                pass
            return response.status

    async def fetch(self, query: str, *arguments: Any, database: str = "acme") -> list[Any]:
        """Return rows of a query on one of the databases, asked behind the service's back."""
        connection = await asyncpg.connect(self.databases[database])
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()

    async def execute(self, script: str, database: str = "acme") -> None:
        """Run statements on one of the databases, behind the service's back."""
        connection = await asyncpg.connect(self.databases[database])
        try:
            await connection.execute(script)
        finally:
            await connection.close()

    @property
    def port(self) -> int:
        """The TCP port at which it listens."""
        port = URL(self.url).port
        assert port is not None
        return port

    async def is_alive(self) -> bool:
        """Tell whether the process answers."""
        try:
            async with self.session.get(f"{self.url}/livez") as response:
                return response.status == 200
        except OSError:
            return False

    async def connect(self, database: str = "acme") -> Any:
        """Return a connection of the test's own to one of the databases."""
        return await asyncpg.connect(self.databases[database])

    @asynccontextmanager
    async def locked_table(self, database: str = "acme") -> AsyncIterator[None]:
        """Keep everybody else from the table meanwhile."""
        connection = await self.connect(database)
        try:
            await connection.execute("begin; lock table care_case_clinical_trial")
            yield
            await connection.execute("rollback")
        finally:
            await connection.close()

    async def raw(
        self, request: bytes, after_answer: bytes = b"", *, silent_seconds: float = 3
    ) -> bytes:
        """Send bytes as they are, then more once something came back; return all responses.

        They end where the service closes the connection, or is silent for ``silent_seconds``.
        """
        address = URL(self.url)
        assert address.host is not None
        reader, writer = await asyncio.open_connection(address.host, address.port)
        answer = b""
        try:
            writer.write(request)
            answer = await asyncio.wait_for(reader.read(65536), 10)
            writer.write(after_answer)
            while data := await asyncio.wait_for(reader.read(65536), silent_seconds):
                answer += data
        except (TimeoutError, ConnectionResetError):
            pass
        finally:
            writer.close()
        return answer

    def head(
        self, content_length: int, database: str = "acme", encoding: str = "identity"
    ) -> bytes:
        """Return the head of a request with valid credentials, for those who send it raw."""
        headers = {
            "Host": "x",
            **credentials(database),
            "Content-Encoding": encoding,
            "Content-Length": content_length,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"PUT {PATH} HTTP/1.1\r\n{lines}\r\n".encode()

    @asynccontextmanager
    async def sending(self, request: bytes) -> AsyncIterator[None]:
        """Send bytes, complete or not, and keep the connection open meanwhile."""
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        yield
        writer.close()

    async def send_without_reading(self, request: bytes) -> asyncio.StreamWriter:
        """Send a request on a connection with a tiny window that nobody reads from."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        address = URL(self.url)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, (address.host, address.port))
        _, writer = await asyncio.open_connection(sock=client, limit=1024)
        writer.write(request)
        await writer.drain()
        return writer

    @asynccontextmanager
    async def locked_row(self, key: int, database: str = "acme") -> AsyncIterator[None]:
        """Keep everybody else from a record meanwhile."""
        connection = await self.connect(database)
        try:
            await connection.execute(
                "begin; select from care_case_clinical_trial"
                f" where care_case_clinical_trial_key = {int(key)} for update"
            )
            yield
            await connection.execute("rollback")
        finally:
            await connection.close()

    async def comments(self, database: str = "acme") -> dict[int, str | None]:
        """Return the stored records' comments by key."""
        rows = await self.fetch(
            "select care_case_clinical_trial_key, comment from care_case_clinical_trial",
            database=database,
        )
        return dict(rows)
