"""The private parts of aiohttp and asyncpg on which the service lives: here it shows if one goes.

Releases may take them away without a word; the cap on aiohttp's major version in pyproject.toml
keeps the worst out, and these tests say where to look.
"""

import ast
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import asyncpg
import pytest
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_writer import StreamWriter
from aiohttp.web_protocol import RequestHandler

from tests.support.source import modules


class Part(NamedTuple):
    """A part of a library, whether it is still what it was, and who needs it for what."""

    name: str
    is_there: Callable[[], bool]
    use: str


def takes(function: Any, *parameters: str) -> bool:
    """Tell whether a function has these parameters."""
    return set(parameters) <= set(inspect.signature(function).parameters)


PARTS = [
    Part(
        "web.AppRunner._make_server",
        lambda: inspect.iscoroutinefunction(getattr(web.AppRunner, "_make_server", None)),
        "service/http/server.py overrides it, to make connections of its own kind",
    ),
    Part(
        "RequestHandler._manager",
        lambda: hasattr(RequestHandler, "_manager"),
        "service/http/server.py reads the limit for headers from the server of a connection",
    ),
    Part(
        "RequestHandler._request_count",
        lambda: hasattr(RequestHandler, "_request_count"),
        "service/http/server.py closes connections that have sent no request in time",
    ),
    Part(
        "RequestHandler.force_close",
        lambda: callable(getattr(RequestHandler, "force_close", None)),
        "service/http/server.py closes connections that have sent no request in time",
    ),
    Part(
        "RequestHandler.handle_error",
        lambda: takes(RequestHandler.handle_error, "request", "status", "exc", "message"),
        "service/http/server.py answers malformed HTTP with an envelope",
    ),
    Part(
        "web.Response._prepare_headers",
        lambda: inspect.iscoroutinefunction(getattr(web.Response, "_prepare_headers", None)),
        "service/http/server.py takes the Server line out of answers to malformed HTTP",
    ),
    Part(
        "the arguments of RequestHandler",
        lambda: takes(
            RequestHandler,
            *("auto_decompress", "read_bufsize", "max_line_size", "max_field_size"),
            "keepalive_timeout",
        ),
        "service/http/server.py limits headers, and leaves decompression to service/http/body.py",
    ),
    Part(
        "request.writer.output_size",
        lambda: (
            isinstance(getattr(StreamWriter, "output_size", None), int)
            and "output_size" in AbstractStreamWriter.__annotations__
        ),
        "service/http/app.py and server.py tell whether an answer has begun, and batch.py that"
        " 100 Continue is not its beginning",
    ),
    Part(
        "asyncpg.Connection._transport",
        lambda: hasattr(asyncpg.Connection, "_transport"),
        "service/engine/databases.py sets TCP keepalive on its socket",
    ),
    Part(
        "asyncpg.Connection._process_log_message",
        lambda: takes(
            getattr(asyncpg.Connection, "_process_log_message", None), "fields", "last_query"
        ),
        "service/engine/databases.py notices by it commits that a standby did not confirm",
    ),
    Part(
        "the missing severity of an asyncpg.DataError that no server has sent",
        lambda: asyncpg.DataError("not encodable").severity is None,
        "service/engine/retrying.py tells by it an argument that cannot be encoded",
    ),
]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_a_private_part_is_still_there(part: Part) -> None:
    assert part.is_there(), f"{part.name} is gone or changed, and {part.use}"


@pytest.fixture
async def server() -> AsyncIterator[web.Server]:
    """aiohttp's server of an empty application."""
    runner = web.AppRunner(web.Application())
    await runner.setup()
    assert runner.server is not None
    yield runner.server
    await runner.cleanup()


@pytest.mark.parametrize("name", ["_loop", "_kwargs"])
async def test_a_server_has_what_its_connections_are_made_of(server: web.Server, name: str) -> None:
    assert hasattr(server, name), (
        f"web.Server.{name} is gone, and service/http/server.py makes connections with it"
    )


async def test_a_server_can_be_given_another_class(server: web.Server) -> None:
    class Other(web.Server):
        pass

    try:
        server.__class__ = Other
    except TypeError:
        pytest.fail("web.Server cannot change its class, and service/http/server.py relies on it")


def test_no_other_private_part_is_used() -> None:
    """Whoever needs another one adds it above."""
    foreign = {name for tree in modules().values() for name in foreign_privates(tree)}

    assert foreign == {
        *("_make_server", "_prepare_headers", "_loop", "_kwargs", "_manager", "_request_count"),
        *("_transport", "_process_log_message"),
        "_replace",  # of named tuples, and documented
    }


def foreign_privates(tree: ast.Module) -> set[str]:
    """Return the private attributes that a module reads and does not define."""
    defined = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    defined |= {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    } - overridden(tree)
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and node.attr not in defined
    }


def overridden(tree: ast.Module) -> set[str]:
    """Return the names that are asked of ``super()``."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id == "super"
    }
