"""`GET /status` of every node: what it says of itself, for those who tend the system (`service`, `admin`)."""

from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

from service.health import CLOCKS, DRAINING, find_troubles, find_warnings
from service.settings import SETTINGS
from service.vital import running_version
from service.web import Guard, add_route, render_json

STATUS: Final = "/status"
_GUARD: Final = Guard(roles=frozenset({"service", "admin"}))


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
