"""The operations on single records, as the OpenAPI document tells them.

Contract section 1, "One record".
"""

from typing import Any

from aiohttp import hdrs

from service.config import Server
from service.http.openapi_parts import (
    RECORD,
    RECORD_SCHEMA,
    REFERENCE,
    answer,
    envelope,
    example,
    idempotency_key,
    operation,
    parameter,
    references,
    refusals,
    request_body,
)
from service.http.query import SORT_PATTERN
from service.wire import (
    DEFAULT_PAGE_SIZE,
    INT32,
    KEY_FIELD,
    MAX_PAGE_SIZE,
    PAGINATION_HEADER,
    RATE_LIMIT_HEADER,
    RATE_LIMIT_POLICY_HEADER,
    RECORDS_PATH,
    Item,
)

# The names of the public API.
ONE = "CareCaseClinicalTrialVBAResponse"
LIST = "CareCaseClinicalTrialListVBAResponse"

_RECORD_PATH = RECORDS_PATH + "/{key}"

_KEY = parameter(
    "key",
    "path",
    f"The record's `{KEY_FIELD}`.",
    {"type": "integer", "minimum": INT32[0], "maximum": INT32[-1]},
    required=True,
    example=RECORD[KEY_FIELD],
)
_SORT = parameter(
    "sortBy",
    "query",
    "Fields, separated by commas, each with `:asc` (the default) or `:desc`; of"
    f" {', '.join(f'`{name}`' for name in Item.__struct_encode_fields__)}.",
    {"type": "string", "pattern": SORT_PATTERN},
    example="case_Key:desc,study_Title",
)


def paths(server: Server) -> dict[str, Any]:
    """Return the operations by path and method."""
    body = request_body(
        f"{server.max_item_bytes} bytes",
        {"$ref": REFERENCE.format(name=RECORD_SCHEMA)},
        example("record", "A record in which every field has a value", RECORD),
    )
    return {
        RECORDS_PATH: {"get": _list(server), "post": _create(server, body)},
        _RECORD_PATH: {
            "get": _get(server),
            "put": _update(server, body),
            "delete": _delete(server),
        },
    }


def _list(server: Server) -> dict[str, Any]:
    page = example("page", "A page of records", envelope([RECORD]))
    return operation(
        "ListCareCaseClinicalTrial",
        "List clinical trials",
        "A page of all records. The key breaks ties, so that pages never overlap. Null sorts as"
        f" greater than all values. A page has at most {server.max_page_bytes} bytes of text;"
        " `pageSize=1` always works.",
        [
            _counted("page", "Which page, counted from 1.", 1, INT32[-1]),
            _counted("pageSize", "How many records a page has.", DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE),
            _SORT,
        ],
        {
            "200": answer(
                "The records of the page; none behind the last.", LIST, page, PAGINATION_HEADER
            ),
            **refusals(LIST, server.base_path + RECORDS_PATH, 400),
        },
    )


def _create(server: Server, body: dict[str, Any]) -> dict[str, Any]:
    return operation(
        "CreateCareCaseClinicalTrial",
        "Create a clinical trial",
        "Creates a record that does not exist; with key 0 the database assigns its key. The answer"
        " has the record as it is stored, read after the commit.",
        [idempotency_key("record")],
        {
            "201": _record("Created and committed.", hdrs.LOCATION),
            **refusals(ONE, server.base_path + RECORDS_PATH, 400, 409, 413, 415, 422),
        },
        body,
    )


def _get(server: Server) -> dict[str, Any]:
    return operation(
        "GetCareCaseClinicalTrial",
        "Read a clinical trial",
        "One record.",
        [_KEY],
        {
            "200": _record("The record."),
            **refusals(ONE, server.base_path + _RECORD_PATH, 400, 404),
        },
    )


def _update(server: Server, body: dict[str, Any]) -> dict[str, Any]:
    return operation(
        "UpdateCareCaseClinicalTrial",
        "Replace a clinical trial",
        "Replaces a record that exists, as a whole: a nullable field that is omitted becomes null;"
        f" `entry_Date` and `entry_User` stay. `{KEY_FIELD}` must be that of the path. The answer"
        " has the record as it is stored, read after the commit.",
        [_KEY],
        {
            "200": _record("Replaced and committed."),
            **refusals(ONE, server.base_path + _RECORD_PATH, 400, 404, 409, 413, 415),
        },
        body,
    )


def _delete(server: Server) -> dict[str, Any]:
    return operation(
        "DeleteCareCaseClinicalTrial",
        "Delete a clinical trial",
        "Deletes one record.",
        [_KEY],
        {
            "204": {
                "description": "Deleted and committed.",
                "headers": references(RATE_LIMIT_HEADER, RATE_LIMIT_POLICY_HEADER),
            },
            **refusals(ONE, server.base_path + _RECORD_PATH, 400, 404, 409),
        },
    )


def _counted(name: str, description: str, default: int, most: int) -> dict[str, Any]:
    schema = {"type": "integer", "minimum": 1, "maximum": most, "default": default}
    return parameter(name, "query", description, schema)


def _record(description: str, *headers: str) -> dict[str, Any]:
    stored = example("record", "The stored record", envelope(RECORD))
    return answer(description, ONE, stored, *headers)
