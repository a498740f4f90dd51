"""Whole-request errors to the envelope, and content negotiation (contract section 1)."""

from collections.abc import Mapping
from http import HTTPStatus

import msgspec

from .wire import Debug, Envelope, ProblemDetails


class Problem(Exception):
    """Ends a request with an envelope that carries the problem instead of data."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


def encode_problem(problem: Problem, instance: str, activity_id: str) -> bytes:
    """Return the envelope of a problem as JSON; ``instance`` is the request's path."""
    return msgspec.json.encode(
        Envelope(
            data=None,
            error=ProblemDetails(
                type="about:blank",
                title=HTTPStatus(problem.status).phrase,
                status=problem.status,
                # It may quote a header, whose bytes need not be UTF-8.
                detail=problem.detail.encode(errors="replace").decode(),
                instance=instance,
            ),
            debug=Debug(activity_id),
        )
    )


DEFAULT_TYPE = "text/plain; charset=utf-8"

MEDIA_TYPES = {
    "text/plain": DEFAULT_TYPE,
    "application/json": "application/json",
    "text/json": "text/json",
}


def negotiate(accept: str) -> str:
    """Return the Content-Type that the Accept header prefers (RFC 9110 section 12.5.1).

    By quality, then by how specific the range is, then by its place in the header. Where
    nothing fits, the default: an answer in another type serves better than none.
    """
    best: tuple[float, int, int, int] | None = None
    chosen = DEFAULT_TYPE
    ranges = [_range(part) for part in accept.split(",")[:50]]
    for rank, (media_type, content_type) in enumerate(MEDIA_TYPES.items()):
        patterns = ("*/*", f"{media_type.partition('/')[0]}/*", media_type)
        # The most specific range that matches decides over the type's quality.
        for specificity in (2, 1, 0):
            places = [i for i, (name, _) in enumerate(ranges) if name == patterns[specificity]]
            if places:
                quality = ranges[places[0]][1]
                score = (quality, specificity, -places[0], -rank)
                if quality > 0 and (best is None or score > best):
                    best, chosen = score, content_type
                break
    return chosen


def _range(part: str) -> tuple[str, float]:
    name, *parameters = part.split(";")
    quality = 1.0
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "q":
            try:
                quality = min(1.0, max(0.0, float(value)))
            except ValueError:
                quality = 0.0
    return name.strip().lower(), quality
