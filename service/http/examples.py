"""The named examples of the OpenAPI document: batches, outcomes, records, refusals by cause."""

import json
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from service.config import Server
from service.engine.statement import ABSENT, EXISTS
from service.wire import (
    API_KEY_HEADER,
    BATCH_PATH,
    DATABASE_HEADER,
    IDEMPOTENCY_HEADER,
    KEY_FIELD,
    SAMPLE,
    problem_type,
)

RECORD: dict[str, Any] = json.loads(SAMPLE.read_text())[6] | {"careCaseClinicalTrialArm_ID": "B"}
"""A record in which every field has a value."""

_ACTIVITY_ID = "0d4c1f0e-6f0a-4f0c-9d0b-2a4a3c0f7b11"
_KEY = RECORD[KEY_FIELD]
_REFUSED = {KEY_FIELD: _KEY + 1, "update_User": "somebody with a very long name"}
_WHY_REFUSED = "update_User: Expected `str` of length <= 20"

_BATCHES = {
    "created": ("A record with a key of its own", [RECORD], [(_KEY, 201, "Created")]),
    "key-0": (
        "A record without a key: the outcome tells the one that it got",
        [RECORD | {KEY_FIELD: 0}],
        [(17, 201, "Created")],
    ),
    "refused": (
        "One good record, and one that is refused",
        [RECORD, _REFUSED],
        [(_KEY, 200, "Updated"), (_KEY + 1, 400, _WHY_REFUSED)],
    ),
}

_PROBLEMS = {
    400: "The request or its body is malformed.",
    401: "The API key or the token is missing or not valid.",
    403: "The caller may not use this database, or it does not exist.",
    409: f"A request with the same {IDEMPOTENCY_HEADER} is still at work; try again later.",
    413: "The body is too large, or the batch has too many items.",
    415: "The media type, charset or content coding is not supported.",
    422: f"The {IDEMPOTENCY_HEADER} was already used with a different body; nothing was applied.",
    429: "The API key has made too many requests.",
    500: "Internal error.",
    503: "The service is overloaded or shutting down; send the batch again.",
}

_CAUSES = {
    400: {
        "database-missing": f"Name the target database in one {DATABASE_HEADER} header.",
        "key": f"Expected one {IDEMPOTENCY_HEADER} of 1 to 255 visible ASCII characters.",
        "empty": "The body is empty; expected a JSON array of objects.",
        "no-array": "Expected the body to be a JSON array of objects in UTF-8, got an object.",
    },
    401: {
        "credentials": f"Valid credentials are required: an API key in {API_KEY_HEADER}, and a"
        " bearer token that has not expired in Authorization."
    },
    403: {"database": "The caller may not use this database."},
    409: {"at-work": "A request with the same key is still at work."},
    413: {
        "bytes": "The body is larger than {0.max_body_bytes} bytes after decompression;"
        " send it in parts.",
        "items": "The batch has more than {0.max_batch_items} items; send it in parts.",
    },
    415: {
        "media-type": "Expected Content-Type application/json, text/json or application/*+json,"
        " got text/plain.",
        "charset": "Expected charset utf-8, got latin-1.",
        "coding": "Expected Content-Encoding gzip, deflate or none, got br.",
    },
    422: {"another-body": f"This {IDEMPOTENCY_HEADER} was already used with a different body."},
    429: {"rate": "This API key has made too many requests; try again later."},
    500: {"internal": f"Internal error, activityID {_ACTIVITY_ID}."},
    503: {"ending": "The service is shutting down; try again."},
}


_PROBLEMS_OF_RECORDS = {
    400: "The query, the key in the path or the record is not valid.",
    403: "The caller may not use this database or may not do this, or the database refuses it.",
    404: "There is no record of this key.",
    409: "The record is in conflict: with one of its key, or with others. With `Retry-After`:"
    f" a request with the same {IDEMPOTENCY_HEADER} is still at work.",
    413: "The record is too large.",
    503: "The service or the database is overloaded or away; send the request again.",
}

_CAUSES_OF_RECORDS = {
    400: {"database-missing": _CAUSES[400]["database-missing"], "item": _WHY_REFUSED},
    403: {"database": _CAUSES[403]["database"], "allow": "This API key may not read records."},
    404: {"absent": ABSENT},
    409: {"exists": EXISTS},
    413: {"bytes": "The body is larger than {0.max_item_bytes} bytes after decompression."},
}


def of_batches() -> dict[str, Any]:
    """Return the examples of a request body."""
    return {name: {"summary": text, "value": batch} for name, (text, batch, _) in _BATCHES.items()}


def of_outcomes() -> dict[str, Any]:
    """Return the answers to those, by the same names."""
    return {
        name: {"summary": text, "value": _envelope(data=list(map(_outcome, told)))}
        for name, (text, _, told) in _BATCHES.items()
    }


def problems_of_batches(server: Server) -> dict[int, tuple[str, dict[str, Any]]]:
    """Return what a refusal means, and examples of it by cause, by the status."""
    return {
        status: (text, _of_problem(status, _CAUSES[status], server, BATCH_PATH))
        for status, text in _PROBLEMS.items()
    }


def problems_of_records(
    server: Server, path: str, statuses: Iterable[int]
) -> dict[int, tuple[str, dict[str, Any]]]:
    """Return the same of an operation on single records."""
    return {
        status: (
            _PROBLEMS_OF_RECORDS.get(status) or _PROBLEMS[status],
            _of_problem(status, _CAUSES_OF_RECORDS.get(status) or _CAUSES[status], server, path),
        )
        for status in statuses
    }


def of_record() -> dict[str, Any]:
    """Return the example of an answer with one record."""
    return {"record": {"summary": "The stored record", "value": _envelope(data=RECORD)}}


def of_page() -> dict[str, Any]:
    """Return the example of an answer with a page of records."""
    return {"page": {"summary": "A page of records", "value": _envelope(data=[RECORD])}}


def _of_problem(
    status: int, causes: Mapping[str, str], server: Server, path: str
) -> dict[str, Any]:
    examples = {}
    for cause, detail in causes.items():
        problem = {
            "type": problem_type(status),
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail.format(server),
            "instance": server.base_path + path,
        }
        examples[cause] = {"summary": problem["detail"], "value": _envelope(error=problem)}
    return examples


def _outcome(told: tuple[int, int, str]) -> dict[str, Any]:
    key, status, body = told
    return {"id": [{"key": KEY_FIELD, "value": str(key)}], "status": status, "body": body}


def _envelope(data: Any = None, error: Any = None) -> dict[str, Any]:
    return {"data": data, "error": error, "debug": {"activityID": _ACTIVITY_ID}}
