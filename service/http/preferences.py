"""The header ``Prefer`` of a batch (contract section 1, "Preferences").

RFC 7240 sections 2 and 3.
"""

import re
from typing import NamedTuple

from aiohttp import web

from service.engine.rows import Mode
from service.wire import PREFER_HEADER

_QUOTED = r'"(?:[^"\\]|\\.)*+(?:"|\\?$)'
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
# An unterminated quoted string extends to the end, so that no byte is scanned twice.
_ELEMENT = re.compile(rf'(?:[^",]|{_QUOTED})++')
_PREFERENCE = re.compile(rf"[ \t]*+({_WORD})[ \t]*+(?:=[ \t]*+({_WORD}|{_QUOTED}|))?[ \t]*+(?:;|$)")


class Preferences(NamedTuple):
    """The supported preferences of a request.

    ``is_minimal``: the response contains only failures and newly assigned record keys.
    """

    is_minimal: bool = False
    mode: Mode = Mode.UPSERT

    @property
    def applied(self) -> str:
        """The value of ``Preference-Applied``, empty if no preference was applied."""
        applied = [_MINIMAL] if self.is_minimal else []
        if self.mode is Mode.NEWEST:
            applied.append(_NEWEST)
        return ", ".join("=".join(preference) for preference in applied)


_MINIMAL = ("return", "minimal")
_NEWEST = ("resolution", "newest")


def read_preferences(request: web.Request) -> Preferences:
    """Return the preferences. Several lines are one list; unknown preferences are ignored."""
    preferred: dict[str, str] = {}
    for element in _ELEMENT.findall(",".join(request.headers.getall(PREFER_HEADER, []))):
        if match := _PREFERENCE.match(element):
            name, value = match[1].lower(), match[2] or ""
            if value.startswith('"'):
                value = re.sub(r"\\(.)", r"\1", value[1:-1])
            # Of two values of one preference, the first counts.
            preferred.setdefault(name, value.lower())
    return Preferences(
        _MINIMAL in preferred.items(),
        Mode.NEWEST if _NEWEST in preferred.items() else Mode.UPSERT,
    )
