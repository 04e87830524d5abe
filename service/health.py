"""Whether a node lives and is ready, and what it counts: /livez, /readyz and /metrics, without a credential."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from service.problem import render_problem
from shard_router.clock import REFUSED_FROM_S, SAID_FROM_S, ShardClock
from shard_router.errors import ProblemError
from shard_router.topology import TopologyWatch

T = TypeVar("T")

Check = Callable[[], Awaitable[str | None]]
"""A readiness check: None when well, else what is wrong."""
Warn = Callable[[], str | None]
"""What an operator must hear of a node that serves all the same; None when there is nothing."""

STEADY_S: Final = 10.0  # a shard's failover takes about 5


@dataclass(slots=True)
class Steady:
    """A check of what may be away for a moment: it fails when it was well once and not for `steady_s`.

    Whoever sends traffic elsewhere at once would move a region's whole load for one shard's failover, to nodes that
    forward it back. What has never been well fails at once.
    """

    check: Check
    steady_s: float = STEADY_S
    now: Callable[[], float] = time.monotonic
    well_at: float | None = None
    """When it was well last."""

    def judge(self, trouble: str | None) -> str | None:
        """What to say of what the check says now."""
        if trouble is None:
            self.well_at = self.now()
            return None
        return None if self.well_at is not None and self.now() - self.well_at < self.steady_s else trouble

    async def __call__(self) -> str | None:
        """The check as it judges; a fault in it, or its deadline, counts as trouble."""
        return self.judge(await _ask(self.check))


class Together(Generic[T]):
    """Work that is done once for all who ask before it is done.

    Health needs no credential, so anybody may ask for it as often as they like. Done for each of some thousands, checks
    leave the servers behind no time to say that all is well, and figures leave the node none to say that it lives.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._work = work
        self._under_way: asyncio.Task[T] | None = None

    async def result(self) -> T:
        """What comes of it. Who leaves meanwhile takes it from nobody."""
        if self._under_way is None:
            self._under_way = asyncio.get_running_loop().create_task(self._work())
            self._under_way.add_done_callback(self._end)
        return await asyncio.shield(self._under_way)

    def _end(self, _done: object) -> None:
        self._under_way = None


class Clocks(Collector):
    """How far the node's clock is from those of the primaries of its shards."""

    def __init__(self, clocks: Callable[[], Mapping[str, ShardClock]]) -> None:
        self._clocks = clocks

    def collect(self) -> Iterable[Metric]:
        """One figure for each shard whose primary has told its time."""
        about = "How far this node's clock is ahead of the primary's."
        family = GaugeMetricFamily("loyalty_clock_offset_seconds", about, labels=["shard"])
        for shard, clock in self._clocks().items():
            if clock.offset_s is not None:
                family.add_metric([shard], clock.offset_s)
        yield family

    def offsets_ms(self) -> dict[str, int]:
        """How far ahead of each primary that has told its time."""
        offsets = {shard: clock.offset_s for shard, clock in self._clocks().items()}
        return {shard: round(offset_s * 1000) for shard, offset_s in offsets.items() if offset_s is not None}

    def warn(self) -> str | None:
        """What an operator must hear."""
        off = {shard: clock.offset_s for shard, clock in self._clocks().items() if clock.off_s > SAID_FROM_S}
        return ", ".join(f"{offset_s:+.1f} s from the primary of {shard}" for shard, offset_s in off.items()) or None

    def are_all_far_off(self) -> bool:
        """Whether this node may decide nothing: then it is its own clock, and other nodes are to leave it alone."""
        clocks = self._clocks().values()
        return bool(clocks) and all(clock.off_s > REFUSED_FROM_S for clock in clocks)

    async def check(self) -> str | None:
        """Say that it may decide nothing."""
        return f"off by more than {REFUSED_FROM_S:.0f} s" if self.are_all_far_off() else None


