"""`python -m query --config F`: one query node of a region."""

import asyncio
from typing import Final

import uvloop
from aiohttp import web
from prometheus_client.registry import Collector

from query.cache import BATCH_KEYS
from query.evaluation import evaluate_purchase
from query.events import STREAMS, Streams
from query.http import HANDLERS
from query.node import NODE, QueryNode
from query.operation import ABOUT, OPERATIONS
from query.reader import ANSWERS, WAITS
from query.replica import PRIMARY_READS
from query.settings import QuerySettings
from service.credential import Credentials
from service.openapi import add_operations
from service.process import run_process
from service.web import CHECKS, REGISTRY, WARNINGS, build_app, gauge, serve
from shard_router.topology import TopologyWatch

_COLLECTORS: Final[tuple[Collector, ...]] = (ANSWERS, WAITS, BATCH_KEYS, PRIMARY_READS, STREAMS)


def build(settings: QuerySettings) -> web.Application:
    """Wire a query node; it connects when the application starts. DocumentError when what it reads cannot be used."""
    app = build_app(settings, Credentials(settings.credentials))
    node = QueryNode(settings, TopologyWatch(settings.topology))
    app[NODE] = node
    app.cleanup_ctx.append(_running)
    more = {"stream_account": Streams().stream_account, "evaluate_purchase": evaluate_purchase}
    add_operations(app, OPERATIONS, HANDLERS | more, about=ABOUT)
    app[WARNINGS]["topology"] = lambda: node.topology.trouble
    app[CHECKS]["shards"] = lambda: _check_shards(node)
    for collector in _COLLECTORS:
        app[REGISTRY].register(collector)
    breakers = gauge(app, "loyalty_query_breakers_open", "Valkeys left alone because they did not answer.")
    breakers.set_function(lambda: sum(shard.cache.breaker.is_open for shard in node.own_shards()))
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
    await app[NODE].close()


async def _check_shards(node: QueryNode) -> str | None:
    """Say which shard of this region neither Valkey nor a server can answer for."""
    names = node.topology.current.shards_in(node.settings.region)
    able = await asyncio.gather(*(shard.able() for shard in node.own_shards()))
    unable = [name for name, is_able in zip(names, able, strict=True) if not is_able]
    return f"nothing answers for {', '.join(unable)}" if unable else None


if __name__ == "__main__":
    main()
