"""The page at /docs: the node's own OpenAPI document, to read and to try, by Scalar. A front door's has both sides.

The browser loads page, script and document from this node and talks to nobody else: the content security
policy says so, and there is nothing inline that it would have to let through but styles.
"""

import asyncio
import gzip
from collections.abc import Mapping
from functools import cache
from html import escape
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import orjson
from aiohttp import web

from service.web import OPEN, add_route

_PACKAGE: Final = "flask_openapi_scalar"
"""Ships Scalar as one script; nothing of its Python is imported."""
_SCRIPT: Final = "templates/scalar/js/scalar.standalone.js"
_CONFIGURATION: Final = {
    "withDefaultFonts": False,  # they lie on another host
    "telemetry": False,
    "agent": {"disabled": True},
    "mcp": {"disabled": True},
    "showDeveloperTools": "never",
    "hideClientButton": True,
    "documentDownloadType": "json",
    "defaultOpenAllTags": True,
    "authentication": {"preferredSecurityScheme": "apiKey"},  # a field for it, instead of "none selected"
}
_DOOR_HEADER: Final = "Loyalty-Door"
_OF_NODE: Final = {"url": "openapi.json"}
_OF_DOOR: Final = {
    "sources": [
        {"title": "Commands", "slug": "commands", "url": "commands/openapi.json", "default": True},
        {"title": "Queries", "slug": "queries", "url": "openapi.json"},
    ]
}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
</head>
<body>
<noscript>This page needs JavaScript; the same as JSON is at {links}.</noscript>
<script id="api-reference" data-configuration="{configuration}"></script>
<script src="docs/scalar.js"></script>
</body>
</html>
"""


def add_docs(app: web.Application, title: str) -> None:
    """Register the page, its script, and the way there from `/`."""
    of_node, of_door = (
        _page(title, _OF_NODE, "openapi.json"),
        _page("Loyalty", _OF_DOOR, "commands/openapi.json", "openapi.json"),
    )

    async def answer_docs(request: web.Request) -> web.Response:
        headers = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}
        page = of_door if _DOOR_HEADER in request.headers else of_node
        return web.Response(text=page, content_type="text/html", headers=headers)

    add_route(app, "GET", "/", _point_to_docs, guard=OPEN)
    add_route(app, "GET", "/docs", answer_docs, guard=OPEN)
    add_route(app, "GET", "/docs/scalar.js", _answer_script, guard=OPEN)


def _page(title: str, shown: Mapping[str, Any], *documents: str) -> str:
    links = " and ".join(f'<a href="{path}">{path}</a>' for path in documents)
    configuration = escape(orjson.dumps({**_CONFIGURATION, **shown}).decode())
    return _PAGE.format(title=escape(title), links=links, configuration=configuration)


async def _point_to_docs(request: web.Request) -> web.Response:
    """Whoever opens the address itself: a browser goes on to the page, a program is told."""
    at_door = _DOOR_HEADER in request.headers
    whose, where = ("", "/commands/openapi.json and /openapi.json") if at_door else (" of this node", "/openapi.json")
    words = f"The API{whose}, to read and to try, is at /docs; for programs at {where}.\n"
    return web.Response(status=302, headers={"Location": "docs"}, text=words)


async def _answer_script(request: web.Request) -> web.Response:
    """Answer the script, compressed once for everybody: every browser reads gzip."""
    tag = f'"{metadata.version(_PACKAGE)}"'
    headers = {"ETag": tag, "Cache-Control": "public, max-age=3600", "X-Content-Type-Options": "nosniff"}
    if request.headers.get("If-None-Match") == tag:
        return web.Response(status=304, headers=headers)
    body = await asyncio.to_thread(_script)
    headers["Content-Encoding"] = "gzip"
    return web.Response(body=body, content_type="text/javascript", charset="utf-8", headers=headers)


@cache
def _script() -> bytes:
    spec = find_spec(_PACKAGE)
    assert spec is not None, f"{_PACKAGE} is a dependency"
    assert spec.origin is not None
    return gzip.compress((Path(spec.origin).parent / _SCRIPT).read_bytes(), mtime=0)
