"""`GET /status` of every node: what it says of itself, for those who tend the system (`service`, `admin`)."""

import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from service.health import CLOCKS, DRAINING, find_troubles, find_warnings
from service.settings import SETTINGS
from service.web import Guard, add_route, render_json

STATUS: Final = "/status"
_GUARD: Final = Guard(roles=frozenset({"service", "admin"}))
_PROJECT: Final = Path(__file__).parent.parent / "pyproject.toml"


def add_status(app: web.Application, more: Callable[[], dict[str, Any]]) -> None:
    """Add the route; `more` is what this kind of node tells besides what all do."""
    version = running_version()

    async def answer_status(_request: web.Request) -> web.Response:
        return render_json(await describe_node(app, version) | more())

    add_route(app, "GET", STATUS, answer_status, guard=_GUARD)


async def describe_node(app: web.Application, version: str) -> dict[str, Any]:
    """What every node tells: `problems` make it unready, `warnings` do not; both by what they are of."""
    clocks = app.get(CLOCKS)
    return {
        "version": version,
        "region": app[SETTINGS].region,
        "zone": app[SETTINGS].zone,
        "draining": app[DRAINING].is_set(),
        "problems": await find_troubles(app),
        "warnings": find_warnings(app),
        "clock_offset_ms": clocks.offsets_ms() if clocks else {},
    }


def running_version() -> str:
    """The version of the code that runs: that of its tree, else of the installed package."""
    if _PROJECT.is_file():
        return tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]["version"]
    return metadata.version("loyalty")
