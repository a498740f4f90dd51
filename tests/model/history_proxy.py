"""The way between a service and the database: it delays, as networks and poolers do."""

import asyncio

from tests.support.proxy import Link, Proxy

STATEMENT_MARK = b"the study of"
"""What is in the messages that carry items to the database."""


class Way(Proxy):
    """A proxy that may also deliver late what it held back."""

    _delayed: Link | None = None

    def deliver(self) -> None:
        """Let bytes through again, first those that have waited."""
        self._flows.set()

    async def delay_a_statement(self, seconds: float, *, is_cut: bool) -> None:
        """Deliver the next statement with items so much later, whatever its sender does.

        To the sender its connection is cut at once, or only slow.
        """
        held = bytearray()
        is_held = asyncio.Event()

        def hold(link: Link, data: bytes) -> bytes | None:
            if self._delayed is None and STATEMENT_MARK in data:
                self._delayed = link
                is_held.set()
            if self._delayed is not link:
                return data
            held.extend(data)
            return None

        self.fault = hold
        try:
            async with asyncio.timeout(1):
                await is_held.wait()
            assert self._delayed is not None
            if is_cut:
                self._delayed._client.transport.abort()
            await asyncio.sleep(seconds)
            self._delayed._server.write(bytes(held))
            self.fault = None
            await asyncio.sleep(0.5)
        except TimeoutError:
            self.fault = None
        finally:
            self._delayed = None

    async def _pump(
        self,
        link: Link,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        is_answer: bool,
    ) -> None:
        await super()._pump(link, reader, writer, is_answer=is_answer)
        # The server does not learn yet that the sender has gone.
        while self._delayed is link:
            await asyncio.sleep(0.05)