EPOCH_METRIC: Final = "loyalty_topology_epoch"
CHECKS: Final = web.AppKey("checks", dict[str, Check])
CHECKED: Final = web.AppKey("checked", Together[dict[str, str]])
"""What is wrong, by check."""
FIGURES: Final = web.AppKey("figures", Together[bytes])
WARNINGS: Final = web.AppKey("warnings", dict[str, Warn])
DRAINING: Final = web.AppKey("draining", asyncio.Event)
REGISTRY: Final = web.AppKey("registry", CollectorRegistry)
CLOCKS: Final = web.AppKey("clocks", Clocks)
WARNING_MARK: Final = "[!]"  # before a line of /readyz?verbose that makes no node unready
_CHECK_TIMEOUT_S: Final = 1.0


async def answer_livez(request: web.Request) -> web.Response:
    """Say that the event loop turns. Who stands aside closes, as who stops does."""
    response = web.Response(text="ok")
    if (clocks := request.app.get(CLOCKS)) and clocks.are_all_far_off():
        response.force_close()
    return response


async def answer_readyz(request: web.Request) -> web.Response:
    """Say whether every check passes; `?verbose` names each. Not ready is a problem, with those lines as `checks`."""
    wrong = await find_troubles(request.app)
    lines: list[str] = []
    if "verbose" in request.query:
        names = dict.fromkeys((*request.app[CHECKS], *wrong))
        lines = [f"[{'-' if name in wrong else '+'}] {name}: {wrong.get(name, 'ok')}" for name in names]
        lines += [f"{WARNING_MARK} {name}: {words}" for name, words in find_warnings(request.app).items()]
    if not wrong:
        return web.Response(text="".join(f"{line}\n" for line in lines) or "ok")
    why = "; ".join(f"{name}: {words}" for name, words in wrong.items())
    error = ProblemError("shard_unavailable", f"this node is not ready: {why}")
    return render_problem(request, error, **({"checks": lines} if lines else {}))


async def find_troubles(app: web.Application) -> dict[str, str]:
    """What makes this node unready, by check."""
    return await app[CHECKED].result() | ({"draining": "this node is stopping"} if app[DRAINING].is_set() else {})


def find_warnings(app: web.Application) -> dict[str, str]:
    """What an operator must hear though the node is ready."""
    told = {name: warn() for name, warn in app[WARNINGS].items()}
    return {name: words for name, words in told.items() if words}


async def answer_metrics(request: web.Request) -> web.Response:
    """Write the application's registry as OpenMetrics."""
    return web.Response(body=await request.app[FIGURES].result(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def ask_checks(checks: Mapping[str, Check]) -> dict[str, str]:
    """What is wrong, by check."""
    told = {name: await _check(check) for name, check in list(checks.items())}
    return {name: words for name, words in told.items() if words}


async def write_figures(registry: CollectorRegistry) -> bytes:
    """A registry as OpenMetrics."""
    return generate_latest(registry)


def gauge(app: web.Application, name: str, help_text: str) -> Gauge:
    """A gauge of this application's registry."""
    return Gauge(name, help_text, registry=app[REGISTRY])


def show_epoch(app: web.Application, topology: TopologyWatch) -> None:
    """Tell in the metrics which epoch of the topology is in force: whoever changes it waits until all nodes have it."""
    gauge(app, EPOCH_METRIC, "Epoch of the topology in force.").set_function(lambda: topology.current.epoch)


def show_clocks(app: web.Application, clocks: Callable[[], Mapping[str, ShardClock]]) -> None:
    """Tell a clock that is off, in metrics and warnings; a node off from all its shards is unready and stands aside."""
    app[CLOCKS] = shown = Clocks(clocks)
    app[REGISTRY].register(shown)
    app[WARNINGS]["clock"], app[CHECKS]["clock"] = shown.warn, shown.check


async def _check(check: Check) -> str | None:
    """What a check says; `Steady` bounds its own."""
    return await check() if isinstance(check, Steady) else await _ask(check)


async def _ask(check: Check) -> str | None:
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_S):
            return await check()
    except Exception as error:  # noqa: BLE001 - a check that fails in any way says not ready
        from shard_router.server import SERVER_ERRORS, trouble_of  # noqa: PLC0415 - who reads health needs no asyncpg

        return trouble_of(error) if isinstance(error, SERVER_ERRORS) else f"{type(error).__name__}: {error}"
