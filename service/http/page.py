"""The document at ``/openapi.json``, and the page at ``/docs`` that shows it (Swagger UI)."""

import importlib.util
import mimetypes
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import hdrs, web

from service.wire import CONTRACT_PATH, DOCS_PATH

PAGE = Path(__file__).with_name("page_files")

_PACKAGE = Path(__file__).parents[1]
_INSTALLED = _PACKAGE / "contract.md"
CONTRACT = _INSTALLED if _INSTALLED.exists() else _PACKAGE.parent / "docs" / "contract.md"
"""Inside the package in a wheel, among the documents in a checkout."""

# Nothing from elsewhere; Swagger UI sets styles from its script, and has pictures in its styles.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)


def add_routes(app: web.Application, openapi: Callable[[], Mapping[str, Any]]) -> None:
    """Serve the OpenAPI document and the page; both say nothing that is secret."""
    spec = importlib.util.find_spec("swagger_ui")
    assert spec is not None
    assert spec.origin is not None
    swagger_ui = Path(spec.origin).parent / "static"

    async def openapi_json(_request: web.Request) -> web.Response:
        # Made anew, for its limits may have changed.
        document = msgspec.json.encode(openapi())
        return web.Response(body=document, content_type="application/json")

    async def root(_request: web.Request) -> web.Response:
        return web.Response(status=HTTPStatus.FOUND, headers={hdrs.LOCATION: DOCS_PATH.lstrip("/")})

    app.router.add_get("/", root)
    app.router.add_get("/openapi.json", openapi_json)
    _add_file(app, DOCS_PATH, PAGE / "index.html")
    _add_file(app, f"{DOCS_PATH}/page.js", PAGE / "page.js")
    # As plain text, which browsers show; they would save Markdown to a file.
    _add_file(app, CONTRACT_PATH, CONTRACT, "text/plain; charset=utf-8")
    for name in ("swagger-ui.css", "swagger-ui-bundle.js"):
        _add_file(app, f"{DOCS_PATH}/{name}", swagger_ui / name)


def _add_file(app: web.Application, path: str, file: Path, media_type: str = "") -> None:
    media_type = media_type or mimetypes.guess_type(file)[0] or "application/octet-stream"
    headers = {
        hdrs.CONTENT_TYPE: media_type,
        hdrs.CONTENT_SECURITY_POLICY: CONTENT_SECURITY_POLICY,
        hdrs.REFERRER_POLICY: "no-referrer",
    }

    async def answer(_request: web.Request) -> web.FileResponse:
        return web.FileResponse(file, headers=headers)

    app.router.add_get(path, answer)
