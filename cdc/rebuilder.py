"""`python -m cdc.rebuilder`: one rebuild of the views of a shard, in a process of its own.

A projector starts it for a shard with many members (apart.py) and writes what to do to its standard input: an `Order`,
then the duty, and again whenever that changes, one JSON document a line. It says on its standard output how far it has
come (`Progress`). It writes under the epoch of that projector, so it can do no harm if it outlives it; and it ends with
it, because then its input does.
"""

import asyncio
import gc
import json
import os
import sys
from typing import Any, Final, NoReturn, TypedDict

from cdc.rebuild import INTERRUPTIONS, Rebuild, RebuildSettings
from cdc.sink import Session
from query.views import mark_key
from service.log import configure_logging
from shard_router.pool import ShardServers

REPORT_S: Final = 0.2
_SWITCH_S: Final = 0.0005  # with 5 ms the thread that writes waits longer for its turn than Valkey takes
_GC_ALLOCATIONS: Final = 50_000  # rows and views make no cycles
_CONNECTIONS_MAX: Final = 3  # to one server: it reads ahead while it looks at the primary
_STATEMENT_TIMEOUT_MS: Final = 60_000


class Order(TypedDict):
    """What to rebuild, and where; addresses come with their passwords."""

    shard: str
    servers: list[str]
    valkey: str
    epoch: str
    slot: str
    members_per_chunk: int
    log_level: str


class Progress(TypedDict):
    """How far it has come; the fields of RebuildState. `ended` is "" once it is done, and else says what ended it."""

    members_done: int
    members_total: int
    refill_s: float
    trouble: str
    lowered: int
    ended: str | None


async def main() -> None:
    """Do what the first line of the input says."""
    lines = await _input()
    order: Order = json.loads(await lines.readline())
    configure_logging(order["log_level"])
    servers = ShardServers(
        order["shard"], order["servers"], size_max=_CONNECTIONS_MAX, statement_timeout_ms=_STATEMENT_TIMEOUT_MS
    )
    rebuild = Rebuild(servers, RebuildSettings(order["slot"], order["members_per_chunk"]))
    rebuild.keep(json.loads(await lines.readline()))
    tasks = [asyncio.create_task(_follow(lines, rebuild)), asyncio.create_task(_report(rebuild))]
    ended = ""
    try:
        await rebuild.work(lambda: Session(order["valkey"], mark_key(order["shard"]), epoch=order["epoch"]))
    except INTERRUPTIONS as error:
        ended = f"{type(error).__name__}: {error}"
    for task in tasks:
        task.cancel()
    _say(rebuild, ended)
    _end(0)


async def _input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def _follow(lines: asyncio.StreamReader, rebuild: Rebuild) -> None:
    """Take each duty; the end of the input is the end of the projector."""
    while line := await lines.readline():
        rebuild.keep(json.loads(line))
    _end(1)


async def _report(rebuild: Rebuild) -> None:
    while True:
        _say(rebuild, None)
        await asyncio.sleep(REPORT_S)


def _say(rebuild: Rebuild, ended: str | None) -> None:
    state = rebuild.state
    told = Progress(
        members_done=state.members_done,
        members_total=state.members_total,
        refill_s=state.refill_s,
        trouble=state.trouble,
        lowered=state.lowered,
        ended=ended,
    )
    line: Any = json.dumps(told).encode() + b"\n"
    try:
        os.write(sys.stdout.fileno(), line)  # far below PIPE_BUF
    except OSError:
        _end(1)


def _end(status: int) -> NoReturn:
    os._exit(status)  # threads may still write; they do so under an epoch


if __name__ == "__main__":
    sys.setswitchinterval(_SWITCH_S)
    gc.freeze()
    gc.set_threshold(_GC_ALLOCATIONS)
    asyncio.run(main())
