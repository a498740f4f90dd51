"""``Expect: 100-continue``: 100 only when the body is wanted (RFC 9110 section 10.1.1).

aiohttp sends 100 before any handler runs, even if the response is then 404 or 405.
"""

from typing import Any

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.web_urldispatcher import UrlDispatcher, UrlMappingMatchInfo


async def ask_for_body(request: web.Request) -> None:
    """Send "100 Continue" to a client that waits for it."""
    expected = ",".join(request.headers.getall(hdrs.EXPECT, [])).lower().split(",")
    is_expecting = "100-continue" in map(str.strip, expected)
    if is_expecting and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # 100 Continue is not part of the response, which has not started yet.
        request.writer.output_size = 0


async def _do_nothing(_request: web.Request) -> None:
    pass


class _MatchInfo(UrlMappingMatchInfo):
    @property
    def expect_handler(self) -> Any:
        return _do_nothing


class Router(UrlDispatcher):
    """A router whose handlers send "100 Continue" themselves."""

    async def resolve(self, request: web.Request) -> UrlMappingMatchInfo:
        """Return the match without aiohttp's handling of ``Expect``."""
        found = await super().resolve(request)
        if hdrs.EXPECT not in request.headers:
            return found
        return _MatchInfo(dict(found), found.route)
