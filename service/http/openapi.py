"""The OpenAPI 3.1 document, derived from the structs in wire.py (contract sections 1 and 4)."""

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

# The public API's names, so that clients generated for it and code that uses them still work.
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
        "the item is invalid, or PostgreSQL rejected a value",
    ),
    403: ("message", "privilege, row-level security"),
    409: (
        "message",
        "foreign key, unique or exclusion constraint; a trigger suppressed the write; with"
        " `resolution=newest`, a newer record is stored",
    ),
    422: ("message", "a key-0 item whose Idempotency-Key another body used at the same time"),
    503: (
        "message",
        "the database could not be reached or was overloaded; resend the item",
    ),
    500: ("`Internal error` and the activityID", "anything else"),
}

_OUTCOMES = "\n".join(
    [
        "One outcome per item, in request order; each is sent after its row is committed.",
        "",
        "| status | body | when |",
        "|---|---|---|",
        *(f"| {status} | {body} | {when} |" for status, (body, when) in _ITEM_STATUSES.items()),
    ]
)

_DESCRIPTION = f"""\
Creates or updates many records. A record that exists is replaced as a whole; one that does not is
created. Records are independent: a failed record has no effect other than not being stored. A
batch is equivalent to applying its items one at a time, in order.

Items with explicit record keys can be resent at any time. An item with key 0 can be resent only
with its complete batch, under the same `{IDEMPOTENCY_HEADER}`. A batch that was sent without this
header can be resent with its `activityID` as the `{IDEMPOTENCY_HEADER}`.

Without an `Accept` header the media type of the response is `text/plain`. Send
`Accept: application/json` if your client chooses its parser by the media type.
"""


def make_document(server: Server) -> dict[str, Any]:
    """Return the document with the limits and the base path of these settings."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Care Case Clinical Trials",
            "version": __version__,
            "description": "Care-case clinical-trial records, in batches or one at a time.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "externalDocs": {
            # Relative to the document's own address.
            "url": CONTRACT_PATH.lstrip("/"),
            "description": "The contract: everything that the service promises",
        },
        "servers": [{"url": server.base_path or "/"}],
        "tags": [{"name": TAG, "description": "Care-case clinical-trial records."}],
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
    ("created", "A record with an explicit record key", [RECORD_EXAMPLE], [(_KEY, 201, "Created")]),
    (
        "key-0",
        "A record with key 0; the outcome reports the assigned record key",
        [RECORD_EXAMPLE | {KEY_FIELD: 0}],
        [(17, 201, "Created")],
    ),
    (
        "rejected",
        "One good record, and one that is rejected",
        [RECORD_EXAMPLE, {KEY_FIELD: _KEY + 1, "update_User": "somebody with a very long name"}],
        [(_KEY, 200, "Updated"), (_KEY + 1, 400, "update_User: must be at most 20 characters")],
    ),
]
"""Name, summary, items and outcomes of each example."""


def _make_outcome(key: int, status: int, body: str) -> dict[str, Any]:
    return {"id": [{"key": KEY_FIELD, "value": str(key)}], "status": status, "body": body}


_PREFER = make_parameter(
    PREFER_HEADER,
    "header",
    "Preferences (RFC 7240), separated by commas; unknown ones are ignored.\n\n"
    "- `return=minimal`: `data` holds only the items that were not stored and the key-0 items, each"
    " with its place in the request as `index`, from 0; `debug` also has `created`, `updated` and"
    " `failed`.\n"
    "- `resolution=newest`: an item replaces a stored record only if its `update_Date` is not older"
    " than the stored one; otherwise its outcome is 409. An item without `update_Date` is 400.",
    # No example: Swagger UI would send it with every request.
    {"type": "string"},
)


def _make_schemas(server: Server) -> dict[str, Any]:
    item = Item if server.ignore_unknown_fields else StrictItem
    _, components = msgspec.json.schema_components(
        [item, Envelope, RecordEnvelope, RecordListEnvelope], ref_template=REFERENCE
    )
    # Requests and responses share one schema.
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
    record["description"] = (
        "One care-case clinical-trial record. An update replaces the whole record."
    )
    for name in ("entry_Date", "update_Date"):
        # None means that the date was omitted; null is rejected.
        del record["properties"][name]["default"]
    for name, value in RECORD_EXAMPLE.items():
        record["properties"][name]["examples"] = [value]
    schemas["MultiCodeResponse"]["properties"]["status"]["enum"] = sorted(_ITEM_STATUSES)
    return schemas


def _simplify_nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """Replace an "anyOf" with null by a list of types; client generators garble the former."""
    kinds = schema.get("anyOf", [])
    if len(kinds) != 2 or "type" not in kinds[0]:
        return schema
    rest = {name: value for name, value in schema.items() if name != "anyOf"}
    return {**kinds[0], "type": [kinds[0]["type"], "null"], **rest}
