"""Every kind of fault the campaign knows, by name; each is one function that does harm and returns.

What is frozen is thawed by the campaign when the fault's time is over; whatever else is broken the system repairs.
"""

import asyncio
import shutil
import signal
import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Final

import asyncpg
import psutil

from benchmarks import chaos_clock, chaos_disk
from benchmarks.chaos_clock import Fault
from benchmarks.chaos_network import ANSWERS_LOST, FAR, IN_BITS, SILENT, SLOW, between_servers, refused, weather
from benchmarks.chaos_view import projector_twice, slot_invalidated, valkey_of_yesterday
from benchmarks.chaos_world import STATEMENTS, World
from shard_router.server import SERVER_ERRORS

PAGE: Final = 8192
SHORT_S, LONG_S = 2.0, 5.0
SWITCHOVER_DEADLINE_S: Final = 60.0
READ_THROUGH_DEADLINE_S: Final = 180.0
PAIR: Final = 2
SOCKETS: Final = 200


def _killed(ending: str, by: signal.Signals = signal.SIGKILL) -> Fault:
    async def fault(world: World) -> None:
        world.processes()[world.named(ending)].send_signal(by)

    return fault


def _frozen(ending: str, seconds: float) -> Fault:
    async def fault(world: World) -> None:
        world.freeze(world.processes()[world.named(ending)])
        await asyncio.sleep(seconds)
        world.thaw()

    return fault


def _server_killed(*, standby: bool, tree: bool = False) -> Fault:
    async def fault(world: World) -> None:
        process = world.processes()[await world.server(standby=standby)]
        below = process.children(recursive=True) if tree else []
        for one in (process, *below):
            with suppress(psutil.Error):
                one.kill()

    return fault


def _server_frozen(*, standby: bool, tree: bool = False) -> Fault:
    async def fault(world: World) -> None:
        process = world.processes()[await world.server(standby=standby)]
        world.freeze(process, *(process.children(recursive=True) if tree else []))

    return fault


def _folder_lost(*, standby: bool) -> Fault:
    async def fault(world: World) -> None:
        folder = world.folder(await world.server(standby=standby))
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    return fault


def _control_file_corrupt(*, standby: bool) -> Fault:
    async def fault(world: World) -> None:
        name = await world.server(standby=standby)
        (world.folder(name) / "global" / "pg_control").write_bytes(b"\0" * PAGE)
        world.processes()[name].kill()

    return fault


def _backend(kind: str, *, standby: bool, by: signal.Signals) -> Fault:
    """Harm one child of a server: SIGKILL has the whole server start anew, SIGSTOP leaves it hanging."""

    async def fault(world: World) -> None:
        name = await world.server(standby=standby)
        async with world.session(world.port(name)) as server:
            rows = await server.fetch(STATEMENTS["backends"], kind)
        for row in rows[:1]:
            process = psutil.Process(row["pid"])
            if by == signal.SIGSTOP:
                world.freeze(process)
            else:
                process.send_signal(by)

    return fault


def _told(statement: str) -> Fault:
    async def fault(world: World) -> None:
        async with world.session(world.port(await world.server(standby=False))) as server:
            await server.fetch(STATEMENTS[statement])

    return fault


def _slot(statement: str) -> Fault:
    """Do something to the slot while the projector, frozen, does not hold it."""

    async def fault(world: World) -> None:
        projector = world.processes()[world.named("-cdc")]
        projector.suspend()
        async with world.session(world.port(await world.server(standby=False))) as server:
            await server.fetch(STATEMENTS["drop_slot"])
            await asyncio.sleep(SHORT_S / 4)
            await server.fetch(STATEMENTS[statement])
        projector.kill()

    return fault


async def _supervisor_killed(world: World) -> None:
    world.supervisor().kill()
    await asyncio.sleep(SHORT_S)
    await world.loyalty("up", "--detach", *world.up)


async def _folder_lost_unwatched(world: World) -> None:
    """Nobody sees it go: the next `up` finds nothing but standbys."""
    folder = world.folder(await world.server(standby=False))
    world.supervisor().kill()
    await asyncio.sleep(SHORT_S)
    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    await world.loyalty("up", "--detach", *world.up)


async def _supervisor_frozen(world: World) -> None:
    world.freeze(world.supervisor())
    await asyncio.sleep(LONG_S)
    world.thaw()


async def _tables_locked(world: World) -> None:
    async with world.session(world.port(await world.server(standby=False))) as server, server.transaction():
        await server.execute("LOCK TABLE account IN ACCESS EXCLUSIVE MODE")
        await asyncio.sleep(SHORT_S)


async def _connections_exhausted(world: World) -> None:
    port = world.port(await world.server(standby=False))
    async with AsyncExitStack() as stack:
        with suppress(asyncpg.PostgresError, OSError, TimeoutError):
            for _ in range(SOCKETS):
                await stack.enter_async_context(world.session(port))
        await asyncio.sleep(SHORT_S)


