"""The OpenAPI 3.1 document, derived from the structs of the wire (contract sections 1 and 4)."""

import json
from typing import Any

import msgspec

from service import __version__
from service.config import Server
from service.http import openapi_records
from service.http.openapi_parts import (
    HEADERS,
    RECORD_EXAMPLE,
    RECORD_SCHEMA,
    REFERENCE,
    TAG,
    make_envelope,
    make_example,
    make_idempotency_key_parameter,
    make_operation,
    make_parameter,
    make_problem_responses,
    make_request_body,
    make_response,
)
from service.wire import (
    API_KEY_HEADER,
    BATCH_PATH,
    CONTRACT_PATH,
    IDEMPOTENCY_HEADER,
    KEY_FIELD,
    PREFER_HEADER,
    PREFERENCE_APPLIED_HEADER,
    Envelope,
    Item,
    RecordEnvelope,
    RecordListEnvelope,
    StrictItem,
)

# The names of the public API, so that generated clients and code for it fit.
_PUBLIC_NAMES = {
    "Item": RECORD_SCHEMA,
    "Envelope": "MultiCodeResponseListVBAResponse",
    "RecordEnvelope": openapi_records.RECORD_RESPONSE,
    "RecordListEnvelope": openapi_records.LIST_RESPONSE,
    "ProblemDetails": "VBAProblemDetails",
}

_ENVELOPE = _PUBLIC_NAMES["Envelope"]

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
    422: ("message", "a key-0 item whose Idempotency-Key another body used at the same time"),
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


def make_document(server: Server) -> dict[str, Any]:
    """Return the document, with the limits and the base path of these settings."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Care Case Clinical Trials",
            "version": __version__,
            "description": "Clinical-trial records of care cases, in batches and one by one.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "externalDocs": {
            # From the document's own address on.
            "url": CONTRACT_PATH.lstrip("/"),
            "description": "What the service promises, to the last status code",
        },
        "servers": [{"url": server.base_path or "/"}],
        "tags": [{"name": TAG, "description": "Clinical trials of care cases."}],
        "paths": {
            BATCH_PATH: {"put": _describe_batch(server)},
            **openapi_records.make_paths(server),
        },
        "components": {
            "schemas": _make_schemas(server),
            "headers": HEADERS,
            "securitySchemes": {
                "apiKeyAuth": {"type": "apiKey", "in": "header", "name": API_KEY_HEADER},
                "bearerAuth": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            },
        },
    }


def _describe_batch(server: Server) -> dict[str, Any]:
    batch = {
        "type": "array",
        "items": {"$ref": REFERENCE.format(name=RECORD_SCHEMA)},
        "maxItems": server.max_batch_items,
    }
    batches: dict[str, Any] = {}
    outcomes: dict[str, Any] = {}
    for name, summary, items, reported in _BATCH_EXAMPLES:
        batches |= make_example(name, summary, items)
        outcomes |= make_example(
            name, summary, make_envelope([_make_outcome(*outcome) for outcome in reported])
        )
    path = server.base_path + BATCH_PATH
    return make_operation(
        "UpdateBatchCareCaseClinicalTrial",
        "Create or update a batch of clinical trials",
        _DESCRIPTION,
        [make_idempotency_key_parameter("batch"), _PREFER],
        {
            "207": make_response(_OUTCOMES, _ENVELOPE, outcomes, PREFERENCE_APPLIED_HEADER),
            **make_problem_responses(_ENVELOPE, path, 400, 409, 413, 415, 422),
        },
        make_request_body(
            f"{server.max_batch_items} items and {server.max_body_bytes} bytes", batch, batches
        ),
    )


_KEY = RECORD_EXAMPLE[KEY_FIELD]
_BATCH_EXAMPLES: list[tuple[str, str, list[dict[str, Any]], list[tuple[int, int, str]]]] = [
    ("created", "A record with a key of its own", [RECORD_EXAMPLE], [(_KEY, 201, "Created")]),
    (
        "key-0",
        "A record with key 0: the outcome reports the one that it got",
        [RECORD_EXAMPLE | {KEY_FIELD: 0}],
        [(17, 201, "Created")],
    ),
    (
        "refused",
        "One good record, and one that is rejected",
        [RECORD_EXAMPLE, {KEY_FIELD: _KEY + 1, "update_User": "somebody with a very long name"}],
        [(_KEY, 200, "Updated"), (_KEY + 1, 400, "update_User: Expected `str` of length <= 20")],
    ),
]
"""The examples: name, summary, items, and the outcome of each."""


def _make_outcome(key: int, status: int, body: str) -> dict[str, Any]:
    return {"id": [{"key": KEY_FIELD, "value": str(key)}], "status": status, "body": body}


_PREFER = make_parameter(
    PREFER_HEADER,
    "header",
    "Preferences (RFC 7240), separated by commas; unknown ones are ignored.\n\n"
    "- `return=minimal`: `data` holds only the items that were not stored and those of key 0, each"
    " with its place in the request as `index`; `debug` also tells how many were created, updated,"
    " and failed.\n"
    "- `resolution=newest`: an item replaces a stored record only if its `update_Date`, which it"
    " then must have, is not older than the stored one; else its outcome is 409.",
    # No example: the page would send the first.
    {"type": "string"},
)


def _make_schemas(server: Server) -> dict[str, Any]:
    item = Item if server.ignore_unknown_fields else StrictItem
    _, components = msgspec.json.schema_components(
        [item, Envelope, RecordEnvelope, RecordListEnvelope], ref_template=REFERENCE
    )
    # Answers have the same records, which stand in the document once.
    components["Item"] = components.pop(item.__name__)
    text = json.dumps(
        {_PUBLIC_NAMES.get(name, name): schema for name, schema in components.items()}
    )
    for name, public in _PUBLIC_NAMES.items():
        text = text.replace(f'/{name}"', f'/{public}"')
    schemas: dict[str, Any] = json.loads(text)
    for name, schema in schemas.items():
        schema["title"] = name
        schema["properties"] = {
            field: _simplify_nullable(kind) for field, kind in schema["properties"].items()
        }
    record = schemas[RECORD_SCHEMA]
    record["description"] = "One clinical-trial record of a care case. It is replaced as a whole."
    for name in ("entry_Date", "update_Date"):
        # None stands for a date that was not sent; null is refused.
        del record["properties"][name]["default"]
    for name, value in RECORD_EXAMPLE.items():
        record["properties"][name]["examples"] = [value]
    schemas["MultiCodeResponse"]["properties"]["status"]["enum"] = sorted(_ITEM_STATUSES)
    return schemas


def _simplify_nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a list of types in the place of "anyOf" with null, which generators garble."""
    kinds = schema.get("anyOf", [])
    if len(kinds) != 2 or "type" not in kinds[0]:
        return schema
    rest = {name: value for name, value in schema.items() if name != "anyOf"}
    return {**kinds[0], "type": [kinds[0]["type"], "null"], **rest}
