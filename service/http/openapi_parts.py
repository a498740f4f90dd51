"""Shared parts of the OpenAPI document: parameters, headers, examples, problem responses."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import hdrs

from service.http.envelope import MEDIA_TYPES, Problem, make_problem_envelope
from service.wire import (
    ACTIVITY_HEADER,
    DATABASE_HEADER,
    IDEMPOTENCY_HEADER,
    PAGINATION_HEADER,
    PREFERENCE_APPLIED_HEADER,
    RATE_LIMIT_HEADER,
    RATE_LIMIT_POLICY_HEADER,
    SAMPLE,
)

REFERENCE = "#/components/schemas/{name}"
RECORD_SCHEMA = "CareCaseClinicalTrial"
TAG = "Care Case Clinical Trials"

RECORD_EXAMPLE: dict[str, Any] = json.loads(SAMPLE.read_text())[6] | {
    "careCaseClinicalTrialArm_ID": "B"
}
"""A record in which every field has a value."""

_ACTIVITY_ID = "0d4c1f0e-6f0a-4f0c-9d0b-2a4a3c0f7b11"
_VISIBLE_ASCII = "^[!-~]+$"

HEADERS: dict[str, Any] = {
    str(name): {"description": description, "schema": {"type": "string"}}
    for name, description in {
        ACTIVITY_HEADER: "Identifies the request in the log; the same value as `debug.activityID`.",
        PAGINATION_HEADER: 'The page and the total: `{"TotalCount":25,"TotalPages":3,'
        '"CurrentPage":1,"PageSize":10}`.',
        hdrs.LOCATION: "The path of the record.",
        hdrs.WWW_AUTHENTICATE: "`Bearer`.",
        hdrs.RETRY_AFTER: "Seconds to wait before resending the request.",
        PREFERENCE_APPLIED_HEADER: "The preferences that were applied, if any.",
        RATE_LIMIT_HEADER: "The rest of the API key's rate limit (IETF draft), if it has one.",
        RATE_LIMIT_POLICY_HEADER: "The API key's rate limit (IETF draft), if it has one.",
    }.items()
}

_PROBLEMS = {
    400: "A header, the query, the record key in the path or the body is malformed.",
    401: "The API key or the token is missing, invalid or expired.",
    403: "The caller has no access to this database, or it does not exist; or the API key is not"
    " allowed to do this; or the database refuses the record.",
    404: "No record has this key.",
    409: f"A request with the same {IDEMPOTENCY_HEADER} is still in progress (with `Retry-After`);"
    " or the record is in conflict: its key exists, or it conflicts with other records.",
    413: "The body is too large, or the batch has too many items.",
    415: "The media type, charset or content coding is not supported.",
    422: f"The {IDEMPOTENCY_HEADER} was already used with a different body; nothing was applied.",
    429: "The API key has made too many requests.",
    500: "Internal error.",
    503: "The service or the database is overloaded, shutting down or unavailable; resend the"
    " request.",
}


def make_parameter(
    name: str, place: str, description: str, schema: Mapping[str, Any], **others: Any
) -> dict[str, Any]:
    """Return a parameter, optional unless ``others`` has ``required``."""
    fields = {"name": name, "in": place, "required": False, "description": description}
    return {**fields, "schema": schema, **others}


_DATABASE = make_parameter(
    DATABASE_HEADER,
    "header",
    "The target database.",
    {"type": "string", "minLength": 1, "pattern": _VISIBLE_ASCII},
    required=True,
    example="acme",
)

_TRACEPARENT = make_parameter(
    str(hdrs.TRACEPARENT),
    "header",
    "W3C Trace Context; its trace ID is added to the log.",
    {"type": "string"},
)


def make_idempotency_key_parameter(what: str) -> dict[str, Any]:
    """Return the parameter; ``what`` is the thing that it identifies."""
    return make_parameter(
        IDEMPOTENCY_HEADER,
        "header",
        f"Identifies the {what}, so that it can be resent as a whole: a record that was created"
        f" under this {IDEMPOTENCY_HEADER} gets 201 with the record key assigned then. Any string"
        f" you choose, for example `trials-2025-01-02-part-7`; use another one for another {what}.",
        {"type": "string", "minLength": 1, "maxLength": 255, "pattern": _VISIBLE_ASCII},
    )


def make_operation(
    name: str,
    summary: str,
    description: str,
    parameters: list[dict[str, Any]],
    responses: dict[str, Any],
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return an operation, including the parameters that all operations have."""
    return {
        "operationId": name,
        "tags": [TAG],
        "summary": summary,
        "description": description,
        "security": [{"apiKeyAuth": [], "bearerAuth": []}],
        "parameters": [_DATABASE, *parameters, _TRACEPARENT],
        **({"requestBody": body} if body else {}),
        "responses": responses,
    }


def make_request_body(
    limits: str, schema: Mapping[str, Any], examples: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a request body with one media type; client generators choose badly among several."""
    return {
        "required": True,
        "description": f"At most {limits} after decompression; `Content-Encoding` can be `gzip` or"
        " `deflate`.",
        "content": {"application/json": {"schema": schema, "examples": examples}},
    }


def make_response(
    description: str, schema: str, examples: Mapping[str, Any], *headers: str
) -> dict[str, Any]:
    """Return a response that has this schema in each media type."""
    content = {"schema": {"$ref": REFERENCE.format(name=schema)}, "examples": examples}
    return {
        "description": description,
        "headers": make_header_references(*headers, RATE_LIMIT_HEADER, RATE_LIMIT_POLICY_HEADER),
        # JSON first, because generated clients ask for the first one; the default is text/plain.
        "content": dict.fromkeys(sorted(MEDIA_TYPES), content),
    }


def make_header_references(*names: str) -> dict[str, Any]:
    """Return references to these headers and to the one that every response has."""
    return {
        str(name): {"$ref": f"#/components/headers/{name}"} for name in (ACTIVITY_HEADER, *names)
    }


def make_problem_responses(schema: str, path: str, *statuses: int) -> dict[str, Any]:
    """Return the problem responses with these statuses and those that every operation has."""
    found = {}
    for status in sorted({*statuses, 401, 403, 429, 500, 503}):
        text = _PROBLEMS[status]
        problem = msgspec.to_builtins(
            make_problem_envelope(Problem(status, text), path, _ACTIVITY_ID)
        )
        headers = [hdrs.WWW_AUTHENTICATE] if status == 401 else []
        headers += [hdrs.RETRY_AFTER] if status in (409, 429, 503) else []
        found[str(status)] = make_response(
            text, schema, make_example("problem", text, problem), *headers
        )
    return found


def make_example(name: str, summary: str, value: Any) -> dict[str, Any]:
    """Return one named example."""
    return {name: {"summary": summary, "value": value}}


def make_envelope(data: Any) -> dict[str, Any]:
    """Return the example of an envelope with this data."""
    return {"data": data, "error": None, "debug": {"activityID": _ACTIVITY_ID}}