def _half_open(ending: str, said: bytes) -> Fault:
    async def fault(world: World) -> None:
        port = world.port(world.named(ending))
        open_ones: list[socket.socket] = []
        for _ in range(SOCKETS):
            one = socket.create_connection(("127.0.0.1", port), timeout=SHORT_S)
            one.sendall(said)
            open_ones.append(one)
        await asyncio.sleep(SHORT_S)
        for one in open_ones:
            one.close()

    return fault


def _page_corrupt(*, start: int, is_read: bool) -> Fault:
    """On a standby, from one of the page's bytes on; its checksum tells. Reads of it must fail and not be wrong.

    The only standby of a shard is given the time to be read through: until then nothing is left if the primary is lost.
    """
    spoilt = b"\x55" * (PAGE - start)

    async def fault(world: World) -> None:
        name = await world.server(standby=True)
        async with world.session(world.port(name)) as server:
            path = world.folder(name) / str(await server.fetchval(STATEMENTS["relation"]))
            with path.open("r+b") as file:
                file.seek(start)
                file.write(spoilt)
            if is_read:
                with suppress(asyncpg.DataCorruptedError):  # as it must be, unless the page is in memory
                    await server.fetch(STATEMENTS["read_through"])
        if sum("-postgres-" in one for one in world.processes()) == PAIR:
            async with asyncio.timeout(READ_THROUGH_DEADLINE_S):
                while path.exists() and path.read_bytes()[start:PAGE] == spoilt:  # noqa: ASYNC110 - it is copied anew
                    await asyncio.sleep(SHORT_S)

    return fault


async def _switched_over(world: World) -> None:
    """It is refused until the standby has a copy of the slots."""
    async with asyncio.timeout(SWITCHOVER_DEADLINE_S):
        while (await world.loyalty("switchover", world.named("-cdc").removesuffix("-cdc")))[0]:  # noqa: ASYNC110
            await asyncio.sleep(SHORT_S)


async def _restarted(world: World) -> None:
    await world.restart()


async def _rebuilt(world: World) -> None:
    await world.loyalty("rebuild")


async def _program_applied(world: World) -> None:
    await world.loyalty("program", "apply", str(Path(__file__).parent.parent / "rules" / "main_street.toml"))


def _both(first: Fault, second: Fault, apart_s: float = 0.0) -> Fault:
    async def fault(world: World) -> None:
        begun = asyncio.create_task(_quietly(first, world))
        await asyncio.sleep(apart_s)
        await _quietly(second, world)
        await begun

    return fault


async def _quietly(fault: Fault, world: World) -> None:
    with suppress(LookupError, psutil.Error, *SERVER_ERRORS):
        await fault(world)


