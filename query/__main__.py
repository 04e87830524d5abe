"""`python -m query --config F`: one query node of a region."""

import asyncio
from typing import Final

import uvloop
from aiohttp import web
from prometheus_client.registry import Collector

from query.cache import BATCH_KEYS, DAMAGED
from query.evaluation import evaluate_purchase
from query.events import issue_stream_ticket, stream_account
from query.http import HANDLERS
from query.node import NODE, QueryNode
from query.operation import ABOUT, OPERATIONS
from query.quick import NEAR, QuickRead
from query.reader import ANSWERS, WAITS
from query.replica import PRIMARY_READS
from query.settings import QuerySettings
from query.system import SYSTEM, SystemView, get_system
from service.admission import Rank
from service.credential import Credentials
from service.health import CHECKS, REGISTRY, WARNINGS, gauge, show_epoch
from service.openapi import add_operations
from service.place import Places
from service.process import run_process
from service.quick import QUICK
from service.serve import serve
from service.status import add_status
from service.ticket import TICKETS, Tickets
from service.web import CREDENTIALS, STREAMS, build_app
from shard_router.login import read_logins
from shard_router.topology import TopologyWatch

_COLLECTORS: Final[tuple[Collector, ...]] = (ANSWERS, WAITS, BATCH_KEYS, DAMAGED, NEAR, PRIMARY_READS)


def build(settings: QuerySettings) -> web.Application:
    """Wire a query node; it connects when the application starts. DocumentError when what it reads cannot be used."""
    app = build_app(settings, Credentials(settings.credentials), first=Rank.READ)
    node = QueryNode(settings, TopologyWatch(settings.topology, read_logins(settings.secrets, "reader", "query")))
    app[NODE], app[SYSTEM] = node, SystemView(node)
    app[STREAMS] = streams = Places(settings.streams_max, "streaming", member_max=settings.streams_per_member_max)
    app.cleanup_ctx.append(_running)
    app[TICKETS] = Tickets(app[CREDENTIALS], settings.region)
    more = {
        "stream_account": stream_account,
        "issue_stream_ticket": issue_stream_ticket,
        "evaluate_purchase": evaluate_purchase,
        "get_system": get_system,
    }
    add_operations(app, OPERATIONS, HANDLERS | more, about=ABOUT)
    app[QUICK] = QuickRead(app, takes_ms=settings.cache_deadline_ms)
    show_epoch(app, node.topology)
    add_status(app, node.facts)
    app[WARNINGS]["topology"] = lambda: node.topology.trouble
    app[CHECKS]["shards"] = lambda: _check_shards(node)
    for collector in _COLLECTORS:
        app[REGISTRY].register(collector)
    breakers = gauge(app, "loyalty_query_breakers_open", "Valkeys left alone because they did not answer.")
    breakers.set_function(lambda: sum(shard.cache.breaker.is_open for shard in node.own_shards()))
    gauge(app, "loyalty_query_streams", "Event streams open now.").set_function(lambda: streams.taken)
    return app


def main() -> None:
    """Run the node until SIGTERM."""
    run_process("query", __doc__, QuerySettings, _serve, loop=uvloop.run)


async def _serve(settings: QuerySettings) -> int:
    await serve(build(settings))
    return 0


async def _running(app: web.Application):  # noqa: ANN202 - aiohttp's cleanup context
    await app[NODE].start()
    yield
    await app[SYSTEM].close()
    await app[NODE].close()


async def _check_shards(node: QueryNode) -> str | None:
    """Say which shard of this region neither Valkey nor a server can answer for."""
    names = node.topology.current.shards_in(node.settings.region)
    able = await asyncio.gather(*(shard.able() for shard in node.own_shards()))
    unable = [name for name, is_able in zip(names, able, strict=True) if not is_able]
    return f"nothing answers for {', '.join(unable)}" if unable else None


if __name__ == "__main__":
    main()
