"""What the projector answers: its state, and the order to rebuild."""

import math
from typing import Any, Final

from aiohttp import web

from cdc.projector import register_metrics
from cdc.runtime import Runtime
from service.health import CHECKS, REGISTRY, WARNINGS, gauge
from service.problem import malformed_parameter
from service.status import add_status
from service.web import PRINCIPAL, render_json

DUTY_MIN: Final = 0.01
STALLED_MS: Final = 10_000  # ten heartbeats


def add_routes(app: web.Application, runtime: Runtime) -> None:
    """`GET /status`, `POST /rebuild` (admin), and the readiness checks."""

    async def rebuild(request: web.Request) -> web.Response:
        request[PRINCIPAL].require("admin")
        runtime.rebuild.request("asked for", duty=_duty(request.query.get("duty")))
        return render_json(describe(runtime), status=202)

    add_status(app, lambda: describe(runtime))
    app.router.add_post("/rebuild", rebuild)
    app[CHECKS] |= {"stream": _streaming(runtime), "valkey": _valkey(runtime), "views": _views(runtime)}
    app[WARNINGS]["topology"] = lambda: runtime.topology.trouble
    register_metrics(app[REGISTRY])
    app[REGISTRY].register(runtime.servers)
    # Reckoned when they are asked for: what hangs cannot tell that it does.
    lag = gauge(app, "loyalty_cdc_lag_now_seconds", "Age of the views now; no number before anything was applied.")
    lag.set_function(lambda: math.nan if (lag_ms := runtime.lag_ms()) is None else lag_ms / 1000)
    write = gauge(app, "loyalty_cdc_heartbeat_age_seconds", "Since the last heartbeat was committed: a gap in writes.")
    write.set_function(runtime.heartbeat.age_s)


def _duty(text: str | None) -> float | None:
    """Share of the time to work, none where it is not given; `malformed` when it is no number up to 1."""
    if text is None:
        return None
    try:
        duty = float(text)
    except ValueError:
        duty = math.nan
    if not DUTY_MIN <= duty <= 1:
        raise malformed_parameter("duty", f"send a number from {DUTY_MIN:g} to 1")
    return duty


def describe(runtime: Runtime) -> dict[str, Any]:
    """The projector's state as `GET /status` tells it."""
    state = runtime.rebuild.state
    return {
        "source": runtime.settings.source,
        "lag_ms": runtime.lag_ms(),
        "slot_bytes": runtime.heartbeat.slot_bytes,
        "complete": state.complete,
        "epoch": int(runtime.sink.epoch or 0),
        "applied": runtime.projector.applied,
        "synchronous_standbys": runtime.servers.synchronous_standbys(),
        "rebuild": {
            "running": state.running,
            "reason": state.reason,
            "members_done": state.members_done,
            "members_total": state.members_total,
            "refill_s": round(state.refill_s, 3),
            "duty": runtime.rebuild.duty,
            "completed": state.completed,
            "asked": state.asked,
            "served": state.served,
            "lowered": state.lowered,
            "trouble": state.trouble,
        },
    }


def _streaming(runtime: Runtime) -> Any:
    async def check() -> str | None:
        lag_ms = runtime.lag_ms()
        if not runtime.projector.applied or lag_ms is None:
            return "no change has arrived yet"
        return None if lag_ms < STALLED_MS else f"the newest change applied is {lag_ms} ms old"

    return check


def _valkey(runtime: Runtime) -> Any:
    async def check() -> str | None:
        return runtime.sink.trouble or None

    return check


def _views(runtime: Runtime) -> Any:
    async def check() -> str | None:
        state = runtime.rebuild.state
        if state.complete:
            return None
        return (
            f"rebuilding ({state.reason}): {state.members_done} of about {state.members_total} members {state.trouble}"
        )

    return check