FAULTS: Final[Mapping[str, Fault]] = {
    "command node killed": _killed("-command"),
    "command node drained": _killed("-command", signal.SIGTERM),
    "command node frozen": _frozen("-command", SHORT_S),
    "query node killed": _killed("-query"),
    "query node drained": _killed("-query", signal.SIGTERM),
    "query node frozen": _frozen("-query", SHORT_S),
    "projector killed": _killed("-cdc"),
    "projector frozen": _frozen("-cdc", LONG_S),
    "valkey killed": _killed("-valkey"),
    "valkey frozen": _frozen("-valkey", SHORT_S),
    "primary killed": _server_killed(standby=False),
    "primary and its backends killed": _server_killed(standby=False, tree=True),
    "primary frozen": _server_frozen(standby=False),
    "primary and its backends frozen": _server_frozen(standby=False, tree=True),
    "primary's folder lost": _folder_lost(standby=False),
    "primary's control file corrupt": _control_file_corrupt(standby=False),
    "a backend killed": _backend("client backend", standby=False, by=signal.SIGKILL),
    "checkpointer frozen": _backend("checkpointer", standby=False, by=signal.SIGSTOP),
    "walwriter killed": _backend("walwriter", standby=False, by=signal.SIGKILL),
    "walsender frozen": _backend("walsender", standby=False, by=signal.SIGSTOP),
    "standby killed": _server_killed(standby=True),
    "standby frozen": _server_frozen(standby=True),
    "standby and its processes frozen": _server_frozen(standby=True, tree=True),
    "standby's folder lost": _folder_lost(standby=True),
    "standby's control file corrupt": _control_file_corrupt(standby=True),
    "walreceiver killed": _backend("walreceiver", standby=True, by=signal.SIGKILL),
    "walreceiver frozen": _backend("walreceiver", standby=True, by=signal.SIGSTOP),
    "page corrupt on a standby": _page_corrupt(start=0, is_read=False),
    "half a page corrupt on a standby, and read": _page_corrupt(start=PAGE // 2, is_read=True),
    "connections of nodes cut": _told("cut_nodes"),
    "walsenders cut": _told("cut_walsenders"),
    "slot dropped": _slot("really_drop_slot"),
    "slot acknowledged too far": _slot("advance_slot"),
    "table locked": _tables_locked,
    "connections of the primary exhausted": _connections_exhausted,
    "half-open connections to the command node": _half_open("-command", b"POST /v1/purchases HTTP/1.1\r\nHost:"),
    "silent connections to Valkey": _half_open("-valkey", b"*3\r\n$"),
    "slot invalidated": slot_invalidated,
    "projector twice": projector_twice,
    "Valkey restored from an old dump": valkey_of_yesterday,
    "primary's disk slow": chaos_disk.slow(standby=False),
    "standby's disk slow": chaos_disk.slow(standby=True),
    "primary's disk takes nothing more": chaos_disk.full(standby=False),
    "standby's disk takes nothing more": chaos_disk.full(standby=True),
    "network to command nodes slow": weather("command", **SLOW),
    "network to query nodes slow": weather("query", **SLOW),
    "network in bits": weather("command", **IN_BITS),
    "network silent": weather("command", **SILENT),
    "answers of command nodes lost": weather("command", **ANSWERS_LOST),
    "answers of query nodes lost": weather("query", **ANSWERS_LOST),
    "connections to command nodes refused": refused("command"),
    "connections to query nodes refused": refused("query"),
    "network between servers slow": between_servers(**FAR),
    "network between servers silent": between_servers(**SILENT),
    "everything stopped and started": _restarted,
    "supervisor killed": _supervisor_killed,
    "supervisor frozen": _supervisor_frozen,
    "primary's folder lost while no supervisor runs": _folder_lost_unwatched,
    "switchover": _switched_over,
    "rebuild": _rebuilt,
    "program applied": _program_applied,
    "fault during a rebuild": _both(_rebuilt, _killed("-cdc"), 0.5),
    "fault during a program's apply": _both(_program_applied, _server_killed(standby=False), 0.3),
    "primary and standby frozen": _both(_server_frozen(standby=False), _server_frozen(standby=True)),
    "standby killed during a failover": _both(_server_frozen(standby=False), _server_killed(standby=True), SHORT_S),
    "primary and Valkey killed": _both(_server_killed(standby=False), _killed("-valkey")),
    "projector and command node killed": _both(_killed("-cdc"), _killed("-command")),
    "primary killed while answers are lost": _both(
        weather("command", **ANSWERS_LOST), _server_killed(standby=False), 1.0
    ),
    "Valkey killed while the standby is slow": _both(chaos_disk.slow(standby=True), _killed("-valkey"), 1.0),
    "clocks of nodes some seconds ahead": chaos_clock.stepped(chaos_clock.SOME_S),
    "clocks of nodes an hour ahead": chaos_clock.stepped(chaos_clock.HOUR_S),
    "clocks of nodes an hour behind": chaos_clock.stepped(-chaos_clock.HOUR_S),
    "primary killed while clocks of nodes are off": _both(
        chaos_clock.stepped(-chaos_clock.SOME_S), _server_killed(standby=False), SHORT_S
    ),
    "primary frozen while clocks of nodes are off": _both(
        chaos_clock.stepped(chaos_clock.SOME_S), _server_frozen(standby=False), SHORT_S
    ),
    "projector killed while clocks are an hour ahead": _both(
        chaos_clock.stepped(chaos_clock.HOUR_S), _killed("-cdc"), SHORT_S
    ),
    "primary's clock an hour ahead": chaos_clock.of_server(chaos_clock.HOUR_S, standby=False),
    "primary's clock an hour behind when it is lost": chaos_clock.of_server(
        -chaos_clock.HOUR_S, standby=False, then=_folder_lost(standby=False)
    ),
    "primary's clock some seconds ahead when it is switched over": chaos_clock.of_server(
        chaos_clock.SOME_S, standby=False, then=_switched_over
    ),
    "standby's clock some seconds ahead when it takes over": chaos_clock.of_server(
        chaos_clock.SOME_S, standby=True, then=_server_frozen(standby=False)
    ),
    "standby's clock some seconds behind when it takes over": chaos_clock.of_server(
        -chaos_clock.SOME_S, standby=True, then=_server_frozen(standby=False)
    ),
    "standby's clock an hour ahead when it takes over": chaos_clock.of_server(
        chaos_clock.HOUR_S, standby=True, then=_server_frozen(standby=False)
    ),
    "primary frozen during a rebuild": _both(_rebuilt, _server_frozen(standby=False), 0.5),
}

CLOCKS: Final = frozenset(name for name in FAULTS if "clock" in name)
"""Those that need libfaketime."""
SERVER_CLOCKS: Final = frozenset(name for name in CLOCKS if "'s clock" in name)
"""Those of them for which it is the servers that run under it, and not the nodes."""

SKIPPED: Final[Mapping[str, str]] = {
    "slow network between nodes and servers": "they speak without a proxy; frozen, cut and slow servers stand for it",
    "JVM paused": "the embedded system reads pgoutput; `projector frozen` is the same from outside",
    "a volume that is really full": "needs a mount; tests/integration/test_full_disk.py, test_guard.py fill one",
}
