"""``Prefer``: how a batch is to be applied and answered (contract section 1, "Preferences").

RFC 7240, sections 2 and 3.
"""

import re
from typing import NamedTuple

from aiohttp import web

from service.engine.rows import Mode
from service.wire import PREFER_HEADER

_QUOTED = r'"(?:[^"\\]|\\.)*+(?:"|\\?$)'
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
# A quotation that does not end goes on to the end, so that no byte is looked at twice.
_ELEMENT = re.compile(rf'(?:[^",]|{_QUOTED})++')
_PREFERENCE = re.compile(rf"[ \t]*+({_WORD})[ \t]*+(?:=[ \t]*+({_WORD}|{_QUOTED}|))?[ \t]*+(?:;|$)")


class Preferences(NamedTuple):
    """What a client prefers, as far as the service does that.

    ``is_minimal``: only what the client cannot know otherwise is told of its items.
    """

    is_minimal: bool = False
    mode: Mode = Mode.UPSERT

    @property
    def applied(self) -> str:
        """The value of ``Preference-Applied``, empty where there is none."""
        applied = [_MINIMAL] if self.is_minimal else []
        if self.mode is Mode.NEWEST:
            applied.append(_NEWEST)
        return ", ".join("=".join(preference) for preference in applied)


_MINIMAL = ("return", "minimal")
_NEWEST = ("resolution", "newest")


def read_preferences(request: web.Request) -> Preferences:
    """Return what the client prefers; several lines are one list, unknown ones are ignored."""
    preferred: dict[str, str] = {}
    for element in _ELEMENT.findall(",".join(request.headers.getall(PREFER_HEADER, []))):
        if match := _PREFERENCE.match(element):
            name, value = match[1].lower(), match[2] or ""
            if value.startswith('"'):
                value = re.sub(r"\\(.)", r"\1", value[1:-1])
            # Of two values of one preference the first counts.
            preferred.setdefault(name, value.lower())
    return Preferences(
        _MINIMAL in preferred.items(),
        Mode.NEWEST if _NEWEST in preferred.items() else Mode.UPSERT,
    )
