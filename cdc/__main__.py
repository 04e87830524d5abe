"""The projector process: `python -m cdc --config F`. One shard, one source, one slot.

It lives as long as its stream: whatever ends the stream (a lost connection, a lost slot, another projector) ends the
process with status 1, and the supervisor starts a fresh one that looks at slot and mark anew. So does a topology that
moves the shard.
"""

import asyncio
from contextlib import suppress
from typing import Final

import structlog

from cdc.http import add_routes
from cdc.runtime import Runtime
from cdc.settings import CdcSettings
from service.credential import Credentials
from service.health import show_epoch
from service.process import run_process
from service.serve import serve
from service.web import build_app

CLOSE_TIMEOUT_S: Final = 5.0


def main() -> None:
    """Keep the views of one shard.

    Nothing is left to save at the end, which waits neither for the JVM nor for a source that hangs: what was applied
    is acknowledged, the rest comes again.
    """
    run_process("cdc", __doc__, CdcSettings, run, loop=asyncio.run)


async def run(settings: CdcSettings) -> int:
    """Stream and answer HTTP until SIGTERM (status 0), or until the stream ends by itself or has to move (1)."""
    runtime = Runtime(settings)
    app = build_app(settings, Credentials(settings.credentials))
    add_routes(app, runtime)
    show_epoch(app, runtime.topology)
    stream = asyncio.create_task(runtime.run())
    server = asyncio.create_task(serve(app))
    moved = asyncio.create_task(runtime.moved.wait())
    await asyncio.wait({stream, server, moved}, return_when=asyncio.FIRST_COMPLETED)
    if stream.done():
        structlog.get_logger().error("stream_ended", exc_info=stream.exception())
        server.cancel()
        await asyncio.wait({server}, timeout=CLOSE_TIMEOUT_S)
        return 1
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await runtime.stop()
            await asyncio.wait({stream})
    if server.done():
        server.result()  # raises what kept it from answering
    structlog.get_logger().info("stopped")
    return int(moved.done())


if __name__ == "__main__":
    main()
