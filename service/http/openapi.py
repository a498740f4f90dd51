"""The OpenAPI 3.1 document, derived from the structs of the wire (contract sections 1 and 4)."""

import json
from typing import Any

import msgspec
from aiohttp import hdrs

from service import __version__
from service.config import Server
from service.http import examples
from service.http.envelope import MEDIA_TYPES
from service.wire import (
    ACTIVITY_HEADER,
    API_KEY_HEADER,
    BATCH_PATH,
    CONTRACT_PATH,
    DATABASE_HEADER,
    IDEMPOTENCY_HEADER,
    PREFER_HEADER,
    PREFERENCE_APPLIED_HEADER,
    RATE_LIMIT_HEADER,
    RATE_LIMIT_POLICY_HEADER,
    Envelope,
    Item,
    StrictItem,
)

_REFERENCE = "#/components/schemas/{name}"

# The names of the public API, so that generated clients and code for it fit.
_PUBLIC_NAMES = {
    "Item": "CareCaseClinicalTrial",
    "StrictItem": "CareCaseClinicalTrial",
    "Envelope": "MultiCodeResponseListVBAResponse",
    "ProblemDetails": "VBAProblemDetails",
}

_ITEM_STATUSES = {
    201: ("`Created`", "inserted and committed"),
    200: ("`Updated`", "replaced and committed"),
    400: (
        "names the field and the reason",
        "the item is invalid, or PostgreSQL refused a value",
    ),
    403: ("message", "privilege, row-level security"),
    409: (
        "message",
        "foreign key, unique or exclusion constraint; a trigger kept the record out; with"
        " `resolution=newest`, a newer record is stored",
    ),
    503: (
        "message",
        "the database could not be reached or was overloaded; send the item again",
    ),
    500: ("`Internal error` and the activity ID", "anything else"),
}

_OUTCOMES = "\n".join(
    [
        "One outcome for each item, in request order; each goes out when its row is committed.",
        "",
        "| status | body | when |",
        "|---|---|---|",
        *(f"| {status} | {body} | {when} |" for status, (body, when) in _ITEM_STATUSES.items()),
    ]
)

_DESCRIPTION = f"""\
Creates or updates many records: one that exists is replaced as a whole, one that does not is
created. Records are independent: one bad record never spoils another. A batch means its items one
after another. Items that name their key may always be sent again; those with key 0 with their
whole batch, under its `{IDEMPOTENCY_HEADER}`, which is the `activityID` where it came without one.

A client that sends no `Accept` gets the JSON as `text/plain`; ask for `application/json` if your
client chooses its parser by the media type.
"""


