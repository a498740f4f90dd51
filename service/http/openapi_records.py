"""The operations on single records in the OpenAPI document.

Contract section 1, "One record".
"""

from typing import Any

from aiohttp import hdrs

from service.config import Server
from service.http.openapi_parts import (
    RECORD_EXAMPLE,
    RECORD_SCHEMA,
    REFERENCE,
    make_envelope,
    make_example,
    make_header_references,
    make_idempotency_key_parameter,
    make_operation,
    make_parameter,
    make_problem_responses,
    make_request_body,
    make_response,
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
RECORD_RESPONSE = "CareCaseClinicalTrialVBAResponse"
LIST_RESPONSE = "CareCaseClinicalTrialListVBAResponse"

_RECORD_PATH = RECORDS_PATH + "/{key}"

_KEY = make_parameter(
    "key",
    "path",
    f"The record's `{KEY_FIELD}`.",
    {"type": "integer", "minimum": INT32[0], "maximum": INT32[-1]},
    required=True,
    example=RECORD_EXAMPLE[KEY_FIELD],
)
_SORT = make_parameter(
    "sortBy",
    "query",
    "Fields separated by commas, each with `:asc` (the default) or `:desc`. Supported:"
    f" {', '.join(f'`{name}`' for name in Item.__struct_encode_fields__)}.",
    {"type": "string", "pattern": SORT_PATTERN},
    example="case_Key:desc,study_Title",
)


def make_paths(server: Server) -> dict[str, Any]:
    """Return the operations by path and method."""
    body = make_request_body(
        f"{server.max_item_bytes} bytes",
        {"$ref": REFERENCE.format(name=RECORD_SCHEMA)},
        make_example("record", "A record in which every field has a value", RECORD_EXAMPLE),
    )
    return {
        RECORDS_PATH: {"get": _describe_list(server), "post": _describe_create(server, body)},
        _RECORD_PATH: {
            "get": _describe_get(server),
            "put": _describe_update(server, body),
            "delete": _describe_delete(server),
        },
    }


def _describe_list(server: Server) -> dict[str, Any]:
    page = make_example("page", "A page of records", make_envelope([RECORD_EXAMPLE]))
    return make_operation(
        "ListCareCaseClinicalTrial",
        "List clinical trials",
        "A page of all records. The record key breaks ties, so pages never overlap. Null sorts as"
        f" greater than all values. A page has at most {server.max_page_bytes} bytes of text;"
        " `pageSize=1` always works.",
        [
            _make_number_parameter("page", "Number of the page, from 1.", 1, INT32[-1]),
            _make_number_parameter(
                "pageSize", "Number of records per page.", DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE
            ),
            _SORT,
        ],
        {
            "200": make_response(
                "The records of the page; empty beyond the last page.",
                LIST_RESPONSE,
                page,
                PAGINATION_HEADER,
            ),
            **make_problem_responses(LIST_RESPONSE, server.base_path + RECORDS_PATH, 400),
        },
    )


def _describe_create(server: Server, body: dict[str, Any]) -> dict[str, Any]:
    return make_operation(
        "CreateCareCaseClinicalTrial",
        "Create a clinical trial",
        "Creates a record that does not exist; with key 0 the database assigns its record key. The"
        " response contains the stored record, read after the commit.",
        [make_idempotency_key_parameter("record")],
        {
            "201": _make_record_response("Created and committed.", hdrs.LOCATION),
            **make_problem_responses(
                RECORD_RESPONSE, server.base_path + RECORDS_PATH, 400, 409, 413, 415, 422
            ),
        },
        body,
    )


def _describe_get(server: Server) -> dict[str, Any]:
    return make_operation(
        "GetCareCaseClinicalTrial",
        "Read a clinical trial",
        "Returns one record.",
        [_KEY],
        {
            "200": _make_record_response("The record."),
            **make_problem_responses(RECORD_RESPONSE, server.base_path + _RECORD_PATH, 400, 404),
        },
    )


def _describe_update(server: Server, body: dict[str, Any]) -> dict[str, Any]:
    return make_operation(
        "UpdateCareCaseClinicalTrial",
        "Replace a clinical trial",
        "Replaces an existing record as a whole: a nullable field that is omitted becomes null;"
        f" `entry_Date` and `entry_User` stay. `{KEY_FIELD}` must equal the key in the path. The"
        " response contains the stored record, read after the commit.",
        [_KEY],
        {
            "200": _make_record_response("Replaced and committed."),
            **make_problem_responses(
                RECORD_RESPONSE, server.base_path + _RECORD_PATH, 400, 404, 409, 413, 415
            ),
        },
        body,
    )


def _describe_delete(server: Server) -> dict[str, Any]:
    return make_operation(
        "DeleteCareCaseClinicalTrial",
        "Delete a clinical trial",
        "Deletes one record.",
        [_KEY],
        {
            "204": {
                "description": "Deleted and committed.",
                "headers": make_header_references(RATE_LIMIT_HEADER, RATE_LIMIT_POLICY_HEADER),
            },
            **make_problem_responses(
                RECORD_RESPONSE, server.base_path + _RECORD_PATH, 400, 404, 409
            ),
        },
    )


def _make_number_parameter(
    name: str, description: str, default: int, maximum: int
) -> dict[str, Any]:
    schema = {"type": "integer", "minimum": 1, "maximum": maximum, "default": default}
    return make_parameter(name, "query", description, schema)


def _make_record_response(description: str, *headers: str) -> dict[str, Any]:
    stored = make_example("record", "The stored record", make_envelope(RECORD_EXAMPLE))
    return make_response(description, RECORD_RESPONSE, stored, *headers)
