"""How a process serves an application: from listening until it is told to stop, and has finished what runs."""

import asyncio
import gc
import signal
from contextlib import suppress
from typing import Final

import structlog
from aiohttp import web

from service.connection import Runner, raise_file_limit
from service.health import DRAINING
from service.listener import Listener
from service.settings import SETTINGS

GC_ALLOCATIONS: Final = 20_000  # the default of 700 runs the collector several times per hundred requests
_BACKLOG: Final = 1024


async def serve(app: web.Application) -> None:
    """Run until SIGTERM or SIGINT: then fail /readyz, serve on for the grace period, finish what runs, and return."""
    settings = app[SETTINGS]
    raise_file_limit()
    # Cancelling a handler when its client hangs up could cancel a commit: never.
    runner = Runner(app, access_log=None, handler_cancellation=False, shutdown_timeout=settings.drain_s)
    await runner.setup()
    await Listener(runner, settings.host, settings.port, backlog=_BACKLOG).start()
    collect_seldom()
    structlog.get_logger().info("listening", host=settings.host, port=settings.port, region=settings.region)
    try:
        await stop_signal()
    finally:
        app[DRAINING].set()
        with suppress(TimeoutError):  # a second signal ends it
            await asyncio.wait_for(stop_signal(), settings.drain_grace_s)
        await runner.cleanup()


def collect_seldom() -> None:
    """Keep the collector from looking again at what lives now, and from looking so often at the rest.

    What lives when a process begins to serve lives as long as the process.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 100)


async def stop_signal() -> None:
    """Return at the first SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
