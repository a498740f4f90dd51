"""What several operations of the OpenAPI document share: parameters, headers, refusals."""

from collections.abc import Mapping
from typing import Any

from aiohttp import hdrs

from service.http.envelope import MEDIA_TYPES
from service.wire import (
    ACTIVITY_HEADER,
    DATABASE_HEADER,
    IDEMPOTENCY_HEADER,
    PAGINATION_HEADER,
    PREFERENCE_APPLIED_HEADER,
    RATE_LIMIT_HEADER,
    RATE_LIMIT_POLICY_HEADER,
)

REFERENCE = "#/components/schemas/{name}"
TAG = "Care Case Clinical Trials"
SECURITY: list[dict[str, list[str]]] = [{"apiKeyAuth": [], "bearerAuth": []}]

DATABASE: dict[str, Any] = {
    "name": DATABASE_HEADER,
    "in": "header",
    "required": True,
    "description": "The target database.",
    "schema": {"type": "string", "minLength": 1, "pattern": "^[!-~]+$"},
    "example": "acme",
}

TRACEPARENT: dict[str, Any] = {
    "name": str(hdrs.TRACEPARENT),
    "in": "header",
    "required": False,
    "description": "W3C Trace Context; its trace id goes into the log.",
    "schema": {"type": "string"},
}


def idempotency_key(what: str) -> dict[str, Any]:
    """Return the parameter; ``what`` it names."""
    return {
        "name": IDEMPOTENCY_HEADER,
        "in": "header",
        "required": False,
        "description": f"Names the {what}, so that it may be sent again as a whole: what was"
        " created under the key answers 201 with the record's key that it got then. Any text"
        f" of yours, such as `trials-2025-01-02-part-7`; another {what} needs another.",
        "schema": {
            "type": "string",
            "minLength": 1,
            "maxLength": 255,
            "pattern": "^[!-~]+$",
        },
    }


HEADERS: dict[str, Any] = {
    ACTIVITY_HEADER: {
        "description": "Names the request in the log; the same as `debug.activityID`.",
        "schema": {"type": "string", "format": "uuid"},
    },
    PAGINATION_HEADER: {
        "description": 'Which page of how many: `{"TotalCount":25,"TotalPages":3,'
        '"CurrentPage":1,"PageSize":10}`.',
        "schema": {"type": "string"},
    },
    str(hdrs.LOCATION): {
        "description": "The path of the record.",
        "schema": {"type": "string"},
    },
    str(hdrs.WWW_AUTHENTICATE): {"description": "`Bearer`.", "schema": {"type": "string"}},
    str(hdrs.RETRY_AFTER): {
        "description": "Seconds to wait before sending the request again.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
    PREFERENCE_APPLIED_HEADER: {
        "description": "The preferences that were applied, where there are any.",
        "schema": {"type": "string"},
    },
    RATE_LIMIT_HEADER: {
        "description": "What is left of the key's limit (IETF draft), where it has one.",
        "schema": {"type": "string"},
    },
    RATE_LIMIT_POLICY_HEADER: {
        "description": "The key's limit (IETF draft), where it has one.",
        "schema": {"type": "string"},
    },
}

ALWAYS = (ACTIVITY_HEADER, RATE_LIMIT_HEADER, RATE_LIMIT_POLICY_HEADER)
"""What a good answer has of them, whatever was asked."""


def headers(*names: str) -> dict[str, Any]:
    """Return the headers of these names."""
    return {str(name): {"$ref": f"#/components/headers/{name}"} for name in names}


def content(schema: str, named: Mapping[str, Any]) -> dict[str, Any]:
    """Return a body of this schema in each media type, with these examples."""
    reference = {"$ref": REFERENCE.format(name=schema)}
    # JSON first, since generated clients ask for the first; the default is text/plain.
    names = sorted(MEDIA_TYPES)
    return {name: {"schema": reference, "examples": named} for name in names}


def problems(
    schema: str, told: Mapping[int, tuple[str, Mapping[str, Any]]]
) -> dict[str, dict[str, Any]]:
    """Return refusals by status: a description and examples for each."""
    return {
        str(status): {
            "description": description,
            "headers": headers(
                ACTIVITY_HEADER,
                *([hdrs.WWW_AUTHENTICATE] if status == 401 else []),
                *([hdrs.RETRY_AFTER] if status in (409, 429, 503) else []),
            ),
            "content": content(schema, named),
        }
        for status, (description, named) in told.items()
    }