def document(server: Server) -> dict[str, Any]:
    """Return the document, with the limits and the base path of these settings."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Care Case Clinical Trials",
            "version": __version__,
            "description": "Batch upserts of clinical-trial records of care cases.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "externalDocs": {
            # From the document's own address on.
            "url": CONTRACT_PATH.lstrip("/"),
            "description": "What the service promises, to the last status code",
        },
        "servers": [{"url": server.base_path or "/"}],
        "tags": [
            {"name": "Care Case Clinical Trials", "description": "Clinical trials of care cases."}
        ],
        "paths": {BATCH_PATH: {"put": _operation(server)}},
        "components": {
            "schemas": _schemas(server),
            "headers": _HEADERS,
            "securitySchemes": {
                "apiKeyAuth": {"type": "apiKey", "in": "header", "name": API_KEY_HEADER},
                "bearerAuth": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            },
        },
        "security": [{"apiKeyAuth": [], "bearerAuth": []}],
    }


def _operation(server: Server) -> dict[str, Any]:
    batch = {
        "type": "array",
        "items": {"$ref": _REFERENCE.format(name="CareCaseClinicalTrial")},
        "maxItems": server.max_batch_items,
    }
    # One type, since generators choose among several; the others are accepted all the same.
    body = {"schema": batch, "examples": examples.of_batches()}
    return {
        "operationId": "UpdateBatchCareCaseClinicalTrial",
        "tags": ["Care Case Clinical Trials"],
        "summary": "Create or update a batch of clinical trials",
        "description": _DESCRIPTION,
        "security": [{"apiKeyAuth": [], "bearerAuth": []}],
        "parameters": [
            {
                "name": DATABASE_HEADER,
                "in": "header",
                "required": True,
                "description": "The target database.",
                "schema": {"type": "string", "minLength": 1, "pattern": "^[!-~]+$"},
                "example": "acme",
            },
            {
                "name": IDEMPOTENCY_HEADER,
                "in": "header",
                "required": False,
                "description": "Names the batch, so that it may be sent again as a whole: records"
                " that were created under the key answer 201 with the key they got then. Any text"
                " of yours, such as `trials-2025-01-02-part-7`; another batch needs another.",
                "schema": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 255,
                    "pattern": "^[!-~]+$",
                },
            },
            _PREFER,
            {
                "name": str(hdrs.TRACEPARENT),
                "in": "header",
                "required": False,
                "description": "W3C Trace Context; its trace id goes into the log.",
                "schema": {"type": "string"},
            },
        ],
        "requestBody": {
            "required": True,
            "description": f"At most {server.max_batch_items} items and {server.max_body_bytes}"
            " bytes after decompression; `Content-Encoding` may be `gzip` or `deflate`.",
            "content": {"application/json": body},
        },
        "responses": {
            "207": {
                "description": _OUTCOMES,
                "headers": _headers(
                    ACTIVITY_HEADER,
                    PREFERENCE_APPLIED_HEADER,
                    RATE_LIMIT_HEADER,
                    RATE_LIMIT_POLICY_HEADER,
                ),
                "content": _content(examples.of_outcomes()),
            },
            **{str(status): _problem(status, server) for status in examples.PROBLEMS},
        },
    }


_PREFER: dict[str, Any] = {
    "name": PREFER_HEADER,
    "in": "header",
    "required": False,
    "description": "Preferences (RFC 7240), separated by commas; unknown ones are ignored.\n\n"
    "- `return=minimal`: `data` holds only the items that were not stored and those of key 0, each"
    " with its place in the request as `index`; `debug` also tells how many were created, updated,"
    " and failed.\n"
    "- `resolution=newest`: an item replaces a stored record only if its `update_Date`, which it"
    " then must have, is not older than the stored one; else its outcome is 409.",
    "schema": {"type": "string"},
    "examples": {
        name: {"summary": name, "value": name}
        for name in ("return=minimal", "resolution=newest", "return=minimal, resolution=newest")
    },
}


def _problem(status: int, server: Server) -> dict[str, Any]:
    names = [ACTIVITY_HEADER]
    names += [hdrs.WWW_AUTHENTICATE] if status == 401 else []
    names += [hdrs.RETRY_AFTER] if status in (409, 429, 503) else []
    return {
        "description": examples.PROBLEMS[status],
        "headers": _headers(*names),
        "content": _content(examples.of_problems(status, server)),
    }


def _content(named: dict[str, Any]) -> dict[str, Any]:
    schema = {"$ref": _REFERENCE.format(name="MultiCodeResponseListVBAResponse")}
    # JSON first, since generated clients ask for the first; the default is text/plain.
    names = sorted(MEDIA_TYPES)
    return {name: {"schema": schema, "examples": named} for name in names}


_HEADERS = {
    ACTIVITY_HEADER: {
        "description": "Names the request in the log; the same as `debug.activityID`.",
        "schema": {"type": "string", "format": "uuid"},
    },
    str(hdrs.WWW_AUTHENTICATE): {"description": "`Bearer`.", "schema": {"type": "string"}},
    str(hdrs.RETRY_AFTER): {
        "description": "Seconds to wait before sending the batch again.",
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


def _headers(*names: str) -> dict[str, Any]:
    return {str(name): {"$ref": f"#/components/headers/{name}"} for name in names}


def _schemas(server: Server) -> dict[str, Any]:
    item = Item if server.ignore_unknown_fields else StrictItem
    _, components = msgspec.json.schema_components([item, Envelope], ref_template=_REFERENCE)
    text = json.dumps(
        {_PUBLIC_NAMES.get(name, name): schema for name, schema in components.items()}
    )
    for name, public in _PUBLIC_NAMES.items():
        text = text.replace(f'/{name}"', f'/{public}"')
    schemas: dict[str, Any] = json.loads(text)
    for name, schema in schemas.items():
        schema["title"] = name
        schema["properties"] = {
            field: _nullable(kind) for field, kind in schema["properties"].items()
        }
    record = schemas["CareCaseClinicalTrial"]
    record["description"] = "One clinical-trial record of a care case. It is replaced as a whole."
    for name in ("entry_Date", "update_Date"):
        # None stands for a date that was not sent; null is refused.
        del record["properties"][name]["default"]
    for name, value in examples.RECORD.items():
        record["properties"][name]["examples"] = [value]
    schemas["MultiCodeResponse"]["properties"]["status"]["enum"] = sorted(_ITEM_STATUSES)
    return schemas


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a list of types in the place of "anyOf" with null, which generators garble."""
    kinds = schema.get("anyOf", [])
    if len(kinds) != 2 or "type" not in kinds[0]:
        return schema
    rest = {name: value for name, value in schema.items() if name != "anyOf"}
    return {**kinds[0], "type": [kinds[0]["type"], "null"], **rest}
