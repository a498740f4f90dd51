"""The operations on single records, as the OpenAPI document tells them.

Contract section 1, "One record".
"""

from typing import Any

from aiohttp import hdrs

from service.config import Server
from service.http import examples
from service.http.openapi_parts import (
    ALWAYS,
    DATABASE,
    REFERENCE,
    SECURITY,
    TAG,
    TRACEPARENT,
    content,
    headers,
    idempotency_key,
    problems,
)
from service.http.query import SORT_PATTERN
from service.wire import (
    INT32,
    KEY_FIELD,
    MOST_PAGE_ITEMS,
    PAGE_ITEMS,
    PAGINATION_HEADER,
    RECORDS_PATH,
    Item,
)

# The names of the public API.
ONE = "CareCaseClinicalTrialVBAResponse"
LIST = "CareCaseClinicalTrialListVBAResponse"
_RECORD = "CareCaseClinicalTrial"

RECORD_PATH = RECORDS_PATH + "/{key}"

_EVER = (401, 403, 429, 500, 503)

_KEY = {
    "name": "key",
    "in": "path",
    "required": True,
    "description": f"The record's `{KEY_FIELD}`.",
    "schema": {"type": "integer", "minimum": INT32[0], "maximum": INT32[-1]},
    "example": examples.RECORD[KEY_FIELD],
}


def paths(server: Server) -> dict[str, Any]:
    """Return the operations by path and method."""
    return {
        RECORDS_PATH: {"get": _list(server), "post": _create(server)},
        RECORD_PATH: {"get": _get(server), "put": _update(server), "delete": _delete(server)},
    }


def _list(server: Server) -> dict[str, Any]:
    description = (
        "A page of all records. The key breaks ties, so that pages never overlap. Null sorts as"
        f" greater than all values. A page has at most {server.max_page_bytes} bytes of text;"
        " `pageSize=1` always works."
    )
    parameters = [
        _counted("page", "Which page, counted from 1.", 1, INT32[-1]),
        _counted("pageSize", "How many records a page has.", PAGE_ITEMS, MOST_PAGE_ITEMS),
        {
            "name": "sortBy",
            "in": "query",
            "required": False,
            "description": "Fields, separated by commas, each with `:asc` (the default) or `:desc`;"
            f" of {', '.join(f'`{name}`' for name in Item.__struct_encode_fields__)}.",
            "schema": {"type": "string", "pattern": SORT_PATTERN},
            "example": "case_Key:desc,study_Title",
        },
    ]
    answer = {
        "description": "The records of the page; none behind the last.",
        "headers": headers(PAGINATION_HEADER, *ALWAYS),
        "content": content(LIST, examples.of_page()),
    }
    return {
        **_operation("ListCareCaseClinicalTrial", "List clinical trials", description, parameters),
        "responses": {"200": answer, **_refusals(LIST, server, RECORDS_PATH, 400)},
    }


def _create(server: Server) -> dict[str, Any]:
    description = (
        "Creates a record that does not exist; with key 0 the database gives it a key. The answer"
        " has the record as it is stored, read after the commit."
    )
    answer = _record_answer("Created and committed.", hdrs.LOCATION)
    refusals = _refusals(ONE, server, RECORDS_PATH, 400, 409, 413, 415, 422)
    return {
        **_operation(
            "CreateCareCaseClinicalTrial",
            "Create a clinical trial",
            description,
            [idempotency_key("record")],
        ),
        "requestBody": _body(server),
        "responses": {"201": answer, **refusals},
    }


def _get(server: Server) -> dict[str, Any]:
    answer = _record_answer("The record.")
    return {
        **_operation("GetCareCaseClinicalTrial", "Read a clinical trial", "One record.", [_KEY]),
        "responses": {"200": answer, **_refusals(ONE, server, RECORD_PATH, 400, 404)},
    }


def _update(server: Server) -> dict[str, Any]:
    description = (
        "Replaces a record that exists, as a whole: a nullable field that is omitted becomes null;"
        f" `entry_Date` and `entry_User` stay. `{KEY_FIELD}` must be that of the path. The answer"
        " has the record as it is stored, read after the commit."
    )
    answer = _record_answer("Replaced and committed.")
    refusals = _refusals(ONE, server, RECORD_PATH, 400, 404, 409, 413, 415)
    return {
        **_operation(
            "UpdateCareCaseClinicalTrial", "Replace a clinical trial", description, [_KEY]
        ),
        "requestBody": _body(server),
        "responses": {"200": answer, **refusals},
    }


def _delete(server: Server) -> dict[str, Any]:
    answer = {"description": "Deleted and committed.", "headers": headers(*ALWAYS)}
    return {
        **_operation(
            "DeleteCareCaseClinicalTrial", "Delete a clinical trial", "Deletes one record.", [_KEY]
        ),
        "responses": {"204": answer, **_refusals(ONE, server, RECORD_PATH, 400, 404, 409)},
    }


def _operation(
    name: str, summary: str, description: str, parameters: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "operationId": name,
        "tags": [TAG],
        "summary": summary,
        "description": description,
        "security": SECURITY,
        "parameters": [DATABASE, *parameters, TRACEPARENT],
    }


def _counted(name: str, description: str, default: int, most: int) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "required": False,
        "description": description,
        "schema": {"type": "integer", "minimum": 1, "maximum": most, "default": default},
    }


def _body(server: Server) -> dict[str, Any]:
    schema = {"$ref": REFERENCE.format(name=_RECORD)}
    return {
        "required": True,
        "description": f"At most {server.max_item_bytes} bytes after decompression;"
        " `Content-Encoding` may be `gzip` or `deflate`.",
        "content": {"application/json": {"schema": schema, "example": examples.RECORD}},
    }


def _record_answer(description: str, *names: str) -> dict[str, Any]:
    return {
        "description": description,
        "headers": headers(*names, *ALWAYS),
        "content": content(ONE, examples.of_record()),
    }


def _refusals(schema: str, server: Server, path: str, *statuses: int) -> dict[str, Any]:
    told = examples.problems_of_records(server, path, sorted({*statuses, *_EVER}))
    return problems(schema, told)
