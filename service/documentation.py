"""The document at ``/openapi.json``, and the page at ``/docs`` that shows it (Swagger UI)."""

import importlib.util
import mimetypes
from pathlib import Path

import msgspec
from aiohttp import web

from . import openapi
from .config import Server

PAGE = Path(__file__).with_name("docs")

# Nothing from elsewhere; Swagger UI sets styles from its script, and has pictures in its styles.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)


def add_routes(app: web.Application, server: Server) -> None:
    """Serve the document and the page; both say nothing that is secret."""
    document = msgspec.json.encode(openapi.document(server))
    spec = importlib.util.find_spec("swagger_ui")
    assert spec is not None
    assert spec.origin is not None
    swagger_ui = Path(spec.origin).parent / "static"

    async def openapi_json(_request: web.Request) -> web.Response:
        return web.Response(body=document, content_type="application/json")

    app.router.add_get("/openapi.json", openapi_json)
    _add_file(app, "/docs", PAGE / "index.html")
    _add_file(app, "/docs/page.js", PAGE / "page.js")
    for name in ("swagger-ui.css", "swagger-ui-bundle.js"):
        _add_file(app, f"/docs/{name}", swagger_ui / name)


def _add_file(app: web.Application, path: str, file: Path) -> None:
    media_type = mimetypes.guess_type(file)[0] or "application/octet-stream"
    headers = {
        "Content-Type": media_type,
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "Referrer-Policy": "no-referrer",
    }

    async def answer(_request: web.Request) -> web.FileResponse:
        return web.FileResponse(file, headers=headers)

    app.router.add_get(path, answer)
