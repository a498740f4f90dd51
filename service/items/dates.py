"""The forms of date-times that the contract accepts (section 1, "Item fields")."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec


class AnyDateTime(datetime):
    """A date-time in one of the forms of the contract that are not RFC 3339."""


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_DATE_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d:)(\d\d)(\.\d+)?(?: ?(Z|z|UTC|[+-]\d\d:?\d\d))?)?"
)


def parse_date_time(kind: type, value: Any) -> Any:
    """msgspec's ``dec_hook``: a date-time in any of the contract's forms, in UTC."""
    text = value if isinstance(value, str) else ""
    match = _DATE_TIME.fullmatch(text) if text.isascii() else None
    if match is None:
        raise ValueError("Expected an RFC 3339 date-time such as 2025-01-02T03:04:05Z")
    day, minutes, seconds, fraction, offset = match.groups()
    # RFC 3339 allows a leap second; like PostgreSQL, count on into the next minute.
    is_leap_second = seconds == "60"
    beginning = f"{day}T{minutes or '00:00:'}{'59' if is_leap_second else seconds or '00'}"
    offset = "Z" if offset in (None, "z", "UTC") else offset
    try:
        try:
            moment = msgspec.convert(f"{beginning}{fraction or ''}{offset}", datetime)
        except msgspec.ValidationError:
            # Rounded up it may be past year 9999, as .NET's last moment of seven nines is.
            moment = msgspec.convert(f"{beginning}{(fraction or '')[:7]}{offset}", datetime)
        moment = moment.astimezone(UTC)
        if is_leap_second:
            moment += timedelta(seconds=1)
    except (msgspec.ValidationError, OverflowError):
        raise ValueError("Expected an existing date and time in the years 1 to 9999") from None
    return AnyDateTime.fromtimestamp(0, UTC) + (moment - _EPOCH)
