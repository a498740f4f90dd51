"""The OpenAPI document at ``/openapi.json`` and its page at ``/docs`` (Swagger UI)."""

import gzip
import hashlib
import importlib.util
from collections.abc import Callable
from functools import cached_property, partial
from http import HTTPStatus
from pathlib import Path

from aiohttp import hdrs, web

from service.wire import CONTRACT_PATH, DOCS_PATH

PAGE_FILES = Path(__file__).with_name("page_files")

_PACKAGE = Path(__file__).parents[1]
_INSTALLED_CONTRACT = _PACKAGE / "contract.md"
CONTRACT_FILE = (
    _INSTALLED_CONTRACT
    if _INSTALLED_CONTRACT.exists()
    else _PACKAGE.parent / "docs" / "contract.md"
)
"""In a wheel inside the package, in a checkout in docs/."""

# Nothing from other origins. Swagger UI sets styles from its script and has images in its styles.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)


# Always sent with gzip, which all browsers accept. Uncompressed, the larger file has 1.5 MB, and
# sending it costs more than 3 times as much CPU as a 404.
_SWAGGER_UI = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}


class Document:
    """A public document, made for the first request and then kept in memory."""

    def __init__(self, make: Callable[[], bytes], media_type: str, encoding: str = "") -> None:
        self._make = make
        self._content_headers: dict[str, str] = {hdrs.CONTENT_TYPE: media_type}
        if encoding:
            self._content_headers[hdrs.CONTENT_ENCODING] = encoding

    @cached_property
    def _body(self) -> bytes:
        return self._make()

    @cached_property
    def _headers(self) -> dict[str, str]:
        return {
            **self._content_headers,
            hdrs.CONTENT_SECURITY_POLICY: CONTENT_SECURITY_POLICY,
            hdrs.REFERRER_POLICY: "no-referrer",
            hdrs.CACHE_CONTROL: "no-cache",
            hdrs.ETAG: f'"{hashlib.sha256(self._body).hexdigest()}"',
        }

    async def handle(self, request: web.Request) -> web.Response:
        """Return the document, or 304 if the client already has it (RFC 9110 section 13.1.2)."""
        known_tags = ",".join(request.headers.getall(hdrs.IF_NONE_MATCH, []))
        # The tag includes its quotes, so it matches only a complete list entry.
        if self._headers[hdrs.ETAG] in known_tags or known_tags.strip() == "*":
            return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=self._headers)
        return web.Response(body=self._body, headers=self._headers)


def add_routes(app: web.Application, openapi: Callable[[], Document]) -> None:
    """Serve the documents and the page without credentials; none of them contains a secret."""
    spec = importlib.util.find_spec("swagger_ui")
    assert spec is not None
    assert spec.origin is not None
    swagger_ui = Path(spec.origin).parent / "static"

    async def redirect_to_docs(_request: web.Request) -> web.Response:
        return web.Response(status=HTTPStatus.FOUND, headers={hdrs.LOCATION: DOCS_PATH.lstrip("/")})

    async def serve_openapi(request: web.Request) -> web.Response:
        return await openapi().handle(request)

    app.router.add_get("/", redirect_to_docs)
    app.router.add_get("/openapi.json", serve_openapi)
    for path, document in {
        DOCS_PATH: Document((PAGE_FILES / "index.html").read_bytes, "text/html"),
        f"{DOCS_PATH}/page.js": Document((PAGE_FILES / "page.js").read_bytes, "text/javascript"),
        # Plain text, because browsers show it; they would download Markdown.
        CONTRACT_PATH: Document(CONTRACT_FILE.read_bytes, "text/plain; charset=utf-8"),
        **{
            f"{DOCS_PATH}/{name}": Document(partial(_gzip, swagger_ui / name), media_type, "gzip")
            for name, media_type in _SWAGGER_UI.items()
        },
    }.items():
        app.router.add_get(path, document.handle)


def _gzip(file: Path) -> bytes:
    # Level 1 takes 15 ms for 1.5 MB, one time; level 6 takes 50 ms and saves another 15%.
    return gzip.compress(file.read_bytes(), 1, mtime=0)
