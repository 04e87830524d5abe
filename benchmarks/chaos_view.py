"""Faults of the pipeline to the views: a second projector, a slot that is invalidated, a Valkey of yesterday."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from benchmarks.chaos_world import STATEMENTS, World

TWICE_S: Final = 4.0
PORTS_ON: Final = 1000
OLD_S: Final = 3.0
INACTIVE_S: Final = 1.5
KEYS_AT_ONCE: Final = 500
LOOK_S: Final = 0.05
LOOKS_MAX: Final = 100
MARK_FIELDS: Final = ("epoch", "run_id", "system", "watermark", "complete", "committed_at_us")


async def projector_twice(world: World) -> None:
    """A second projector of the same shard for a while: whoever began last writes, the other must end."""
    name = world.named("-cdc")
    first = world.processes()[name]
    words = first.cmdline()
    # Not that of the first: a fork's words may lie where its environment did (cluster/forkserver.py).
    env = {**world.environment(), **world.under, "PYTHONPATH": os.pathsep.join(sys.path)}
    with tempfile.TemporaryDirectory(dir=world.data) as folder:
        words[words.index("--config") + 1] = _settings_elsewhere(world.data / "nodes" / f"{name}.toml", Path(folder))
        out = subprocess.DEVNULL
        second = await asyncio.create_subprocess_exec(*words, env=env, stdout=out, stderr=out, cwd=first.cwd())
        try:
            await asyncio.sleep(TWICE_S)
        finally:
            with suppress(ProcessLookupError):
                second.kill()
            await second.wait()


def _settings_elsewhere(settings: Path, folder: Path) -> str:
    """The same settings with another port, in a file of its own."""
    text = settings.read_text(encoding="utf-8")
    port = tomllib.loads(text)["port"]
    copy = folder / settings.name
    copy.write_text(text.replace(f"port = {port}", f"port = {port + PORTS_ON}"), encoding="utf-8")
    folder.chmod(0o755)
    return str(copy)


async def slot_invalidated(world: World) -> None:
    """The server gives up the slot because nobody has read it for so long."""
    projector = world.processes()[world.named("-cdc")]
    projector.suspend()
    try:
        async with world.session(world.port(await world.server(standby=False))) as server:
            await server.execute(STATEMENTS["invalidate_idle_slots"])
            await server.execute(STATEMENTS["reload"])
            try:
                await server.fetch(STATEMENTS["drop_slot"])
                await asyncio.sleep(INACTIVE_S)
                await server.execute("CHECKPOINT")
                if not await server.fetchval(STATEMENTS["slot_invalidated"]):
                    raise LookupError("the slot was not invalidated")
            finally:
                await server.execute(STATEMENTS["keep_idle_slots"])
                await server.execute(STATEMENTS["reload"])
    finally:
        projector.send_signal(signal.SIGKILL)


async def valkey_of_yesterday(world: World) -> None:
    """Valkey dies, and comes back with what it held some seconds before, mark and all."""
    name = world.named("-valkey")
    process = world.processes()[name]
    folder = Path(process.cwd())  # where it looks for its file
    password = (world.data / "secrets" / "valkey_projector").read_text(encoding="utf-8").strip()
    async with Redis(port=world.port(name), username="projector", password=password, socket_timeout=5) as live:
        dump = await _dump(live, process.exe(), world.data)
    await asyncio.sleep(OLD_S)
    target = folder / "dump.rdb"
    await asyncio.to_thread(_put, target, dump)
    process.kill()
    await asyncio.sleep(OLD_S)
    await asyncio.to_thread(target.unlink, missing_ok=True)


def _put(target: Path, dump: bytes) -> None:
    """A file that the server of its folder may read."""
    owner = target.parent.stat()
    target.write_bytes(dump)
    os.chown(target, owner.st_uid, owner.st_gid)


async def _dump(live: Any, program: str, data: Path) -> bytes:
    """What a Valkey holds as a file that another reads at its start."""
    with tempfile.TemporaryDirectory(dir=data) as folder:
        socket = f"{folder}/socket"
        options = ["--port", "0", "--unixsocket", socket, "--dir", folder, "--save", "", "--appendonly", "no"]
        out = subprocess.DEVNULL
        scratch = await asyncio.create_subprocess_exec(program, *options, stdout=out, stderr=out)
        try:
            async with Redis(unix_socket_path=socket, socket_timeout=5) as copy:
                for _ in range(LOOKS_MAX):
                    with suppress(RedisError, OSError):
                        await copy.ping()
                        break
                    await asyncio.sleep(LOOK_S)
                await _copy(live, copy)
                await copy.save()
            return await asyncio.to_thread((Path(folder) / "dump.rdb").read_bytes)
        finally:
            scratch.kill()
            await scratch.wait()


async def _copy(live: Any, copy: Any) -> None:
    """By the few commands that a projector may give: strings, the lists of entries, and the mark."""
    async for key in live.scan_iter(count=KEYS_AT_ONCE):
        if key.startswith(b"e:"):
            entries = await live.zrange(key, 0, -1, withscores=True)
            if entries:
                await copy.zadd(key, dict(entries))
        elif key.startswith(b"projector:"):
            values = await live.hmget(key, MARK_FIELDS)
            told = {name: value for name, value in zip(MARK_FIELDS, values, strict=True) if value is not None}
            await copy.hset(key, mapping=told)
        elif (value := await live.get(key)) is not None:
            await copy.set(key, value)
