"""A TCP proxy before PostgreSQL that cuts, stalls and swallows as a network would."""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Self
from urllib.parse import parse_qs, urlsplit

Fault = Callable[["Link", bytes], bytes | None]
"""Is shown what the service sends on one connection; returns what goes on, None for nothing."""


class Link:
    """One connection through the proxy."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._client = client
        self._server = server
        self.swallows_answers = False
        self.cutting: asyncio.Task[None] | None = None
        self.answered = asyncio.Event()

    def cut(self) -> None:
        """Reset both sides."""
        for writer in (self._client, self._server):
            connection = writer.get_extra_info("socket")
            if connection.fileno() >= 0 and connection.family != socket.AF_UNIX:
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()


class Proxy:
    """Forwards TCP connections to the server of a DSN, and harms them when told."""

    def __init__(self, dsn: str) -> None:
        self.target = dsn
        self._links: set[Link] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.fault: Fault | None = None
        self.answer_fault: Fault | None = None
        """As ``fault``, for what the server sends."""
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_error: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def dsn(self) -> str:
        """The target's DSN, by way of the proxy."""
        target = urlsplit(self.target)
        return f"postgresql://{target.username}@127.0.0.1:{self.port}{target.path}?sslmode=disable"

    def cut(self) -> None:
        """Reset all connections; new ones are accepted."""
        for link in list(self._links):
            link.cut()

    def stall(self) -> None:
        """Let no byte through from now on: every connection is half-open."""
        self._flows.clear()

    def resume(self) -> None:
        """Let bytes through again on new connections; those that stalled are lost."""
        self.cut()
        self._flows.set()

    async def _serve(
        self, client_reader: asyncio.StreamReader, client: asyncio.StreamWriter
    ) -> None:
        try:
            server_reader, server = await self._connect()
        except OSError:
            client.transport.abort()
            return
        link = Link(client, server)
        self._links.add(link)
        pumps = {
            asyncio.create_task(self._pump(link, client_reader, server, is_answer=False)),
            asyncio.create_task(self._pump(link, server_reader, client, is_answer=True)),
        }
        self._tasks |= pumps
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        link.cut()
        await asyncio.wait(pumps)
        self._tasks -= pumps
        self._links.discard(link)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        target = urlsplit(self.target)
        query = parse_qs(target.query)
        port = target.port or int(query.get("port", ["5432"])[0])
        host = target.hostname or query["host"][0]
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    async def _pump(
        self,
        link: Link,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        is_answer: bool,
    ) -> None:
        try:
            while data := await reader.read(65536):
                await self._flows.wait()
                if is_answer:
                    link.answered.set()
                    if link.swallows_answers:
                        continue
                else:
                    link.answered.clear()
                fault = self.answer_fault if is_answer else self.fault
                if fault is not None:
                    remains = fault(link, data)
                    if remains is None:
                        continue
                    data = remains
                writer.write(data)
                await writer.drain()
        except OSError:
            return
