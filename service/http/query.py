"""The record key in a path, and the page and order in a query.

Contract section 1, "One record".
"""

import re
from collections.abc import Mapping

from aiohttp import web

from service.engine.reading import SortField
from service.http.envelope import Problem
from service.wire import DEFAULT_PAGE_SIZE, INT32, MAX_PAGE_SIZE, Item

PARAMETERS = ("page", "pageSize", "sortBy")

_INTEGER = re.compile(r"-?[0-9]{1,10}")
_FIELDS = Item.__struct_encode_fields__

_PART = rf"({'|'.join(_FIELDS)})(:(asc|desc))?"
SORT_PATTERN = f"^({_PART}(,{_PART})*)?$"
"""Regular expression of ``sortBy``, for the OpenAPI document."""


def read_path_key(request: web.Request) -> int:
    """Return the record key in the path. Raises Problem 400 if it is not an int32."""
    text = request.match_info["key"]
    key = int(text) if _INTEGER.fullmatch(text) else None
    if key is None or key not in INT32:
        raise Problem(
            400,
            f"The key in the path must be an integer from {INT32[0]} to {INT32[-1]}.",
            reason="query",
        )
    return key


def read_page_query(request: web.Request) -> tuple[int, int, list[SortField]]:
    """Return the page's number (from 1), its size and the order. Raises Problem 400."""
    query = request.query
    for name in query:
        if name not in PARAMETERS:
            supported = ", ".join(PARAMETERS)
            raise _malformed(f"Unknown query parameter '{name[:50]}'; supported: {supported}")
        if len(query.getall(name)) > 1:
            raise _malformed(f"{name}: must not be repeated")
    number = _read_count(query, "page", 1, INT32[-1])
    size = _read_count(query, "pageSize", DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
    return number, size, _parse_sorting(query.get("sortBy", ""))


def _read_count(query: Mapping[str, str], name: str, default: int, maximum: int) -> int:
    text = query.get(name, str(default))
    count = int(text) if _INTEGER.fullmatch(text) else 0
    if not 1 <= count <= maximum:
        raise _malformed(f"{name}: must be an integer from 1 to {maximum}")
    return count


def _parse_sorting(text: str) -> list[SortField]:
    sorting: dict[str, SortField] = {}
    for part in filter(None, text.split(",")):
        name, _, direction = part.strip().partition(":")
        if name not in _FIELDS:
            supported = ", ".join(_FIELDS)
            raise _malformed(f"sortBy: unknown field '{name[:50]}'; supported: {supported}")
        if direction not in ("", "asc", "desc"):
            raise _malformed(f"sortBy: must be '{name}:asc' or '{name}:desc'")
        # One that comes again changes nothing any more.
        sorting.setdefault(name, SortField(name, direction == "desc"))
    return [*sorting.values()]


def _malformed(message: str) -> Problem:
    return Problem(400, f"{message}.", reason="query")
