"""Messages about an item's fields, in JSON's terms: "field: reason" (contract section 1).

msgspec reports types by their names in Python. A complaint in words that are not in these tables
becomes a message without details.
"""

import re

NUL = "contains a NUL character"
AT_LEAST = "must be at least {}"
AT_MOST = "must be at most {}"
FRACTION = "must be {}, got a fraction"
NO_DATE_TIME = "must be an RFC 3339 date-time such as 2025-01-02T03:04:05Z"
NO_SUCH_DATE_TIME = "is not a valid date-time (years 1 to 9999)"
NESTED = "The item is nested too deeply; it must be a flat object."

NAME_LENGTH = 100
"""Characters of an unknown field's name that are quoted."""

_REASONS = [
    (re.compile(pattern), reason)
    for pattern, reason in (
        (r"Expected `int` >= (-?\d+)", AT_LEAST.format(r"\1")),
        (r"Expected `int` <= (-?\d+)", AT_MOST.format(r"\1")),
        (r"Expected `str` of length <= (\d+)", r"must be at most \1 characters"),
        # Only dates are strings that cannot be null.
        (
            r"Expected `(?:datetime|str)`, got `null`",
            "must not be null; omit it to use the default",
        ),
        (r"(?:Number|Integer value) out of range", "number out of range"),
    )
]

_EXPECTED = {
    "int": "an integer",
    "int | float": "an integer",  # written with a fraction of 0
    "int | null": "an integer or null",
    "int | float | null": "an integer or null",
    "str": "a string",
    "datetime": "a string",
    "str | null": "a string or null",
    "object": "an object",
}

_GOT = {
    "int": "a number",
    "float": "a number",
    "str": "a string",
    "bool": "a boolean",
    "null": "null",
    "array": "an array",
    "object": "an object",
}

_NAMES = [
    (re.compile("Object missing required field `(.*)`", re.DOTALL), "required"),
    (re.compile("Object contains unknown field `(.*)`", re.DOTALL), "unknown field"),
]
_TYPES = re.compile("Expected `([^`]*)`, got `([^`]*)`")
_PATH = re.compile(r"(.*) - at `\$\.([^`]*)`")


def describe_invalid(error: str) -> str:
    """Return the message for msgspec's complaint about an item."""
    for pattern, reason in _NAMES:
        if match := pattern.fullmatch(error):
            name = match[1]
            return f"{name if len(name) <= NAME_LENGTH else f'{name[:NAME_LENGTH]}…'}: {reason}"
    if match := _PATH.fullmatch(error):
        return f"{match[2]}: {_describe_reason(match[1])}"
    return f"The item {_describe_reason(error)}."


def not_an_object(kind: str) -> str:
    """Return the message for an item of this kind, such as "an array"."""
    return f"The item must be an object, got {kind}."


def _describe_reason(error: str) -> str:
    for pattern, reason in _REASONS:
        if match := pattern.fullmatch(error):
            return match.expand(reason)
    match = _TYPES.fullmatch(error)
    if match is None or match[1] not in _EXPECTED:
        return "is not valid"
    expected, got = _EXPECTED[match[1]], _GOT.get(match[2])
    if match[2] == "float" and "integer" in expected:
        return FRACTION.format(expected)
    return f"must be {expected}, got {got}" if got else f"must be {expected}"
