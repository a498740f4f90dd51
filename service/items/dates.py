"""The forms of date-times that the contract accepts (section 1, "Item fields")."""

import re
from datetime import UTC, datetime, timedelta

import msgspec

from service.messages import NO_DATE_TIME, NO_SUCH_DATE_TIME

_DATE_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)"
    r"(?:[Tt ](\d\d:\d\d)(?::(\d\d)(\.\d+)?)?(?: ?(?:(Z|z|UTC)|([+-]\d\d)(?::?(\d\d))?))?)?",
    re.ASCII,
)
_MOMENTS = msgspec.json.Decoder(list[datetime])
# Each begins with the character behind what is looked for: so re finds it many times as fast.
_HOURS_ALONE = re.compile(r'"(?<=[0-9][+-][0-9][0-9]")')
_NO_SECONDS = re.compile(r'"(?<=[Tt ][0-9][0-9]:[0-9][0-9]")')
_NO_SECONDS_IN_UTC = re.compile(r"Z(?<=[Tt ][0-9][0-9]:[0-9][0-9]Z)")
_EDGES = datetime(2, 1, 1, tzinfo=UTC), datetime(9998, 12, 31, tzinfo=UTC)


def parse_date_times(texts: list[str]) -> list[datetime]:
    """Return the moments of date-times in any of the contract's forms, all of them aware.

    What PostgreSQL and Java write is made RFC 3339 in one go, and then read by msgspec: ten
    times as fast as one by one. Raises ValueError for a text in no such form.
    """
    joined = '["' + '","'.join(texts) + '"]'
    if texts and "\\" not in joined and joined.count('"') == 2 * len(texts):
        joined = _HOURS_ALONE.sub(':00"', joined)
        for is_without_seconds in (False, True):
            if is_without_seconds:
                joined = _NO_SECONDS_IN_UTC.sub(":00Z", _NO_SECONDS.sub(':00Z"', joined))
            try:
                moments = _MOMENTS.decode(joined)
            except msgspec.DecodeError:
                continue
            moments = [m if m.tzinfo is not None else m.replace(tzinfo=UTC) for m in moments]
            # At the edges an offset may move a date out of the years 1 to 9999.
            if _EDGES[0] < min(moments) and max(moments) < _EDGES[1]:
                return moments
            break
    return list(map(parse_date_time, texts))


def parse_date_time(text: str) -> datetime:
    """Return the moment of a date-time in any of the contract's forms, in UTC.

    Raises ValueError, whose message is the reason.
    """
    match = _DATE_TIME.fullmatch(text)
    if match is None:
        raise ValueError(NO_DATE_TIME)
    day, minutes, seconds, fraction, _, hours, offset_minutes = match.groups()
    # RFC 3339 allows a leap second; like PostgreSQL, count on into the next minute.
    is_leap_second = seconds == "60"
    beginning = f"{day}T{minutes or '00:00'}:{'59' if is_leap_second else seconds or '00'}"
    offset = f"{hours}:{offset_minutes or '00'}" if hours else "Z"
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
        raise ValueError(NO_SUCH_DATE_TIME) from None
    return moment
